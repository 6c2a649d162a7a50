"""`tbps explain`: what the model looks at."""

from __future__ import annotations

from pathlib import Path

import click

from tbps_infer.cli.options import EXISTING, output_option, verbosity_options
from tbps_infer.cli.progress import say

__all__ = ["explain"]


@click.command()
@click.argument("model", type=EXISTING)
@click.argument("image", type=EXISTING)
@click.argument("sentence")
@output_option("The figure, a PNG.")
@verbosity_options
def explain(model: Path, image: Path, sentence: str, output: Path) -> None:
    """Draw what the decoder of MODEL (a checkpoint, or a bundle exported --with-attention) reads of an IMAGE and a
    SENTENCE.

    \b
    tbps explain checkpoints/best crop.jpg "a woman in a red coat" -o attention.png
    """
    from tbps_infer.bundle import Bundle, is_bundle
    from tbps_infer.explain.attention import attend, attend_onnx
    from tbps_infer.explain.figure import draw_attention
    from tbps_infer.reference.checkpoint import load_checkpoint
    from tbps_infer.render.sheet import save_png

    if is_bundle(model):
        attention = attend_onnx(Bundle.open(model), image, sentence)
    else:
        attention = attend(load_checkpoint(model), image, sentence)
    save_png(draw_attention(image, attention), output)
    say(f"Wrote {output}")
