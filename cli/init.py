"""`tbps init`: a checkpoint to start training from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tbps_infer.cli.shared.options import EXISTING, output_option, seed_option, verbosity_options

if TYPE_CHECKING:
    import tokenizers

__all__ = ["init"]


@click.command()
@output_option("Checkpoint folder to create.")
@click.option(
    "--size",
    type=click.Choice(("base", "tiny")),
    default="base",
    help="base is ResNet-50 with BERT-base; tiny is the size of the shipped checkpoint.",
)
@click.option("--vit", is_flag=True, help="Use ViT-B/16 instead of ResNet-50.")
@click.option("--local-parts", is_flag=True, help="Let stripes see only themselves, as in the shipped checkpoint.")
@click.option("--image-weights", type=EXISTING, help="ImageNet weights in torchvision or Hugging Face format.")
@click.option("--text-weights", type=EXISTING, help="BERT weights in Hugging Face format.")
@click.option("--vocab", type=EXISTING, help="BERT vocab.txt.")
@click.option("--backbones", type=EXISTING, metavar="CHECKPOINT", help="Checkpoint whose backbones are taken.")
@click.option("--dataset", type=EXISTING, help="Data set to learn a vocabulary from, without --vocab.")
@seed_option()
@verbosity_options
def init(
    output: Path,
    size: str,
    vit: bool,
    local_parts: bool,
    image_weights: Path | None,
    text_weights: Path | None,
    vocab: Path | None,
    backbones: Path | None,
    dataset: Path | None,
    seed: int,
) -> None:
    """Create a checkpoint of the reference model to start training from.

    Backbones are pretrained where weights are given. All other weights are random.

    \b
    tbps init -o start --image-weights resnet50.pth --text-weights bert/ --vocab vocab.txt
    tbps init -o start --backbones run/best
    """
    from dataclasses import replace

    from tbps_infer.atomic import is_vacant
    from tbps_infer.errors import UsageError
    from tbps_infer.reference.config import ViTConfig, base_config, tiny_config, with_local_parts
    from tbps_infer.reference.pretrained import VOCAB_SIZE, initial_checkpoint, initial_from_backbones

    if not is_vacant(output):
        raise UsageError(f"{output} already exists.", "Choose another folder.")
    if backbones is not None:
        if vit or any(given is not None for given in (image_weights, text_weights, vocab, dataset)):
            raise UsageError("--backbones brings its own weights and vocabulary.", "Leave the other options out.")
        from tbps_infer.reference.checkpoint import load_checkpoint

        source = load_checkpoint(backbones)
        folder = initial_from_backbones(output, source, with_local_parts(source.config), seed)
        click.echo(f"{folder}: backbones of {backbones}")
        return
    if text_weights is not None and vocab is None:
        raise UsageError("BERT weights need their own vocabulary.", "Name its vocab.txt with --vocab.")
    tokenizer = _tokenizer(vocab, dataset, VOCAB_SIZE)
    if size == "tiny":
        config = tiny_config(tokenizer.get_vocab_size())
    else:
        config = with_local_parts(base_config()) if local_parts else base_config()
    if vit:
        config = replace(config, image=ViTConfig(), part_stage=None, part_stages=1)
    folder = initial_checkpoint(
        output, config, tokenizer.to_str(pretty=True), seed, image_weights=image_weights, text_weights=text_weights
    )
    click.echo(f"{folder}: {size}, {tokenizer.get_vocab_size()} word pieces")


def _tokenizer(vocab: Path | None, dataset: Path | None, size: int) -> tokenizers.Tokenizer:
    from tbps_infer.tokenizer_files import train_wordpiece, wordpiece_tokenizer

    if vocab is not None:
        return wordpiece_tokenizer(vocab)
    if dataset is not None:
        from tbps_infer.data.readers import read_dataset

        return train_wordpiece(read_dataset(dataset, "train").captions, size)
    from tbps_infer.data.synth import sample_captions

    return train_wordpiece(sample_captions(4000, seed=0), size)
