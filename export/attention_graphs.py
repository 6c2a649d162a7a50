"""Graphs of the decoder's attention, beside the ordinary ones, which stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tbps_infer.explain.maps import ImageAttention, TextAttention
from tbps_infer.export.graphs import export_graph
from tbps_infer.export.options import DEFAULT_OPSET
from tbps_infer.reference.checkpoint import load_checkpoint
from tbps_infer.runners.protocol import TensorSpec

__all__ = ["export_attention"]


def export_attention(checkpoint: Path, folder: Path, *, opset: int = DEFAULT_OPSET) -> None:
    """Write ``image.attention.onnx`` and ``text.attention.onnx``, with the inputs of the branches.

    Their outputs are ``image_attention``, float32 ``[batch, N_c, rows·columns]``, and ``text_attention``, float32
    ``[batch, N_c + K, length]``, averaged over heads.

    Raises:
        CheckpointError: It is not one of the reference model.
        VerificationError: A graph is not valid.
    """
    loaded = load_checkpoint(checkpoint)
    config = loaded.config
    rows, columns = config.map_size
    image = TensorSpec("image_attention", np.dtype(np.float32), ("batch", config.coarse_tokens, rows * columns))
    tokens = config.coarse_tokens + config.parts
    text = TensorSpec("text_attention", np.dtype(np.float32), ("batch", tokens, "length"))
    file = folder / "image.attention.onnx"
    export_graph(ImageAttention(loaded.model), "image", loaded.facts, file, opset=opset, gives=(image,))
    file = folder / "text.attention.onnx"
    export_graph(TextAttention(loaded.model), "text", loaded.facts, file, opset=opset, gives=(text,))
