"""`trainer data check`: what is in a data set and what is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.audit import Audit, audit
from trainer.commands.output import require_writable, show, show_json, to_json, write
from trainer.data import Dataset, load_dataset
from trainer.plots import class_balance, contact_sheet
from trainer.text import audit_text


def run(arguments: argparse.Namespace) -> int:
    """Prints the findings. Returns 0 whatever they are: a data set is unusable only where it cannot be read."""
    if arguments.report:
        require_writable(arguments.report)
    dataset = load_dataset(arguments.data, arguments.votes)
    findings = audit(dataset)
    try:
        if arguments.format == "json":
            show_json(findings.to_dict())
        else:
            show(audit_text(findings))
    finally:  # a reader who has seen enough takes no file away, and a full disk nothing that is read
        if arguments.report:
            _write_report(arguments.report, dataset, findings)
    return 0


def _write_report(folder: Path, dataset: Dataset, findings: Audit) -> None:
    write(folder / "audit.json", to_json(findings.to_dict()))
    class_balance(findings.counts).savefig(folder / "class_balance.png", dpi=120)
    contact_sheet(dataset, findings).savefig(folder / "contact_sheet.png", dpi=100)
