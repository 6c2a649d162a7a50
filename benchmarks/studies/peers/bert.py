"""The text backbone alone, as others run it: transformers, Optimum with ONNX Runtime, sentence-transformers.

The checkpoint's own BERT is written as a folder that all of them open. sentence-transformers' CLIP is left out: it
takes square pictures, and a person's crop is not one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tbps_infer.errors import BackendError
from tbps_infer.reference.backbones import bert_config
from tbps_infer.reference.checkpoint import load_checkpoint

__all__ = ["Embed", "open_optimum", "open_sentence_transformers", "open_transformers", "write_bert"]

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Captions to the features of their first token, float32 ``[n, hidden]``."""

_BATCH = 32


def write_bert(checkpoint: Path, folder: Path) -> Path:
    """Write a reference checkpoint's text backbone and tokenizer as transformers' own folder.

    Raises:
        BackendError: The checkpoint is of another family, which has no BERT.
    """
    import transformers

    loaded = load_checkpoint(checkpoint)
    text = loaded.config.text
    model = transformers.BertModel(bert_config(text), add_pooling_layer=False).eval()
    backbone = loaded.model.text_backbone
    model.embeddings.load_state_dict(backbone.embeddings.state_dict(), strict=False)
    missing = model.encoder.load_state_dict(backbone.encoder.state_dict(), strict=False)
    if missing.missing_keys:
        raise BackendError(f"The backbone of {checkpoint} lacks {missing.missing_keys[:3]}.")
    model.save_pretrained(folder)
    tokens = json.loads(loaded.tokenizer_path.read_text(encoding="utf-8"))["model"]["vocab"]
    special = {f"{name}_token": token for name, token in _SPECIAL.items() if token in tokens}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(loaded.tokenizer_path), model_max_length=text.max_length, **special
    )
    tokenizer.save_pretrained(folder)
    return folder


_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def open_transformers(folder: Path) -> Embed:
    """PyTorch, each batch filled up to its longest caption."""
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()

    def embed(captions: Sequence[str]) -> NDArray[np.float32]:
        with torch.no_grad():
            return _batches(
                captions, lambda part: model(**_encoded(tokenizer, part, "pt")).last_hidden_state[:, 0].numpy()
            )

    return embed


def open_optimum(folder: Path, threads: int) -> Embed:
    """ONNX Runtime through Optimum, exported by it. Raises BackendError when it is not installed."""
    try:
        import onnxruntime
        from optimum.onnxruntime import ORTModelForFeatureExtraction
    except ImportError as error:
        raise BackendError(f"Optimum cannot be imported: {error}.") from error
    import transformers

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    model = ORTModelForFeatureExtraction.from_pretrained(folder, export=True, session_options=settings)

    def embed(captions: Sequence[str]) -> NDArray[np.float32]:
        return _batches(captions, lambda part: model(**_encoded(tokenizer, part, "np")).last_hidden_state[:, 0])

    return embed


def open_sentence_transformers(folder: Path) -> Embed:
    """PyTorch through sentence-transformers, pooled by the first token. Raises BackendError when not installed."""
    try:
        from sentence_transformers import SentenceTransformer, models
    except ImportError as error:
        raise BackendError(f"sentence-transformers cannot be imported: {error}.") from error
    transformer = models.Transformer(str(folder))
    pooling = models.Pooling(transformer.get_embedding_dimension(), pooling_mode="cls")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    return lambda captions: model.encode(list(captions), batch_size=_BATCH, show_progress_bar=False)


def _encoded(tokenizer: Any, captions: Sequence[str], kind: str) -> Any:
    return tokenizer(list(captions), padding=True, truncation=True, return_tensors=kind)


def _batches(captions: Sequence[str], run: Callable[[Sequence[str]], NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.concatenate([run(captions[start : start + _BATCH]) for start in range(0, len(captions), _BATCH)])
