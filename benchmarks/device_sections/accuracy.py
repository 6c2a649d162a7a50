"""What the device and FP16 cost in Rank-1: the drawn test people, embedded on the device and on the CPU in FP32."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, skipped
from tbps_infer.bundle import Bundle
from tbps_infer.data.dataset import Split
from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.encoder import Encoder
from tbps_infer.errors import TbpsError
from tbps_infer.evaluation.evaluate import embed_split, evaluate_embeddings
from tbps_infer.runners import RunOptions
from tbps_infer.verification.similarity import cosines

__all__ = ["facts"]

_LARGEST_LOSS = 0.5
"""Points of Rank-1: half of what three seeds of one training differ by."""


def facts(context: SectionContext) -> Iterator[Fact]:
    """Rank-1 by ONNX Runtime in both precisions and by PyTorch, with what is embedded per second."""
    people = _draw(context)
    on_cpu = RunOptions("onnxruntime", "cpu", "fp32")
    reference = _embed(context, on_cpu, people)
    wanted, _mean_ap = _rank_1(reference, people)
    yield {"accuracy": "ONNX Runtime on the CPU, fp32", "rank_1": wanted, "pictures": len(people.pictures)}
    runs = [RunOptions("torch", str(context.device))]
    if not context.on_cpu:
        runs = [RunOptions("onnxruntime", str(context.device), precision) for precision in ("fp32", "fp16")] + runs
    for run in runs:
        what = f"{run.backend} on {context.device}, {run.precision}"
        if run.precision == "fp16" and "image.fp16.onnx" not in Bundle.open(context.bundle).files:
            yield skipped("the bundle has no FP16 graphs")
            continue
        try:
            embeddings = _embed(context, run, people)
        except TbpsError as error:
            yield checked(f"{what}: Rank-1", False, error=str(error))
            continue
        rank_1, mean_ap = _rank_1(embeddings, people)
        yield checked(
            f"{what}: Rank-1",
            rank_1 >= wanted - _LARGEST_LOSS,
            rank_1=rank_1,
            mean_ap=mean_ap,
            rank_1_on_the_cpu=wanted,
            least_cosine=float(min(cosines(*pair).min() for pair in zip(embeddings[:2], reference[:2], strict=True))),
            items_per_s=(len(people.pictures) + len(people.captions)) / embeddings[2],
        )


def _draw(context: SectionContext) -> Split:
    """The test people that the README evaluates; a few of them on a CPU."""
    options = SynthOptions(only=("test",))
    if context.on_cpu:
        options = SynthOptions(train=0, val=0, test=8, workers=1)
    folder = context.work / "test-people"
    write_dataset(folder, options)
    return read_dataset(folder, "test")


_Embedded = tuple[NDArray[np.float32], NDArray[np.float32], float]
"""Captions and pictures as float32 ``[n, dim]``, and the seconds that it took once the model was open and warm."""


def _embed(context: SectionContext, run: RunOptions, people: Split) -> _Embedded:
    model = context.checkpoint if run.backend == "torch" else context.bundle
    with Encoder.open(model, run) as encoder:
        encoder.encode_images([people.pictures[0].path])
        encoder.encode_texts([people.captions[0]])
        started = time.perf_counter()
        texts, images = embed_split(encoder.encode_texts, encoder.encode_images, people)
        return texts, images, time.perf_counter() - started


def _rank_1(embedded: _Embedded, people: Split) -> tuple[float, float]:
    """Rank-1 and mAP of captions that look for pictures, in percent; ties are lost."""
    named = evaluate_embeddings(embedded[0], embedded[1], people).text_to_image.pessimistic.named()
    return named["R@1"], named["mAP"]
