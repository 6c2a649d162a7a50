"""What a JSON file says about a detector's ONNX graph: how frames are fed, and how its outputs are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from tbps_infer.errors import DetectorError
from tbps_infer.formats.json_files import JsonObject, read_json

__all__ = ["DECODERS", "OUTPUTS", "DecoderName", "DetectorSpec", "read_detector"]

DecoderName = Literal["postprocessed", "detr-logits", "yolox", "gfl", "boxes-scores"]
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)

_RESIZES = ("letterbox", "stretch")
_PLACES = ("corner", "centre")
_COLOURS = ("rgb", "bgr")
_LAYOUTS = ("nchw", "nhwc")
_BOX_FORMATS = ("xyxy", "cxcywh")
_BOX_UNITS = ("pixels", "relative")
_MOST_PIXELS = 4096
OUTPUTS: dict[DecoderName, tuple[str, ...]] = {
    "postprocessed": ("labels", "boxes", "scores"),
    "detr-logits": ("dets", "labels"),
    "yolox": ("output",),
    "gfl": ("output",),
    "boxes-scores": ("boxes", "scores", "labels"),
}
"""The names by which decoders know the outputs; a graph's own are in `DetectorSpec.outputs`."""
_ONLY_FOR = {
    "strides": ("yolox", "gfl"),
    "reg_max": ("gfl",),
    "box_format": ("boxes-scores",),
    "box_unit": ("boxes-scores",),
    "iou_threshold": ("yolox", "gfl", "boxes-scores"),
}


@dataclass(frozen=True)
class DetectorSpec:
    """A detector, declared.

    Attributes:
        model: The ONNX graph.
        decoder: How its outputs are read (`tbps_infer.video.decoders`).
        input_size: Height and width in pixels.
        resize: ``letterbox`` keeps the frame's shape and fills the rest, ``stretch`` does not.
        fill: Brightness of the rest, 0 to 255.
        place: Where the frame is in it: ``corner``, at the top left, or ``centre``.
        colour: Order of the channels, ``rgb`` or ``bgr``.
        layout: Order of the axes, ``nchw`` or ``nhwc``.
        mean, std: Of each channel, in the order in which they are fed, on the scale of 0 to 255; a graph of floats is
            fed (pixel − mean) / std, a graph of uint8 the pixels.
        person: The class of people.
        score_threshold: Boxes with a lower score are dropped.
        track_threshold: The lowest score with which a track may begin.
        iou_threshold: Of the non-maximum suppression; 1 for none.
        strides: Pixels between the cells of each grid.
        reg_max: The greatest distance of a distribution, in strides.
        box_format: ``xyxy`` or ``cxcywh``.
        box_unit: ``pixels`` of the input, or ``relative`` to its size.
        outputs: The graph's names of the decoder's outputs.
    """

    model: Path
    decoder: DecoderName
    input_size: tuple[int, int]
    resize: str
    fill: int = 114
    place: str = "corner"
    colour: str = "rgb"
    layout: str = "nchw"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    person: int = 0
    score_threshold: float = 0.1
    track_threshold: float = 0.5
    iou_threshold: float = 0.6
    strides: tuple[int, ...] = (8, 16, 32)
    reg_max: int = 7
    box_format: str = "xyxy"
    box_unit: str = "pixels"
    outputs: Mapping[str, str] = field(default_factory=dict)


def read_detector(file: Path) -> DetectorSpec:
    """Read a detector's JSON file; docs/crop.md describes it.

    Raises:
        DetectorError: It cannot be read, a value is missing, unknown or none that is allowed, or there is no graph.
    """
    try:
        spec = _spec(read_json(file), file.parent)
    except OSError as error:
        raise DetectorError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DetectorError(
            f"{file} does not declare a detector: {error}.", "docs/crop.md has a file to copy for each detector."
        ) from error
    if not spec.model.is_file():
        raise DetectorError(
            f"{file} names the graph {spec.model}, which is not there.", "Put the ONNX file beside the JSON file."
        )
    return spec


def _spec(values: JsonObject, folder: Path) -> DetectorSpec:
    values.refuse_others(*DetectorSpec.__dataclass_fields__)
    decoder = _one_of(values, "decoder", DECODERS)
    for name, decoders in _ONLY_FOR.items():
        if name in values and decoder not in decoders:
            raise ValueError(f"{name} means nothing to the decoder {decoder}")
    size = values.integers("input_size", least=1)
    if len(size) != 2 or max(size) > _MOST_PIXELS:
        raise ValueError(f"input_size is {list(size)}, want [height, width] of at most {_MOST_PIXELS} pixels")
    usual = DetectorSpec(folder, decoder, (size[0], size[1]), "stretch")
    mean, std = (_channels(values, name, getattr(usual, name)) for name in ("mean", "std"))
    if min(std) <= 0:
        raise ValueError(f"std is {list(std)}, want numbers above 0")
    return DetectorSpec(
        model=_inside(folder, values.text("model")),
        decoder=decoder,
        input_size=usual.input_size,
        resize=_one_of(values, "resize", _RESIZES),
        fill=values.integer("fill", most=255) if "fill" in values else usual.fill,
        place=_one_of(values, "place", _PLACES, usual.place),
        colour=_one_of(values, "colour", _COLOURS, usual.colour),
        layout=_one_of(values, "layout", _LAYOUTS, usual.layout),
        mean=mean,
        std=std,
        person=values.integer("person") if "person" in values else usual.person,
        score_threshold=_share(values, "score_threshold", usual.score_threshold),
        track_threshold=_share(values, "track_threshold", usual.track_threshold),
        iou_threshold=_share(values, "iou_threshold", usual.iou_threshold),
        strides=values.integers("strides", least=1) if "strides" in values else usual.strides,
        reg_max=values.integer("reg_max", least=1, most=64) if "reg_max" in values else usual.reg_max,
        box_format=_one_of(values, "box_format", _BOX_FORMATS, usual.box_format),
        box_unit=_one_of(values, "box_unit", _BOX_UNITS, usual.box_unit),
        outputs=_outputs(values, decoder),
    )


Choice = TypeVar("Choice", bound=str)


def _one_of(values: JsonObject, name: str, allowed: tuple[Choice, ...], usual: Choice | None = None) -> Choice:
    if usual is not None and name not in values:
        return usual
    given = values.text(name)
    found = next((each for each in allowed if each == given), None)
    if found is None:
        raise ValueError(f"{name} is {given!r}, want {' or '.join(allowed)}")
    return found


def _share(values: JsonObject, name: str, usual: float) -> float:
    share = values.number(name) if name in values else usual
    if not 0 <= share <= 1:
        raise ValueError(f"{name} is {share:g}, want 0 to 1")
    return share


def _channels(values: JsonObject, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
    numbers = values.numbers(name) if name in values else usual
    if len(numbers) != 3:
        raise ValueError(f"{name} has {len(numbers)} numbers, want 3, one for each channel")
    return numbers


def _inside(folder: Path, name: str) -> Path:
    model = folder / name
    if not model.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"model is {name!r}, which leads out of the file's folder")
    return model


def _outputs(values: JsonObject, decoder: DecoderName) -> dict[str, str]:
    known = OUTPUTS[decoder]
    if "outputs" not in values:
        return {}
    named = values.object("outputs")
    named.refuse_others(*known)
    return {name: named.text(name) for name in named}
