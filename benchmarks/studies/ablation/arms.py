"""The arms of the ablation and of the search for parts that are parts: what differs from run to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tbps_infer.reference.config import ModelConfig
from tbps_infer.training.options import TERMS, Term, TrainOptions

__all__ = ["ABLATION", "CHOSEN", "FURTHER", "SCREEN", "SETS", "Arm"]

_FIRST_MODEL: Mapping[str, Any] = {
    "token_attention": "before", "attention_over": "memory", "sharpness": 1.0, "parts_from": "stripes",
    "part_stage": None, "part_stages": 1, "fine_weight": 1.0,
}  # fmt: skip
_FIRST_RECIPE: Mapping[str, Any] = {"margin": "absolute", "margin_of": "anchor", "part_identity": "even"}
LARGER = {"image_size": (192, 64)}


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    With `shuffled` a batch's margins are dealt out anew among its anchors and parts: as large on the whole, and blind
    to what is common. What such an arm loses, commonality did not win.

    Attributes:
        name: Of the row.
        terms: Which embeddings are trained and compared.
        recipe: `TrainOptions` that differ from the study's and the first recipe's.
        model: Keys of `ModelConfig` that differ from the first checkpoints'.
        crops: `Preprocessing` that differs.
        shuffled: See above.
    """

    name: str
    terms: tuple[Term, ...] = TERMS
    recipe: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    crops: Mapping[str, Any] = field(default_factory=dict)
    shuffled: bool = False

    def options(self, base: TrainOptions) -> TrainOptions:
        """The arm's recipe: the base one with what differs."""
        return replace(base, terms=self.terms, **{**_FIRST_RECIPE, **self.recipe})

    def config(self, base: ModelConfig) -> ModelConfig:
        """The arm's model, its text backbone frozen."""
        crops = replace(base.preprocessing, **self.crops)
        keys = {**_FIRST_MODEL, **self.model}
        return replace(base, text=replace(base.text, frozen=True), preprocessing=crops, **keys)


_OFF = {"commonality": "off"}
_ID_PROB = {"commonality": "id_prob"}
_ENTROPY = {"commonality": "entropy"}

ABLATION = (
    Arm("global only", ("global",), _OFF),
    Arm("+ coarse", ("global", "coarse"), _OFF),
    Arm("+ fine, CMR off", TERMS, _OFF),
    Arm("+ fine, CMR id_prob", TERMS, _ID_PROB),
    Arm("+ fine, CMR entropy", TERMS, _ENTROPY),
    Arm("+ fine, CMR id_prob, shuffled", TERMS, _ID_PROB, shuffled=True),
)

_LOCAL = {"part_stage": 1, "part_stages": 2}
_APART = {**_LOCAL, "token_attention": "none"}
_SHARP = {**_APART, "sharpness": 4.0}


def _all(name: str, model: Mapping[str, Any], **recipe: Any) -> Arm:
    return Arm(name, TERMS, {**_ID_PROB, **recipe}, model)


SCREEN = (
    _all("as it is", {}),
    _all("local stripes", _LOCAL),
    _all("local, tokens apart", _APART),
    _all("local, sharp 4", _SHARP),
    _all("local, sharp 4, slots", {**_SHARP, "attention_over": "tokens"}),
    _all("local of one stage, sharp 4", {**_SHARP, "part_stages": 1}),
    _all("local from the stem, sharp 4", {**_SHARP, "part_stage": 0, "part_stages": 3}),
    _all("local, sharp 4, CMR off", _SHARP, commonality="off"),
    _all("local, sharp 4, relative id_prob", _SHARP, margin="relative"),
    _all("local, sharp 4, relative entropy", _SHARP, margin="relative", commonality="entropy"),
    _all("local, sharp 4, distinctive identity", _SHARP, commonality="entropy", part_identity="distinctive"),
    _all("local, sharp 4, no part identity", _SHARP, commonality="entropy", part_identity="off"),
    _all("tokens apart, sharp 4", {"token_attention": "none", "sharpness": 4.0}),
    _all("learned parts, sharp 4", {"token_attention": "none", "sharpness": 4.0, "parts_from": "tokens"}),
    _all("local, sharp 4, after", {**_SHARP, "token_attention": "after"}),
    _all("local, sharp 4, two layers", {**_SHARP, "decoder_layers": 2}),
    _all("local, sharp 4, wide tokens", {**_SHARP, "token_std": 1.0}),
    _all("local, sharp 10", {**_APART, "sharpness": 10.0}),
    _all("local, sharp 4, entropy", _SHARP, commonality="entropy"),
    _all("local, sharp 4, margin of the negative", _SHARP, commonality="entropy", margin_of="negative"),
    Arm("192x64, sharp 4", TERMS, _ID_PROB, {"token_attention": "none", "sharpness": 4.0}, LARGER),
    Arm("192x64, local, sharp 4", TERMS, _ID_PROB, _SHARP, LARGER),
)
"""Candidates for tokens that differ, stripes that are stripes and margins that matter; all trained with CMR."""

_CHOSEN = {"token_attention": "none", "sharpness": 4.0, "part_stage": 1, "part_stages": 2, "fine_weight": 0.5}
_RELATIVE = {"commonality": "entropy", "margin": "relative"}


def _part(name: str, recipe: Mapping[str, Any], identity: str, **model: Any) -> Arm:
    return Arm(name, TERMS, {**recipe, "part_identity": identity}, {**_CHOSEN, **model})


CHOSEN = (
    Arm("global only", ("global",), _OFF, _CHOSEN),
    Arm("+ coarse", ("global", "coarse"), _OFF, _CHOSEN),
    _part("+ fine, CMR off", _OFF, "off"),
    _part("+ fine, CMR relative entropy", _RELATIVE, "off"),
    _part("+ fine, CMR off, identity of all parts together", _OFF, "together"),
    _part("+ fine, CMR relative entropy, identity of all parts together", _RELATIVE, "together"),
)
"""The ablation with the chosen keys; two of its rows differ in the identity loss on parts."""

FURTHER = (
    _part("one stage", _RELATIVE, "off", part_stages=1),
    _part("self-attention before, sharp 1", _RELATIVE, "off", token_attention="before", sharpness=1.0),
    _part("stripes of the whole map", _RELATIVE, "off", part_stage=None, part_stages=1),
    _part("slots", _RELATIVE, "off", attention_over="tokens"),
)
"""What each chosen key contributes: one of them exchanged."""

SETS: Mapping[str, tuple[Arm, ...]] = {"ablation": ABLATION, "screen": SCREEN, "chosen": CHOSEN, "further": FURTHER}
