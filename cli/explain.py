"""`tbps explain`: what the model attends to, and how common the parts of a data set are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.options import EXISTING, split_option, verbosity_options
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
@click.option("--truth", type=EXISTING, metavar="DATASET", help="Synthetic data set to hold the tokens against.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="PNG or JPEG file to write.")
@verbosity_options
def explain(
    model: Path,
    image: Path | None,
    sentence: str | None,
    commonality: Path | None,
    truth: Path | None,
    split: str,
    output: Path | None,
) -> None:
    """Draw the attention of MODEL for an IMAGE and a SENTENCE, or the commonality of a data set's parts.

    --truth draws nothing: it prints how often tokens read the words about their stripes, and how far commonality
    agrees with how many people share a part. MODEL is a checkpoint, or a bundle. For attention and --truth, the
    bundle must be exported with --with-attention.

    \b
    tbps explain checkpoints/best crop.jpg "a woman in a red coat" -o attention.png
    tbps explain bundle --commonality synthetic -o commonality.png
    tbps explain checkpoints/best --truth synthetic
    """
    if sum(given is not None for given in (image, commonality, truth)) > 1:
        raise click.UsageError("IMAGE, --commonality and --truth exclude each other.")
    if truth is not None:
        if output is not None:
            raise click.UsageError("--truth prints, and draws nothing: leave -o out.")
        _truth(model, truth, split)
        return
    from tbps_infer.queries import plain_sentence
    from tbps_infer.render.sheet import picture_format, save_picture

    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    picture_format(output)  # refused before the work
    if commonality is not None:
        figure = _commonality(model, commonality, split)
    elif image is None or sentence is None:
        raise click.UsageError("Give an IMAGE and a SENTENCE, --commonality DATASET or --truth DATASET.")
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


def _truth(model: Path, dataset: Path, split: str) -> None:
    from contextlib import ExitStack, closing

    from tbps_infer.bundle import Bundle, is_bundle
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.encoder import Encoder
    from tbps_infer.evaluation.evaluate import embed_both
    from tbps_infer.explain.attention import AttentionGraphs
    from tbps_infer.explain.truth import Weights, measure_truth
    from tbps_infer.reference.config import ModelConfig
    from tbps_infer.runners.options import RunOptions

    people = read_dataset(dataset, split)
    with ExitStack() as opened:
        if is_bundle(model):
            bundle = Bundle.open(model)
            config, tokenizer = ModelConfig.from_json(dict(bundle.model.config)), bundle.check_file("tokenizer.json")
            weights: Weights = opened.enter_context(closing(AttentionGraphs(bundle))).weights
        else:
            from tbps_infer.explain.maps import attention_weights
            from tbps_infer.reference.checkpoint import load_checkpoint

            checkpoint = load_checkpoint(model)
            config, tokenizer = checkpoint.config, checkpoint.tokenizer_path
            weights = attention_weights(checkpoint.model)
        encoder = opened.enter_context(
            Encoder.open(model, RunOptions("onnxruntime" if is_bundle(model) else "torch"))
        )
        progress = opened.enter_context(progress_bar("Embedding", "items"))
        captions, paths = [p.captions[0] for p in people.pictures], [p.path for p in people.pictures]
        texts, images = embed_both(encoder.encode_texts, encoder.encode_images, captions, paths, progress)
        found = measure_truth(config, tokenizer, dataset, people, weights, (images, texts))
    click.echo(
        f"words about stripe k: {found.pointing:.3f} of text token k's attention, "
        f"{found.other_pointing:.3f} of another token's, {found.even_pointing:.3f} if it were even"
    )
    click.echo(
        f"stripes that coarse token j reads in both: {found.agreement:.3f} in common, "
        f"{found.permuted_agreement:.3f} with another token"
    )
    names = ("text tokens on words", "coarse tokens on words", "coarse tokens on pictures")
    for name, cosine in zip(names, found.cosines, strict=True):
        click.echo(f"cosine between the attention of two {name}: {cosine:.3f}")
    for k, correlation in enumerate(found.commonality):
        click.echo(f"fine.{k}: rank correlation of κ with the truth {correlation:.3f}")
