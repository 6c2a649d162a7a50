"""Finds the people in frames with a detector's ONNX graph, on the runners that models have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import DetectorError, UsageError
from tbps_infer.runners import Runner, RunOptions, TensorSpec
from tbps_infer.video.boxes import Detections
from tbps_infer.video.decoders import decode, outputs_of
from tbps_infer.video.detector_file import DetectorSpec, read_detector
from tbps_infer.video.frames import Frame

__all__ = ["Detector"]

_SIZES = ("orig_target_sizes", "scale_factor", "im_shape")
"""Inputs that say how large the frame was before it was resized: answered so that boxes are in the input's pixels."""


class Detector:
    """A detector ready to run; a context manager. Use it from one thread at a time.

    Args:
        spec: What the graph wants and gives.
        runner: The graph, loaded.

    Raises:
        DetectorError: The graph's inputs or outputs are not those of the declaration.
    """

    by_number: ClassVar[bool] = False
    used: ClassVar[bool] = True

    def __init__(self, spec: DetectorSpec, runner: Runner) -> None:
        self.spec = spec
        self.runner = runner
        self._names = outputs_of(spec, tuple(output.name for output in runner.outputs))
        self._pixels = _pixel_input(spec, runner.inputs)
        height, width = spec.input_size
        sizes = dict(zip(_SIZES, ((width, height), (1, 1), (height, width)), strict=True))
        self._sizes = {
            each.name: np.array([sizes[each.name]], each.dtype) for each in runner.inputs if each.name in sizes
        }

    @classmethod
    def open(cls, file: Path, options: RunOptions | None = None) -> Detector:
        """Open the detector that a JSON file declares.

        Raises:
            DetectorError: The file or the graph is not what it says.
            UsageError: The backend does not run ONNX graphs.
            BackendError: The device cannot be had, or the graph cannot be loaded.
        """
        from tbps_infer.runners.onnxruntime_runner import OnnxRuntimeRunner

        options = options or RunOptions()
        if options.backend != "onnxruntime":
            raise UsageError(
                f"The backend {options.backend} does not run a detector's graph.",
                "Choose the backend onnxruntime; on a GPU with --device cuda.",
            )
        spec = read_detector(file)
        return cls(spec, OnnxRuntimeRunner(spec.model, options))

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.close()

    @cached_property
    def stamp(self) -> str:
        """The graph's name and SHA-256, shortened, and the declaration's."""
        declared = repr(replace(self.spec, model=Path())).encode()
        return f"{self.spec.model.name} {hashlib.sha256(self.spec.model.read_bytes() + declared).hexdigest()[:12]}"

    @property
    def crop_score(self) -> float:
        """That with which a track may begin: weaker boxes are often beside the person."""
        return self.spec.track_threshold

    def detect(self, frame: Frame) -> Detections:
        """The people in a frame, their boxes inside it.

        Raises:
            DetectorError: The graph gives something else than was declared.
            BackendError: The backend failed.
        """
        height, width = frame.pixels.shape[:2]
        fitting = _Fitting.of(self.spec, height, width)
        outputs = self.runner.run({self._pixels.name: self._fed(fitting.resized(frame.pixels)), **self._sizes})
        found = decode(self.spec, {name: outputs[graph_name] for name, graph_name in self._names.items()})
        return Detections(fitting.to_frame(found.boxes), found.scores).inside(width, height)

    def _fed(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """A picture of the input's size as the graph wants it."""
        spec = self.spec
        channels = picture[..., ::-1] if spec.colour == "bgr" else picture
        if self._pixels.dtype != np.uint8:
            mean, std = (np.array(each, np.float32) for each in (spec.mean, spec.std))
            channels = ((channels - mean) / std).astype(self._pixels.dtype)
        axes = (2, 0, 1) if spec.layout == "nchw" else (0, 1, 2)
        return np.ascontiguousarray(channels.transpose(axes)[None])


@dataclass(frozen=True)
class _Fitting:
    """How a frame lies in the input: its size there, its left and top, and the brightness around it."""

    input_size: tuple[int, int]
    size: tuple[int, int]
    corner: tuple[int, int]
    scale: tuple[float, float]
    fill: int

    @classmethod
    def of(cls, spec: DetectorSpec, height: int, width: int) -> _Fitting:
        rows, columns = spec.input_size
        if spec.resize == "letterbox":
            scale = min(rows / height, columns / width)
            size = max(1, round(height * scale)), max(1, round(width * scale))
        else:
            size = rows, columns
        left, top = (columns - size[1], rows - size[0]) if spec.place == "centre" else (0, 0)
        return cls((rows, columns), size, (left // 2, top // 2), (size[1] / width, size[0] / height), spec.fill)

    def resized(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        resized = np.asarray(Image.fromarray(pixels).resize(self.size[::-1], Image.Resampling.BILINEAR))
        if self.size == self.input_size:
            return resized
        canvas = np.full((*self.input_size, 3), self.fill, np.uint8)
        left, top = self.corner
        canvas[top : top + self.size[0], left : left + self.size[1]] = resized
        return canvas

    def to_frame(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        corner, scale = np.array(self.corner * 2, np.float32), np.array(self.scale * 2, np.float32)
        return (boxes - corner) / scale


def _pixel_input(spec: DetectorSpec, inputs: Sequence[TensorSpec]) -> TensorSpec:
    """The input that takes the pixels; raises DetectorError where it does not take what the declaration says."""
    pixels = [each for each in inputs if each.name not in _SIZES]
    if len(pixels) != 1:
        raise DetectorError(
            f"{spec.model.name} has the inputs {', '.join(each.name for each in inputs)}; want one for the pixels, "
            f"and {', '.join(_SIZES)} at most.",
            "Export it without its pre- and postprocessing where they want more (docs/crop.md).",
        )
    (found,) = pixels
    height, width = spec.input_size
    wanted = (1, 3, height, width) if spec.layout == "nchw" else (1, height, width, 3)
    fits = len(found.shape) == 4 and all(
        isinstance(axis, str) or axis == want for axis, want in zip(found.shape, wanted, strict=True)
    )
    if not fits:
        raise DetectorError(
            f"{spec.model.name} takes {found}, and its JSON file says {list(wanted)}.",
            "Correct input_size and layout in the JSON file, or export the graph with that size and a batch of 1.",
        )
    if found.dtype not in (np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float16)):
        raise DetectorError(f"{spec.model.name} takes {found}, want float32, float16 or uint8.")
    if found.dtype == np.uint8 and (set(spec.mean), set(spec.std)) != ({0.0}, {1.0}):
        raise DetectorError(
            f"{spec.model.name} takes uint8, and its JSON file has a mean or std.",
            "Leave them out: the graph normalises by itself.",
        )
    return found
