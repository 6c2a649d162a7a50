"""`tbps explain`: what the model attends to, and how common the parts of a data set are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.options import EXISTING, output_option, split_option, verbosity_options
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["explain"]


@click.command()
@click.argument("model", type=EXISTING)
@click.argument("image", type=EXISTING, required=False)
@click.argument("sentence", required=False)
@click.option("--commonality", type=EXISTING, metavar="DATASET", help="Data set to measure the commonality on.")
@split_option
@output_option("PNG or JPEG file to write.")
@verbosity_options
def explain(
    model: Path, image: Path | None, sentence: str | None, commonality: Path | None, split: str, output: Path
) -> None:
    """Draw the attention of MODEL for an IMAGE and a SENTENCE, or the commonality of a data set's parts.

    MODEL is a checkpoint, or a bundle. For attention, the bundle must be exported with --with-attention.

    \b
    tbps explain checkpoints/best crop.jpg "a woman in a red coat" -o attention.png
    tbps explain bundle --commonality synthetic -o commonality.png
    """
    from tbps_infer.queries import plain_sentence
    from tbps_infer.render.sheet import picture_format, save_picture

    picture_format(output)  # refused before the work
    if commonality is not None:
        if image is not None:
            raise click.UsageError("IMAGE and --commonality exclude each other.")
        figure = _commonality(model, commonality, split)
    elif image is None or sentence is None:
        raise click.UsageError("Give an IMAGE and a SENTENCE, or --commonality DATASET.")
    else:
        figure = _attention(model, image, plain_sentence(sentence))
    save_picture(figure, output)
    say(f"Wrote {output}")


def _attention(model: Path, image: Path, sentence: str) -> Image.Image:
    from tbps_infer.bundle import Bundle, is_bundle
    from tbps_infer.explain.attention import attend_onnx
    from tbps_infer.explain.figure import draw_attention

    if is_bundle(model):
        return draw_attention(image, attend_onnx(Bundle.open(model), image, sentence))
    from tbps_infer.explain.maps import attend
    from tbps_infer.reference.checkpoint import load_checkpoint

    return draw_attention(image, attend(load_checkpoint(model), image, sentence))


def _commonality(model: Path, dataset: Path, split: str) -> Image.Image:
    from tbps_infer.bundle import is_bundle
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.encoder import Encoder
    from tbps_infer.explain.commonality import draw_commonality, measure_commonality
    from tbps_infer.runners.options import RunOptions

    people = read_dataset(dataset, split)
    with (
        Encoder.open(model, RunOptions("onnxruntime" if is_bundle(model) else "torch")) as encoder,
        progress_bar("Embedding", "items") as progress,
    ):
        found = measure_commonality(encoder, people, on_progress=progress)
    for k, (kappa, margin) in enumerate(zip(found.kappa, found.margin, strict=True)):
        spread = f"{kappa.min():.3f} to {kappa.max():.3f}"
        say(f"fine.{k}: κ {kappa.mean():.3f} on average, {spread}; margin {margin.mean():.3f} on average")
    return draw_commonality(found)
