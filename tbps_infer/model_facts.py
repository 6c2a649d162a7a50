"""What a model is: its branches, its precisions, and the facts that two sets of embeddings must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from tbps_infer.errors import BundleError
from tbps_infer.preprocessing import Preprocessing

if TYPE_CHECKING:
    from tbps_infer.layout import VectorLayout

__all__ = ["BRANCHES", "PRECISIONS", "Branch", "ModelFacts", "Precision", "model_fingerprint"]

Branch = Literal["image", "text"]
BRANCHES: tuple[Branch, ...] = get_args(Branch)

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class ModelFacts:
    """What must be equal for two sets of embeddings to be comparable, and how to make the inputs.

    Attributes:
        family: The kind of model: ``part`` for the reference model.
        config: The family's own configuration, as JSON values.
        preprocessing: How a picture becomes a crop and the graph's input.
        caption_rule: The name of the rule applied to a caption before the tokenizer (`tbps_infer.text`).
        max_length: Tokens per caption at most, special tokens included.
        pad_id: The id that fills a batch's shorter captions.
        layout: The division of an embedding.
        fingerprint: `model_fingerprint` of all the above, the tokenizer and the weights.
    """

    family: str
    config: Mapping[str, Any]
    preprocessing: Preprocessing
    caption_rule: str
    max_length: int
    pad_id: int
    layout: VectorLayout
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return {
            "family": self.family,
            "config": dict(self.config),
            "preprocessing": self.preprocessing.to_json(),
            "caption_rule": self.caption_rule,
            "max_length": self.max_length,
            "pad_id": self.pad_id,
            "layout": self.layout.to_json(),
            "fingerprint": self.fingerprint,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelFacts:
        """Read what `to_json` wrote; raises BundleError on anything else."""
        from tbps_infer.layout import VectorLayout  # needs numpy; a command's help reads PRECISIONS without it

        try:
            return cls(
                family=str(values["family"]),
                config=dict(values["config"]),
                preprocessing=Preprocessing.from_json(values["preprocessing"]),
                caption_rule=str(values["caption_rule"]),
                max_length=int(values["max_length"]),
                pad_id=int(values["pad_id"]),
                layout=VectorLayout.from_json(values["layout"]),
                fingerprint=str(values["fingerprint"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"The model facts are not valid: {error!r}.", "Export the bundle again with tbps export."
            ) from error


def model_fingerprint(
    *,
    family: str,
    config: Mapping[str, Any],
    preprocessing: Preprocessing,
    caption_rule: str,
    max_length: int,
    weights_sha256: str,
    tokenizer_sha256: str,
) -> str:
    """The name of an embedding space: equal fingerprints mean comparable embeddings.

    It depends on what the numbers mean (weights, tokenizer, preprocessing), not on how they are computed
    (opset, precision, backend), so a gallery embedded on a server answers queries encoded on an edge device.

    Args:
        family: The kind of model.
        config: The model's configuration.
        preprocessing: How pictures become crops.
        caption_rule: How captions are cleaned.
        max_length: Tokens per caption at most.
        weights_sha256: A hash of the tensors' names, shapes and values, not of the file that carried them.
        tokenizer_sha256: Of the tokenizer's file.
    """
    facts = {
        "family": family,
        "config": dict(config),
        "preprocessing": preprocessing.to_json(),
        "caption_rule": caption_rule,
        "max_length": max_length,
        "weights": weights_sha256,
        "tokenizer": tokenizer_sha256,
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
