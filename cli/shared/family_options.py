"""Options for what a published checkpoint does not say itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from tbps_infer.cli.shared.options import EXISTING, combined

__all__ = ["family_options"]


def _load(
    family: str | None,
    key: str | None,
    merges: Path | None,
    vocab: Path | None,
    config: Path | None,
    image_size: str | None,
    drop: tuple[str, ...],
) -> Any:
    from tbps_infer.families.options import LoadOptions

    if merges and vocab:
        raise click.UsageError("--merges and --vocab exclude each other: a model has one tokenizer.")
    return LoadOptions(
        family=family, key=key, config=config, image_size=_size(image_size), tokenizer=merges or vocab, drop=drop
    )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise click.UsageError(f"--image-size is {text}, want HEIGHTxWIDTH, such as 384x128.")
    return int(found[1]), int(found[2])


family_options = combined(
    "load",
    _load,
    click.option("--family", help="Model family: part, irra, rde, tbps-clip or plip.", show_default="recognised"),
    click.option(
        "--key",
        metavar="NAME",
        help="Set of weights to read, where the file holds several: a state dict's name, or a prefix of names.",
    ),
    click.option(
        "--merges", type=EXISTING, help="CLIP merges file.", show_default="the one in the checkpoint's folder"
    ),
    click.option("--vocab", type=EXISTING, help="BERT vocab.txt.", show_default="the one in the checkpoint's folder"),
    click.option(
        "--config",
        type=EXISTING,
        help="configs.yaml of the training.",
        show_default="the one in the checkpoint's folder",
    ),
    click.option(
        "--image-size", metavar="HEIGHTxWIDTH", help="Input size of the model.", show_default="from the checkpoint"
    ),
    click.option(
        "--drop",
        multiple=True,
        metavar="NAME",
        help="Ignore tensors that only training needs: a name, or a prefix that ends with a dot. Repeatable.",
    ),
)
"""``--family`` and the files that a published checkpoint may need; passes ``load``, `LoadOptions`."""
