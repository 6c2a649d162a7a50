"""What detectors give, turned into boxes: one function for each convention of outputs.

Every decoder takes the outputs of one frame by the names that it knows them by, and gives boxes in pixels of the
graph's input. The formulas are those of the detectors' published code, named at each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import DetectorError
from tbps_infer.video.boxes import Boxes, Detections, suppress
from tbps_infer.video.detector_file import OUTPUTS, DecoderName, DetectorSpec

__all__ = ["decode", "outputs_of"]

Arrays = Mapping[str, NDArray[Any]]


def decode(spec: DetectorSpec, outputs: Arrays) -> Detections:
    """The people that the outputs of a frame tell of, in pixels of the input, the best first.

    Args:
        spec: The detector.
        outputs: Arrays by the decoder's own names (`outputs_of`), each with a batch of 1 or without one.

    Raises:
        DetectorError: An output has another shape than the decoder reads, or holds numbers that are not finite.
    """
    boxes, scores = _DECODERS[spec.decoder](spec, outputs)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise DetectorError(
            f"{spec.model.name} gave numbers that are not finite.",
            "Is the model's mean and std, or its precision, right?",
        )
    if len(scores) and (scores.min() < -_TOLERANCE or scores.max() > 1 + _TOLERANCE):
        raise DetectorError(
            f"{spec.model.name} gave a score of {scores[np.abs(scores - 0.5).argmax()]:.3g}, want 0 to 1.",
            "Only the decoder detr-logits reads logits; the others read scores.",
        )
    found = Detections(boxes.astype(np.float32), scores.astype(np.float32))
    found = found.take(found.scores >= spec.score_threshold)
    return suppress(found, 1 if spec.decoder in _WITHOUT_SUPPRESSION else spec.iou_threshold)


_TOLERANCE = 1e-3
_WITHOUT_SUPPRESSION = ("postprocessed", "detr-logits")
_OPTIONAL = {"boxes-scores": ("labels",)}


def outputs_of(spec: DetectorSpec, names: tuple[str, ...]) -> dict[str, str]:
    """The graph's names of the outputs that the decoder reads.

    Raises:
        DetectorError: The graph has no such output.
    """
    wanted = OUTPUTS[spec.decoder]
    if wanted == ("output",) and not spec.outputs and len(names) == 1:
        return {"output": names[0]}
    found = {name: spec.outputs.get(name, name) for name in wanted}
    for name in _OPTIONAL.get(spec.decoder, ()):
        if name not in spec.outputs and found[name] not in names:
            del found[name]
    missing = [graph_name for graph_name in found.values() if graph_name not in names]
    if missing:
        example = ", ".join(f'"{name}": "…"' for name in found)
        raise DetectorError(
            f"{spec.model.name} has no output {missing[0]!r}; it has {', '.join(map(repr, names))}.",
            f'Say in the JSON file what they are called: "outputs": {{{example}}}.',
        )
    return found


def _postprocessed(spec: DetectorSpec, outputs: Arrays) -> tuple[Boxes, NDArray[Any]]:
    """RT-DETR and D-FINE with their postprocessor: classes, corners and scores of the best queries."""
    labels, scores = (_flat(spec, name, outputs[name]) for name in ("labels", "scores"))
    boxes = _table(spec, "boxes", outputs["boxes"], 4)
    _same_length(spec, boxes, scores, labels)
    people = labels == spec.person
    return boxes[people], scores[people]


def _detr_logits(spec: DetectorSpec, outputs: Arrays) -> tuple[Boxes, NDArray[Any]]:
    """RF-DETR: centres and sizes relative to the input, and a logit for each class."""
    boxes, logits = _table(spec, "dets", outputs["dets"], 4), _table(spec, "labels", outputs["labels"])
    _same_length(spec, boxes, logits)
    scores = _sigmoid(_of_person(spec, logits))
    return _corners(boxes * _input_scale(spec)), scores


def _yolox(spec: DetectorSpec, outputs: Arrays) -> tuple[Boxes, NDArray[Any]]:
    """YOLOX's ``demo_postprocess``: centres in cells from their own, log sizes in strides, objectness, classes."""
    rows = _table(spec, "output", outputs["output"])
    cells, strides = _grid(spec, len(rows))
    if rows.shape[1] < 6:
        raise _wrong_shape(spec, "output", outputs["output"], "a box, its objectness and classes for each cell")
    centres = (rows[:, :2] + cells) * strides
    sizes = np.exp(np.minimum(rows[:, 2:4], 20)) * strides  # a logit of 20 is wider than any frame
    scores = rows[:, 4] * _of_person(spec, rows[:, 5:])
    return _corners(np.concatenate([centres, sizes], axis=1)), scores


def _gfl(spec: DetectorSpec, outputs: Arrays) -> tuple[Boxes, NDArray[Any]]:
    """NanoDet-Plus: class scores, and of each side's distance a distribution over 0 to reg_max strides."""
    rows = _table(spec, "output", outputs["output"])
    bins = spec.reg_max + 1
    cells, strides = _grid(spec, len(rows))
    if rows.shape[1] <= 4 * bins:
        raise _wrong_shape(spec, "output", outputs["output"], f"classes and 4 · {bins} bins for each box")
    scores = _of_person(spec, rows[:, : -4 * bins])
    logits = rows[:, -4 * bins :].reshape(-1, 4, bins)
    weights = np.exp(logits - logits.max(axis=2, keepdims=True))
    distances = (weights @ np.arange(bins)) / weights.sum(axis=2) * strides
    centres = cells * strides
    return np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], axis=1), scores


def _boxes_scores(spec: DetectorSpec, outputs: Arrays) -> tuple[Boxes, NDArray[Any]]:
    """Detectors of torchvision, with labels; PP-YOLOE without its suppression, with a score for each class."""
    boxes = _table(spec, "boxes", outputs["boxes"], 4)
    scores = _without_batch(outputs["scores"])
    if "labels" in outputs:
        labels, scores = _flat(spec, "labels", outputs["labels"]), _flat(spec, "scores", scores)
        scores = np.where(labels == spec.person, scores, 0) if len(labels) == len(scores) else scores[:0]
    elif scores.ndim == 2 and 1 not in scores.shape:
        scores = _of_person(spec, scores.T if scores.shape[0] != len(boxes) == scores.shape[1] else scores)
    _same_length(spec, boxes, scores := scores.reshape(-1))
    if spec.box_unit == "relative":
        boxes = boxes * _input_scale(spec)
    return (_corners(boxes) if spec.box_format == "cxcywh" else boxes), scores


_DECODERS: dict[DecoderName, Callable[[DetectorSpec, Arrays], tuple[Boxes, NDArray[Any]]]] = {
    "postprocessed": _postprocessed,
    "detr-logits": _detr_logits,
    "yolox": _yolox,
    "gfl": _gfl,
    "boxes-scores": _boxes_scores,
}


def _grid(spec: DetectorSpec, rows: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row of every cell, ``[rows, 2]``, and the cells' strides, ``[rows, 1]``."""
    height, width = spec.input_size
    cells, strides = [], []
    for stride in spec.strides:
        across, down = np.meshgrid(np.arange(-(-width // stride)), np.arange(-(-height // stride)))
        cells.append(np.stack([across.ravel(), down.ravel()], axis=1))
        strides.append(np.full((across.size, 1), stride))
    found = sum(map(len, cells))
    if found != rows:
        raise DetectorError(
            f"{spec.model.name} gave {rows} boxes, and grids of the strides {list(spec.strides)} over {height} × "
            f"{width} pixels have {found} cells.",
            "Correct the strides or the input_size in the JSON file.",
        )
    return np.concatenate(cells).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _of_person(spec: DetectorSpec, classes: NDArray[Any]) -> NDArray[Any]:
    if classes.ndim != 2 or spec.person >= classes.shape[1]:
        raise DetectorError(
            f"{spec.model.name} has {classes.shape[-1]} classes, and person is class {spec.person}.",
            "Correct person in the JSON file; the first class is 0.",
        )
    column: NDArray[Any] = classes[:, spec.person]
    return column


def _input_scale(spec: DetectorSpec) -> NDArray[np.float32]:
    height, width = spec.input_size
    return np.array([width, height, width, height], np.float32)


def _corners(boxes: NDArray[Any]) -> NDArray[Any]:
    """Corners of boxes that are given by centre and size."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64))))


def _without_batch(array: NDArray[Any]) -> NDArray[Any]:
    return array[0] if array.ndim > 1 and array.shape[0] == 1 else array


def _table(spec: DetectorSpec, name: str, array: NDArray[Any], columns: int | None = None) -> NDArray[Any]:
    """An output as rows, one for each box."""
    rows = array[0] if array.ndim == 3 and array.shape[0] == 1 else array
    if rows.ndim != 2 or (columns is not None and rows.shape[1] != columns):
        raise _wrong_shape(spec, name, array, f"[1, boxes, {columns or 'values'}]")
    return rows


def _flat(spec: DetectorSpec, name: str, array: NDArray[Any]) -> NDArray[Any]:
    flat = array.reshape(-1)
    if array.size not in array.shape and array.size:
        raise _wrong_shape(spec, name, array, "[1, boxes]")
    return flat


def _same_length(spec: DetectorSpec, *arrays: NDArray[Any]) -> None:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise DetectorError(
            f"{spec.model.name} gave {' and '.join(map(str, lengths))} boxes, scores or labels, want one number.",
            "Check the decoder and the names of the outputs in the JSON file.",
        )


def _wrong_shape(spec: DetectorSpec, name: str, array: NDArray[Any], wanted: str) -> DetectorError:
    return DetectorError(
        f"{spec.model.name} gave {name} as {list(array.shape)}, and the decoder {spec.decoder} reads {wanted}.",
        "Choose the decoder that fits the graph (docs/crop.md).",
    )
