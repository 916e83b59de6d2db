"""`trainer data check`: audits a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.audit import Audit, audit
from trainer.commands.output import require_writable, show, show_json, to_json, write
from trainer.data import Dataset, load_dataset
from trainer.plots import class_balance, contact_sheet
from trainer.text import audit_text


def run(arguments: argparse.Namespace) -> int:
    """Prints the audit. Returns 0 whatever its findings; only an unreadable data set is an error."""
    if arguments.report:
        require_writable(arguments.report)
    dataset = load_dataset(arguments.data, arguments.votes)
    findings = audit(dataset)
    try:
        if arguments.format == "json":
            show_json(findings.to_dict())
        else:
            show(audit_text(findings))
    finally:  # write the report even if standard output is closed
        if arguments.report:
            _write_report(arguments.report, dataset, findings)
    return 0


def _write_report(folder: Path, dataset: Dataset, findings: Audit) -> None:
    write(folder / "audit.json", to_json(findings.to_dict()))
    class_balance(findings.counts).savefig(folder / "class_balance.png", dpi=120)
    contact_sheet(dataset, findings).savefig(folder / "contact_sheet.png", dpi=100)
