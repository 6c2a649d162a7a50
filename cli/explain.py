"""`tbps explain`: what the model looks at."""

from __future__ import annotations

from pathlib import Path

import click

from tbps_infer.cli.options import EXISTING, output_option, verbosity_options
from tbps_infer.cli.progress import say

__all__ = ["explain"]


@click.command()
@click.argument("checkpoint", type=EXISTING)
@click.argument("image", type=EXISTING)
@click.argument("sentence")
@output_option("The figure, a PNG.")
@verbosity_options
def explain(checkpoint: Path, image: Path, sentence: str, output: Path) -> None:
    """Draw what the decoder of CHECKPOINT (of the reference model) reads of IMAGE and of SENTENCE.

    \b
    tbps explain checkpoints/best crop.jpg "a woman in a red coat" -o attention.png
    """
    from tbps_infer.bundle import is_bundle
    from tbps_infer.errors import UsageError
    from tbps_infer.explain.attention import attend
    from tbps_infer.explain.figure import draw_attention
    from tbps_infer.reference.checkpoint import load_checkpoint
    from tbps_infer.render.sheet import save_png

    if is_bundle(checkpoint):
        raise UsageError(
            f"{checkpoint} is a bundle, whose graphs do not give the decoder's attention.",
            "Name the checkpoint that it was exported from.",
        )
    save_png(draw_attention(image, attend(load_checkpoint(checkpoint), image, sentence)), output)
    say(f"Wrote {output}")
