"""The IRRA format (Jiang and Ye, arXiv 2303.12501): CLIP fine-tuned at 384x128, its two tokens compared.

NAM, HAM, GA-DMS, FMFA, ICL and VFE-TPS save the same tensors, beside others that serve their trainings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tbps_infer.errors import CheckpointError
from tbps_infer.families.clip import ClipImage, ClipText, ImageSizes, PixelScale, TextSizes, image_sizes, text_sizes
from tbps_infer.families.family import (
    CLIP_MEAN,
    CLIP_STD,
    DualEncoder,
    Family,
    Plan,
    check_setting,
    image_grid,
    prefixed,
    settle,
    sizes_json,
    text_length,
)
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.reference.attention import l2_normalize

__all__ = ["DROPPABLE", "ICL", "IRRA", "OPTIONS", "ClipPair", "IrraSizes", "check_widths", "irra_sizes"]

DROPPABLE = (
    *("classifier.", "cross_attn.", "cross_modal_transformer.", "mlm_head.", "logit_scale", "base_model.logit_scale"),
    *("ln_pre_t.", "ln_pre_i.", "ln_post."),
    # VFE-TPS: by default, and with its losses itm and g2id.
    *("mask_token", "cross_attention_image.", "cross_modal_transformer_image.", "decoder."),
    *("image_ln_pre_t.", "image_ln_pre_i.", "image_ln_post."),
    *("cross_attention_itm.", "cross_modal_transformer_itm.", "mlp_itm.", "gToken2id."),
    *("itm_ln_pre_t.", "itm_ln_pre_i.", "itm_ln_post."),
)

OPTIONS = ("config", "image_size", "stride", "max_length", "merges", "tokenizer", "drop")
"""Attributes of `LoadOptions` that every checkpoint of this format takes."""

# The published training's, whatever the patch.
_SIZE, _STRIDE = (384, 128), 16


class ClipPair(DualEncoder):
    """CLIP's two transformers, one embedding each."""

    def __init__(self, image: ImageSizes, text: TextSizes, facts: Preprocessing) -> None:
        super().__init__()
        self.pixels = PixelScale(facts)
        self.image = ClipImage(image)
        self.text = ClipText(text)

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Embed uint8 crops ``[batch, height, width, 3]``."""
        return l2_normalize(self.image(self.pixels(pixels)))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed int32 ids ``[batch, length]`` with their mask."""
        return l2_normalize(self.text(input_ids, attention_mask))


@dataclass(frozen=True)
class IrraSizes:
    """All that a checkpoint of this format says about its backbone, and what is ``assumed`` beyond that."""

    image: ImageSizes
    text: TextSizes
    preprocessing: Preprocessing
    max_length: int
    assumed: dict[str, Any]


def irra_sizes(file: CheckpointFile, options: LoadOptions) -> IrraSizes:
    """Read the sizes from the tensors, and what these leave open from the settings. Raises CheckpointError."""
    assumed: dict[str, Any] = {}
    size, stride, grid = _geometry(file, options, assumed)
    text = text_sizes(file, "base_model.")
    image = image_sizes(file, "base_model.visual.", stride, grid)
    check_widths(file, image, text)
    check_setting(file, "vocab_size", "base_model.token_embedding.weight", text.vocab)
    return IrraSizes(
        image=image,
        text=text,
        preprocessing=Preprocessing(size, "bilinear", mean=CLIP_MEAN, std=CLIP_STD),
        max_length=text_length(file, "text_length", text.positions, options, assumed),
        assumed=assumed,
    )


def _geometry(
    file: CheckpointFile, options: LoadOptions, assumed: dict[str, Any]
) -> tuple[tuple[int, int], int, tuple[int, int]]:
    """The image size, the stride and the grid: as said, else the published training's where that fits."""
    patch = file.shape("base_model.visual.conv1.weight", 4)[2]
    positions = file.shape("base_model.visual.positional_embedding", 2)[0]
    said_stride = options.stride or file.settings.number("stride_size")
    said_size = options.image_size or file.settings.size("img_size")
    height, width = said_size or _SIZE
    strides = (int(said_stride),) if said_stride else (_STRIDE, patch)
    fitting = [s for s in strides if ((height - patch) // s + 1) * ((width - patch) // s + 1) == positions - 1]
    stride = fitting[0] if fitting else strides[0]
    size, grid = image_grid(
        file,
        positions,
        said_size or (_SIZE if fitting else None),
        (patch, stride),
        aspects=(3, 1) if stride == patch else (),  # the size does not follow from the grid of other strides
        said_by="--image-size HEIGHTxWIDTH and --stride PIXELS",
    )
    settle(assumed, "stride", said_stride, default=stride)
    settle(assumed, "image_size", said_size, default=f"{size[0]}x{size[1]}")
    return size, stride, grid


def check_widths(file: CheckpointFile, image: ImageSizes, text: TextSizes) -> None:
    """A transformer has whole heads, and the two embeddings are of one length. Raises CheckpointError."""
    for what, sizes in (("image", image), ("text", text)):
        if sizes.width % sizes.style.head:
            raise CheckpointError(
                f"{file.path}: the {what} transformer is {sizes.width} wide, want a multiple of {sizes.style.head}."
            )
    if image.dim != text.dim:
        raise CheckpointError(
            f"{file.path} embeds pictures in {image.dim} numbers and sentences in {text.dim}, want the same."
        )


def _plan(file: CheckpointFile, options: LoadOptions) -> Plan:
    sizes = irra_sizes(file, options)
    network = ClipPair(sizes.image, sizes.text, sizes.preprocessing)
    return Plan(
        network=network,
        table=prefixed(network, {"image": "base_model.visual.", "text": "base_model."}),
        droppable=DROPPABLE,
        config=sizes_json(sizes.image, sizes.text),
        preprocessing=sizes.preprocessing,
        caption_rule="clip",
        max_length=sizes.max_length,
        layout=VectorLayout((Segment("global", sizes.image.dim),)),
        tokenizer="clip",
        vocab=sizes.text.vocab,
        assumed=sizes.assumed,
    )


IRRA = Family("irra", ("base_model.visual.class_embedding", "base_model.text_projection"), _plan, OPTIONS)

ICL = replace(IRRA, name="icl")
"""The same, by the name that its users know; its sentences have 168 tokens."""
