"""Options for what a published checkpoint does not say itself."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tbps_infer.cli.shared.options import EXISTING
from tbps_infer.cli.shared.parameter_types import Finite

__all__ = ["family_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_BESIDE = "the one in the checkpoint's folder"
_OPTIONS = {
    "family": click.option(
        "--family",
        help="Model family: part, irra, rde and others (docs/families.md), or MODULE:NAME of your own.",
        show_default="recognised",
    ),
    "key": click.option(
        "--key",
        metavar="NAME",
        help="Set of weights to read, where the file holds several: a state dict's name, or a prefix of names.",
    ),
    "merges": click.option("--merges", type=EXISTING, help="CLIP merges file.", show_default=_BESIDE),
    "vocab": click.option("--vocab", type=EXISTING, help="BERT vocab.txt.", show_default=_BESIDE),
    "tokenizer": click.option(
        "--tokenizer", type=EXISTING, help="Any tokenizer.json, or a folder with one.", show_default=_BESIDE
    ),
    "config": click.option("--config", type=EXISTING, help="configs.yaml of the training.", show_default=_BESIDE),
    "image_size": click.option(
        "--image-size", metavar="HEIGHTxWIDTH", help="Input size of the model.", show_default="from the checkpoint"
    ),
    "stride": click.option(
        "--stride", type=click.IntRange(1), help="IRRA's layout: pixels from patch to patch.", show_default="16"
    ),
    "max_length": click.option(
        "--max-length", type=click.IntRange(3), help="Tokens per caption.", show_default="all positions"
    ),
    "select_ratio": click.option(
        "--select-ratio",
        type=Finite(0, 1, min_open=True),
        help="RDE and ITSELF: share of tokens chosen.",
        show_default="0.3 and 0.4",
    ),
    "global_weight": click.option(
        "--global-weight",
        type=Finite(0, 1, min_open=True, max_open=True),
        help="ITSELF: share of the global cosine.",
        show_default="0.5",
    ),
    "activation": click.option(
        "--activation",
        type=click.Choice(("gelu", "quick_gelu")),
        help="CLIP: activation of its MLPs; OpenAI's is quick_gelu.",
        show_default="from the checkpoint",
    ),
    "drop": click.option(
        "--drop",
        multiple=True,
        metavar="NAME",
        help="Ignore tensors that only training needs: a name, or a prefix that ends with a dot. Repeatable.",
    ),
}


def family_options(command: Command) -> Command:
    """``--family`` and what a published checkpoint may need besides; passes ``load``, `LoadOptions`."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return command(*args, load=_load(**{name: kwargs.pop(name) for name in _OPTIONS}), **kwargs)

    for option in reversed(_OPTIONS.values()):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def _load(image_size: str | None, **given: Any) -> Any:
    from tbps_infer.families.options import LoadOptions

    if ":" in (given["family"] or ""):
        sys.path.append(str(Path.cwd()))  # behind all installed packages, so that none is replaced
    files = [f"--{name}" for name in ("merges", "vocab", "tokenizer") if given[name]]
    if len(files) > 1:
        raise click.UsageError(f"{' and '.join(files)} exclude each other: a model has one tokenizer.")
    return LoadOptions(image_size=_size(image_size), **given)


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise click.UsageError(f"--image-size is {text}, want HEIGHTxWIDTH, such as 384x128.")
    return int(found[1]), int(found[2])
