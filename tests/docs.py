"""Writes the pages that are made from the program and the model: `python -m tests.docs`. A test compares them."""

from __future__ import annotations

import argparse
import inspect
import io
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from edge import asyncapi, cli, errors
from edge.config.sections import tables
from edge.config.values import Section
from edge.contract import Manifest
from edge.contract import errors as contract_errors
from edge.contract.errors import UserError
from edge.contract.manifest import read_manifest
from edge.metrics import HealthCollector
from tests.edge.test_metrics import health
from trainer import cli as trainer_cli
from trainer import config as trainer_config
from trainer import errors as trainer_errors
from trainer.calibration import Calibration, RiskPoint
from trainer.card import model_card
from trainer.config import FitConfig
from trainer.evaluate import Evaluation, ModelResult
from trainer.metrics import Classification, Comparison
from trainer.recipes import RECIPES
from trainer.robustness import Robustness

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"
MODELS = README.parent / "models"

_NOTICE = "<!-- Made by `make docs` from the program itself; a test fails when the two differ. -->"

_CONFIGURATION = """\
# Configuration

`edge run` and `edge check` read one TOML file, `/etc/emotion-edge/config.toml` unless `--config` names another. The
least that is needed is a camera:

```toml
[[camera]]
name = "door"
source = 0
```

[deploy/config.toml](../deploy/config.toml) is a file to begin with, and `edge check` tries what it says, part by part.
`edge doctor` checks the device too, and every step on the way to the broker.
Mistakes are told all at once, each with its line:

    config.toml:4: mqtt.prot: unknown key. Perhaps you meant mqtt.port.
    config.toml:9: camera[0].fps: must be a number, not 'fast'.

Paths that are not absolute count from the file's folder.

## Environment

A variable overrides a key. Its name is `EDGE_`, the table, two underscores, the key; cameras are counted from 0:

    EDGE_MQTT__HOST=broker.lan EDGE_CAMERA__0__SOURCE=/dev/video2 edge run

What systemd sets is heeded too: `STATE_DIRECTORY` takes the place of `device.state_dir`, and in `CREDENTIALS_DIRECTORY`
the files `mqtt_password` and `mqtt_key` are used where the configuration names none. `edge check` and `edge doctor`
find those of the running service by themselves.

## Secrets

Passwords and private keys stand in files of their own, never in this one, in a variable or on a command line, and never
appear in logs. A camera's address may hold a password (`rtsp://user:password@camera/`): keep the file readable for
root and the agent's user alone, as the installer does. Wherever the address is shown, the password is masked, and so is
the query, in which some cameras take theirs.

A camera that is reached by `https` or `rtsps` is not asked for a certificate, so that whoever can pass for it on its
network gets the password that stands in its address. Keep cameras in a network of their own.

A password goes over an unencrypted connection only to this host itself, unless `allow_plaintext_password` is set.
"""

_CLI = """\
# Command line

The log goes to standard error, without times and with priorities where that leads to the journal. What a command finds
goes to standard output.
"""

_CLASSIFY_JSON = """\
The keys of `edge classify --format json`, one object a face and line, in the order of the files and frames:

| key | meaning |
|---|---|
| `path` | the file, as it was given or found |
| `frame` | number of the frame, counted from 0; 0 for a photo |
| `time_s` | the frame's position in the video, in seconds |
| `box` | left, top, right, bottom of the face in pixels of the frame |
| `emotion` | the likeliest of the seven, or `unknown` where the model is too uncertain |
| `confidence` | probability of the likeliest, 0 to 1 |
| `probs` | probability of each emotion, 0 to 1 |
| `quality` | how far the picture of the face can be trusted, 0 to 1 |
"""

_TRAINING = """\
# Configuration of a training run

`trainer fit --config FILE` and `trainer tune --config FILE` read a JSON object with these keys. Only `stages` is
required; all other keys have defaults:

```json
{"stages": [[48, 95]], "batch_size": 256, "peak_lr": 0.15}
```

`best.json` of `trainer tune` is such a file, and so is `config.json` of a run, which has the keys under `fit`.
Unknown keys and invalid values are errors.

- `--labels`, `--teacher`, `--initial-weights`, `--epochs` and `--seed` take precedence over the file. `--epochs`
  stretches or shortens all stages and the warm-up alike.
- `bfloat16` of the file is ignored: `--bfloat16` or `--no-bfloat16` applies, or by default what the CPU or GPU
  supports.
- The second head, which is trained on the FER+ votes, requires `--votes` and a `votes_weight` above 0. There is none
  without `--votes`, nor with the labels `ferplus`, with which the main head is trained on the votes.
- `--initial-weights` raises `width` and `top_channels` to those of the run; its `blocks` and `mirror` must be equal to
  those of the file.
"""

_RECIPES = """\
## Recipes

`--recipe NAME` selects one of these instead of a file. Times are for two cores with AVX512-BF16.
"""

_USES = {
    "default": "default of `trainer fit`; about an hour",
    "teacher": "a network of twice the width, as a teacher for knowledge distillation; about an hour",
    "refine": "fine-tuning of a finished run, with `--initial-weights`; about 50 minutes at width 1",
    "trial": "default of `trainer tune` for each trial; five minutes",
    "quick": "to try the whole workflow; a few minutes",
}
"""Purpose of each recipe."""

_METRICS = """\
# Metrics

With `port` in [`[metrics]`](configuration.md#metrics), Prometheus finds the [health report](schema/health.json) on
`http://<host>:<port>/metrics`. Faces and emotions are not there: they are on MQTT only.
"""

_METRICS_NOTES = """\
Counts begin anew with each start of the agent. Of a camera's statuses, only the one that holds is there. Temperature
and throttling are left out where the machine does not tell them, and the level where adaptation is switched off.

An alert for a camera that has been away for five minutes; a device that is away altogether has `up == 0`:

```yaml
groups:
  - name: emotion-edge
    rules:
      - alert: CameraOffline
        expr: emotion_edge_camera_status{status="offline"} == 1
        for: 5m
        annotations:
          summary: "Camera {{ $labels.camera }} of {{ $labels.instance }} is offline"
```
"""


def configuration_page() -> str:
    """`configuration.md`: what stands above, and every key."""
    return "\n".join([_NOTICE, "", _CONFIGURATION, *(line for item in tables().items() for line in _table(*item))])


def _table(name: str, table: type[Section]) -> Iterator[str]:
    yield f"## `[[{name}]]`" if name == "camera" else f"## `[{name}]`"
    yield ""
    yield (table.__doc__ or "").strip()
    yield ""
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    properties = table.model_json_schema()["properties"]
    for key, field in table.model_fields.items():
        yield f"| `{key}` | {_value(properties[key])} | {_default(field)} | {field.description} |"
    yield ""


def _value(schema: dict[str, Any]) -> str:
    """What a key may be given, from its JSON schema."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    (kind,) = kinds
    if "enum" in kind:
        return ", ".join(f'`"{choice}"`' for choice in kind["enum"])
    if kind["type"] == "array":
        return f"list of {_value(kind['items'])}s"
    names = {"boolean": "`true` or `false`", "integer": "whole number", "number": "number", "string": "text"}
    name = "path" if kind.get("format") == "path" else names[kind["type"]]
    return " ".join([name, *_limits(kind)])


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    if "minimum" in schema and "maximum" in schema:
        yield f"from {_number(schema['minimum'])} to {_number(schema['maximum'])}"
        return
    words = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "up to"}
    limits = [f"{word} {_number(schema[key])}" for key, word in words.items() if key in schema]
    if limits:
        yield ", ".join(limits)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _default(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "shown_default" in extra:
        return str(extra["shown_default"])
    if field.is_required():
        return "**must be given**"
    match field.default:
        case None | ():
            return ""
        case bool() as default:
            return f"`{str(default).lower()}`"
        case int() | float() as default:
            return f"`{_number(default)}`"
        case default:
            return f'`"{default}"`'


def cli_page() -> str:
    """`cli.md`: the help of every command of both programs, and every exit code."""
    lines = [_NOTICE, "", _CLI]
    for command in (*_commands(cli.parser()), *_commands(trainer_cli.parser())):
        lines += [f"## `{command.prog}`", "", "```", _help(command), "```", ""]
        if command.prog == "edge classify":
            lines += [_CLASSIFY_JSON]
    return "\n".join([*lines, "## Exit codes", "", "| code | meaning |", "|---|---|", *_exit_codes(), ""])


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its commands, theirs included."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _commands(command)


def _help(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=110, max_help_position=32)
    text = io.StringIO()
    parser.print_help(text)
    return text.getvalue().rstrip()


def _exit_codes() -> Iterator[str]:
    codes = {0: "All is well.", 1: "Any other error that a user can put right.", 2: "The command line is wrong."}
    for error in _with_exit_code(UserError):
        codes[error.exit_code] = (error.__doc__ or "").split(";")[0].rstrip(".") + "."
    codes[cli.INTERRUPTED] = "It was interrupted with Ctrl-C."
    codes[cli.PIPE_CLOSED] = "Whoever read its output stopped reading."
    return (f"| {code} | {meaning} |" for code, meaning in sorted(codes.items()))


def _with_exit_code(error: type[UserError]) -> Iterator[type[UserError]]:
    """The errors of both programs that bring an exit code of their own."""
    homes = {module.__name__ for module in (contract_errors, errors, trainer_errors)}
    for kind in error.__subclasses__():
        if "exit_code" in vars(kind) and kind.__module__ in homes:
            yield kind
        yield from _with_exit_code(kind)


def training_page() -> str:
    """`training.md`: every key of a training run, and the recipes."""
    keys = ["| key | value | default | meaning |", "|---|---|---|---|", *_fit_keys()]
    recipes = ["| recipe | purpose | differences from `default` |", "|---|---|---|", *map(_recipe, RECIPES)]
    return "\n".join([_NOTICE, "", _TRAINING, *keys, "", _RECIPES, *recipes, ""])


def _fit_keys() -> Iterator[str]:
    meanings = _attributes(FitConfig)
    for key, default in FitConfig().to_dict().items():
        _, allowed = trainer_config._ALLOWED[key]
        value = allowed.removesuffix(f" to {trainer_config._NO_LIMIT}")  # not a real limit
        yield f"| `{key}` | {value} | `{json.dumps(default)}` | {meanings[key]} |"


def _attributes(kind: type) -> dict[str, str]:
    """What the docstring of a class says of each attribute, in JSON's words."""
    _, _, attributes = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(meaning.split()).replace("None", "`null`") for name, meaning in entries}


def _recipe(name: str) -> str:
    usual = FitConfig().to_dict()
    changes = {key: value for key, value in RECIPES[name].to_dict().items() if value != usual[key]}
    shown = ", ".join(f"`{json.dumps(key)}: {json.dumps(value)}`" for key, value in changes.items())
    return f"| `{name}` | {_USES[name]} | {shown} |"


def metrics_page() -> str:
    """`metrics.md`: every metric, of a device that has them all."""
    rows = []
    for family in HealthCollector(health).collect():
        sample = family.samples[0]
        labels = ", ".join(f"`{label}`" for label in sample.labels)
        rows.append(f"| `{sample.name}` | {family.type} | {labels} | {family.documentation} |")
    header = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    return "\n".join([_NOTICE, "", _METRICS, *header, *rows, "", _METRICS_NOTES])


def manifest_schema() -> str:
    """`schema/manifest.json`: what a bundle's manifest must be."""
    return json.dumps(Manifest.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def readme() -> str:
    """`README.md` with the figures of the committed models, which stand between two marks."""
    before, _, rest = README.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- /figures -->")
    return f"{before}<!-- figures -->\n{_figures()}\n{end}{after}"


def _figures() -> str:
    names = {"validation": "PublicTest, which chose the weights", "test": "**PrivateTest**, reported"}
    rows = []
    for model, labels in (("ferplus", "the crowd's eight, strict majority"), ("default", "FER-2013's own seven")):
        manifest = read_manifest(MODELS / model)
        report = json.loads((MODELS / model / "report.json").read_text())
        size_kb = round(manifest.files[manifest.model].size / 1000)
        for one in manifest.metrics:
            low, high = one.interval_95
            accuracy = f"{one.accuracy:.1%} ({low:.1%} to {high:.1%})"
            clean = report[one.split]["models"]["int8"]["without_leaked"]["accuracy"]["value"]
            rows.append(
                f"| [`models/{model}`](models/{model}/MODEL_CARD.md), {size_kb} kB | {labels} | {names[one.split]} "
                f"| {one.images} | {accuracy} | {clean:.1%} | {one.macro_f1:.3f} | {one.calibration_error:.3f} |"
            )
    header = [
        "| int8 bundle | labels | split | images | accuracy (95 % interval) | clean | macro F1 | calibration error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*header, *rows])


def card(model: str) -> str:
    """`MODEL_CARD.md` of a committed model, as `trainer export` wrote it from what it had measured."""
    return model_card(read_manifest(MODELS / model), evaluations(model))


def evaluations(model: str) -> dict[str, Evaluation]:
    """What `report.json` of a committed model says, by split."""
    report = json.loads((MODELS / model / "report.json").read_text())
    return {split: _evaluation(measured) for split, measured in report.items()}


def _evaluation(measured: dict[str, Any]) -> Evaluation:
    """The inverse of `Evaluation.to_dict`, without the probabilities, which are not in it."""
    return Evaluation(
        labels=tuple(measured["labels"]),
        images=measured["images"],
        leaked=measured["leaked"],
        models={
            name: ModelResult(
                classification=TypeAdapter(Classification).validate_python(model),
                without_leaked=TypeAdapter(Classification | None).validate_python(model["without_leaked"]),
                calibration=TypeAdapter(Calibration).validate_python(model["calibration"]),
                risk_coverage=TypeAdapter(tuple[RiskPoint, ...]).validate_python(model["risk_coverage"]),
                robustness=TypeAdapter(Robustness | None).validate_python(model["robustness"]),
                probabilities=np.empty((0, len(measured["labels"])), np.float32),
            )
            for name, model in measured["models"].items()
        },
        comparisons=TypeAdapter(tuple[Comparison, ...]).validate_python(measured["comparisons"]),
    )


PAGES: dict[Path, Callable[[], str]] = {
    README: readme,
    DOCS / "configuration.md": configuration_page,
    DOCS / "cli.md": cli_page,
    DOCS / "training.md": training_page,
    DOCS / "metrics.md": metrics_page,
    DOCS / "schema" / "manifest.json": manifest_schema,
    **{MODELS / model / "MODEL_CARD.md": partial(card, model) for model in ("default", "ferplus")},
}
"""Each page, and what makes it."""


def main() -> None:
    """Writes all pages."""
    for path, make in PAGES.items():
        path.write_text(make(), encoding="utf-8")
    asyncapi.write(DOCS)


if __name__ == "__main__":
    main()
