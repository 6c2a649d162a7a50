"""Twenty training steps on the device in every precision that training offers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from lightning_fabric import Fabric

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked
from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.errors import TbpsError
from tbps_infer.training.options import MixedPrecision, TrainOptions
from tbps_infer.training.trainer import train

__all__ = ["facts"]

_STEPS = 20


def facts(context: SectionContext) -> Iterator[Fact]:
    """Train the checkpoint on people drawn for it: the loss stays finite, and the run ends with a checkpoint."""
    steps, batch = (2, 4) if context.on_cpu else (_STEPS, 32)
    data = context.work / "people"
    write_dataset(data, SynthOptions(train=steps * batch // 4, val=8, test=1, pictures=2, captions=2, workers=1))
    splits = read_dataset(data, "train"), read_dataset(data, "val")
    precisions: tuple[MixedPrecision, ...] = ("32-true",) if context.on_cpu else ("32-true", "bf16-mixed", "16-mixed")
    for precision in precisions:
        options = TrainOptions(epochs=1, batch_size=batch, warmup_epochs=0, milestones=(), precision=precision)
        fabric = Fabric(accelerator=context.device.kind, devices=1, precision=precision)
        ends: list[float] = []
        losses: list[float] = []

        def note(
            _epoch: int, _step: int, loss: float, ends: list[float] = ends, losses: list[float] = losses
        ) -> None:
            ends.append(time.perf_counter())
            losses.append(loss)

        try:
            report = train(context.checkpoint, splits, context.work / precision, options, fabric=fabric, on_step=note)
        except TbpsError as error:
            yield checked(f"training in {precision}", False, error=str(error))
            continue
        gaps = [1e3 * (after - before) for before, after in itertools.pairwise(ends)]
        yield checked(
            f"{len(losses)} training steps in {precision}",
            report.best.exists() and len(losses) >= steps,
            first_loss=losses[0],
            last_loss=losses[-1],
            step_ms=sorted(gaps)[len(gaps) // 2],
            batch=batch,
        )
