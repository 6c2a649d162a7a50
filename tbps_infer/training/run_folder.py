"""A training run's folder: whose run it is, how far it has come, and its log; read without torch.

::

    RUN/
      run.json        options, data set, model configuration
      log.csv         one row per epoch: losses, learning rates, validation metrics
      state.ckpt      everything the next epoch needs
      best/           the checkpoint with the best validation Rank-1 so far
      last/           the checkpoint after the last epoch, written at the end
      tensorboard/    the log once more, where TensorBoard's was asked for

Each file is replaced whole or not at all.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tbps_infer.atomic import is_vacant, new_file, remove_leftovers, write_text
from tbps_infer.errors import TbpsError, UsageError
from tbps_infer.formats.json_files import read_json

__all__ = [
    "BEST",
    "CACHE",
    "LAST",
    "STATE",
    "TrainingError",
    "claim_run",
    "describe_run",
    "is_run",
    "read_run",
    "write_log",
]

STATE = "state.ckpt"
RUN_JSON = "run.json"
LOG_CSV = "log.csv"
CACHE = "cache"
BEST = "best"
LAST = "last"

_NAMED = 5
"""Differences that an error names; another model differs in many."""


class TrainingError(TbpsError):
    """Raised when training cannot go on: a loss that is not finite, or a run folder of other options."""


def is_run(path: Path) -> bool:
    """Whether a path is a training run's folder, judged by its ``run.json`` being there."""
    return (path / RUN_JSON).is_file()


def read_run(run: Path) -> dict[str, Any]:
    """What the run was asked to do, as `claim_run` wrote it; raises TrainingError when it cannot be read."""
    file = run / RUN_JSON
    try:
        return dict(read_json(file))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} cannot be read: {error}.", "Give another -o for a new run.") from error


def claim_run(run: Path, facts: Mapping[str, Any]) -> None:
    """Write what the run is, or check that the folder's run is the same one; remove what a kill left of writing.

    A run with more epochs than the folder's is the same run, extended: no learning rate depends on how many there
    are. A run that has no epoch behind it is replaced: it may have been refused for its options.

    Args:
        run: The run's folder.
        facts: What the run is asked to do, as JSON values; its options are in ``options``.

    Raises:
        TrainingError: The folder holds a run of other facts, or of more epochs.
        UsageError: The folder holds something else.
    """
    for folder in (run, run / CACHE):
        remove_leftovers(folder)
    if is_run(run):
        earlier = read_run(run)
        if earlier == facts:
            return
        if any((run / name).exists() for name in (STATE, LOG_CSV, BEST, LAST)):
            _refuse_others(run, earlier, facts)
    elif not is_vacant(run):
        raise UsageError(f"{run} is not empty and holds no training run.", "Give a new folder.")
    write_text(run / RUN_JSON, json.dumps(facts, indent=2, allow_nan=False) + "\n", TrainingError, parents=True)


def write_log(run: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write ``log.csv`` anew, a row for each entry with its ``epoch``, ``seconds`` and ``values``."""
    rows = [{"epoch": e["epoch"], "seconds": round(e["seconds"], 2), **e["values"]} for e in history]
    with (
        new_file(run / LOG_CSV, TrainingError) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as out,
    ):
        writer = csv.DictWriter(out, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def describe_run(run: Path) -> dict[str, Any]:
    """What a run is, how far it has come and how good it is, as JSON values.

    Raises:
        TrainingError: ``run.json`` or ``log.csv`` cannot be read.
    """
    facts = read_run(run)
    try:
        rows = _read_log(run / LOG_CSV)
        asked = int(facts["options"]["epochs"])
        best = max(rows, key=lambda row: row["val_R@1"], default=None)
        return {
            "epochs": {"done": len(rows), "asked": asked, "finished": len(rows) >= asked},
            "best": {} if best is None else {"epoch": int(best["epoch"]), **_validation(best)},
            "last": {} if not rows else {"epoch": int(rows[-1]["epoch"]), **_validation(rows[-1])},
            "checkpoints": [name for name in (BEST, LAST) if (run / name).is_dir()],
            **{name: value for name, value in facts.items() if name != "model"},
        }
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise TrainingError(f"The run in {run} cannot be read: {error!r}.", "Train it again.") from error


def _read_log(file: Path) -> list[dict[str, float]]:
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def _validation(row: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("val_"): round(value, 2) for name, value in row.items() if name.startswith("val_")}


def _refuse_others(run: Path, earlier: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raise TrainingError where anything differs but the epochs, or those are fewer."""
    different = list(_differences(earlier, facts))
    there, asked = (values.get("options", {}).get("epochs", 0) for values in (earlier, facts))
    if asked > there:
        different = [each for each in different if each[0] != "options.epochs"]
    if different:
        groups = dict.fromkeys(name.split(".")[0] for name, _, _ in different)
        named = [f"{name.removeprefix('options.')} is {old} there, not {new}" for name, old, new in different]
        rest = f", and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        raise TrainingError(
            f"{run} holds a run whose {', '.join(groups)} differ from what was asked for: "
            f"{', '.join(named[:_NAMED])}{rest}.",
            "Give another -o for a new run, or the same options to carry on; --epochs alone may be greater.",
        )


def _differences(earlier: Any, wanted: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted names of values that differ, with both."""
    if isinstance(earlier, Mapping) and isinstance(wanted, Mapping):
        for key in dict.fromkeys((*earlier, *wanted)):
            yield from _differences(earlier.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif earlier != wanted:
        yield name, earlier, wanted
