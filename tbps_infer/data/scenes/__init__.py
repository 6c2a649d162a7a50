"""Street videos with their truth: synthetic pedestrians walk past cameras.

Frames need Pillow; writing them as a video needs PyAV (the extra ``video``).
"""

from __future__ import annotations

from tbps_infer.data.scenes.dataset import SceneOptions, SceneReport, draw_films, write_scenes
from tbps_infer.data.scenes.film import Film, Frame, TrueBox
from tbps_infer.data.scenes.truth import SceneTruth, read_truth

__all__ = [
    "Film",
    "Frame",
    "SceneOptions",
    "SceneReport",
    "SceneTruth",
    "TrueBox",
    "draw_films",
    "read_truth",
    "write_scenes",
]
