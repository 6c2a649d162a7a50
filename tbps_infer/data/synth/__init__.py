"""Synthetic pedestrians: people made of shared parts, drawn and described, so that everything runs without real data.

No picture shows a real person. Needs Pillow.
"""

from __future__ import annotations

from tbps_infer.data.synth.attributes import Person, draw_people
from tbps_infer.data.synth.captions import Caption, sample_captions, write_captions
from tbps_infer.data.synth.dataset import SynthOptions, SynthReport, write_dataset
from tbps_infer.data.synth.oracle import caption_agreement, oracle_rank1
from tbps_infer.data.synth.samples import Description, sample_crops, write_people
from tbps_infer.data.synth.shots import CAMERAS, Camera, Shot, plan_shot

__all__ = [
    "CAMERAS",
    "Camera",
    "Caption",
    "Description",
    "Person",
    "Shot",
    "SynthOptions",
    "SynthReport",
    "caption_agreement",
    "draw_people",
    "oracle_rank1",
    "plan_shot",
    "sample_captions",
    "sample_crops",
    "write_captions",
    "write_dataset",
    "write_people",
]
