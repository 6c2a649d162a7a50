"""Options that say what a published checkpoint does not say itself."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tbps_infer.cli.shared.options import EXISTING

__all__ = ["family_options"]

Command = TypeVar("Command", bound=Callable[..., Any])


def family_options(command: Command) -> Command:
    """``--family`` and the files that a published checkpoint may need; passes ``load``, a `LoadOptions`."""

    @click.option("--family", help="part, irra, rde, tbps-clip or plip.  [default: recognised]")
    @click.option("--merges", type=EXISTING, help="CLIP's merges file, where none lies beside the checkpoint.")
    @click.option("--vocab", type=EXISTING, help="BERT's vocab.txt, where none lies beside the checkpoint.")
    @click.option("--config", type=EXISTING, help="The checkpoint's configs.yaml, where it does not lie beside it.")
    @click.option(
        "--image-size", metavar="HEIGHTxWIDTH", help="Crops that the checkpoint was trained on, where no file tells."
    )
    @click.option(
        "--drop",
        multiple=True,
        metavar="NAME",
        help="Leave out tensors that only training used: a name, or a beginning with a dot; may be repeated.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        family: str | None,
        merges: Path | None,
        vocab: Path | None,
        config: Path | None,
        image_size: str | None,
        drop: tuple[str, ...],
        **kwargs: Any,
    ) -> Any:
        from tbps_infer.families.options import LoadOptions

        if merges and vocab:
            raise click.UsageError("--merges and --vocab contradict each other: a model has one tokenizer.")
        load = LoadOptions(
            family=family, config=config, image_size=_size(image_size), tokenizer=merges or vocab, drop=drop
        )
        return command(*args, load=load, **kwargs)

    return wrapped  # type: ignore[return-value]


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise click.UsageError(f"--image-size is {text}, want HEIGHTxWIDTH, as in 384x128.")
    return int(found[1]), int(found[2])
