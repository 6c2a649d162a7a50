"""What a model is: its branches, its precisions, and the facts that two sets of embeddings must share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from tbps_infer.errors import BundleError
from tbps_infer.formats.json_files import JsonObject
from tbps_infer.preprocessing import Preprocessing

if TYPE_CHECKING:
    from tbps_infer.layout import VectorLayout

__all__ = ["BRANCHES", "PRECISIONS", "Branch", "ModelFacts", "Precision"]

Branch = Literal["image", "text"]
BRANCHES: tuple[Branch, ...] = get_args(Branch)

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_LONGEST = 1 << 16


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
        fingerprint: The name of the embedding space, as `identified` makes it.
        weights: The hash of the tensors that `identified` was given; empty where it was not recorded.
        tokenizer: Likewise of the tokenizer's file.
    """

    family: str
    config: Mapping[str, Any]
    preprocessing: Preprocessing
    caption_rule: str
    max_length: int
    pad_id: int
    layout: VectorLayout
    fingerprint: str = ""
    weights: str = ""
    tokenizer: str = ""

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        nested = {"preprocessing": self.preprocessing.to_json(), "layout": self.layout.to_json()}
        return {**vars(self), "config": dict(self.config), **nested}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelFacts:
        """Read what `to_json` wrote; raises BundleError on anything else, and on facts that were changed."""
        from tbps_infer.layout import VectorLayout  # needs numpy; a command's help reads PRECISIONS without it

        try:
            read = JsonObject(values, "model")
            facts = cls(
                family=read.text("family"),
                config=read.mapping("config"),
                preprocessing=Preprocessing.from_json(read.object("preprocessing")),
                caption_rule=read.text("caption_rule"),
                max_length=read.integer("max_length", 1, _LONGEST),
                pad_id=read.integer("pad_id"),
                layout=VectorLayout.from_json(read.objects("layout")),
                fingerprint=read.text("fingerprint"),
                weights=read.text("weights") if "weights" in read else "",
                tokenizer=read.text("tokenizer") if "tokenizer" in read else "",
            )
            if facts.weights and facts.identified(facts.weights, facts.tokenizer) != facts:
                raise ValueError(f"they were changed since they got the fingerprint {facts.fingerprint[:12]}")
            return facts
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"The model facts are not valid: {error}.", "Restore the file, or export the bundle again."
            ) from error

    def differences(self, other: ModelFacts) -> list[str]:
        """Names of what is not the same in two facts; the hashes are not compared where one of the two has none."""
        one, two = self.to_json(), other.to_json()
        missing = {name for name in ("weights", "tokenizer") if not (one[name] and two[name])}
        return sorted(name for name in one.keys() - missing if one[name] != two[name])

    def identified(self, weights_sha256: str, tokenizer_sha256: str) -> ModelFacts:
        """The same facts with their fingerprint: equal fingerprints mean comparable embeddings.

        It depends on what the numbers mean (weights, tokenizer, preprocessing), not on how they are computed
        (opset, precision, backend), so a gallery embedded on a server answers queries encoded on an edge device.

        Args:
            weights_sha256: A hash of the tensors' names, shapes and values, not of the file that carried them.
            tokenizer_sha256: Of the tokenizer's file.
        """
        hashed = replace(self, weights=weights_sha256, tokenizer=tokenizer_sha256)
        facts = hashed.to_json()
        for name in ("pad_id", "layout", "fingerprint"):  # they follow from the others
            del facts[name]
        canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return replace(hashed, fingerprint=hashlib.sha256(canonical.encode()).hexdigest())
