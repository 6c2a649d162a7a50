"""What reading, decoding and committing cost: embedding a gallery end to end against the model alone.

Run it as ``python -m tbps_infer.benchmarks.studies.embedding BUNDLE``. Both arms embed the same pictures
with the same runner and batch size; the model-only arm gets them decoded already. Both run once in every round, in
shuffled order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tbps_infer.benchmarks.environment import record_environment
from tbps_infer.benchmarks.measure import Arm, MemoryRecorder, Plan, SystemClock, measure
from tbps_infer.benchmarks.summary import paired_ratio, summarise
from tbps_infer.embedding import EmbedOptions, embed_gallery
from tbps_infer.encoder import Encoder
from tbps_infer.images import load_crop
from tbps_infer.sources import SourceItem, read_sources

__all__ = ["embedding_arms"]


def embedding_arms(encoder: Encoder, items: Sequence[SourceItem], folder: Path) -> list[Arm]:
    """The model alone, and embedding into a new gallery below a folder in each run."""
    crops = np.stack([load_crop(item.path, encoder.facts.preprocessing) for item in items])
    numbers = itertools.count()

    def model() -> None:
        encoder.encode_crops(crops)

    def embed() -> None:
        options = EmbedOptions(batch_size=encoder.batch_size)
        report = embed_gallery(encoder, items, folder / f"gallery-{next(numbers)}", options)
        if report.embedded != len(items):
            raise RuntimeError(f"{report.embedded} of {len(items)} pictures were embedded")

    return [Arm("model", {}, model, len(items)), Arm("embed", {}, embed, len(items))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the share; raw samples go to standard error as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pictures", type=Path, help="a folder; synthetic people are drawn when not given")
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch, Encoder.open(given.bundle, batch_size=given.batch_size) as encoder:
        pictures = given.pictures
        if pictures is None:
            from tbps_infer.data.synth import write_people

            pictures = Path(scratch) / "people"
            write_people(pictures, count=-(-given.count // 3), seed=0)
        items = read_sources([str(pictures)])[: given.count]
        recorder = MemoryRecorder()
        arms = embedding_arms(encoder, items, Path(scratch))
        plan = Plan(samples=given.rounds, least_samples=given.rounds)
        print(json.dumps(dict(record_environment().stable)), file=sys.stderr)
        measure(arms, recorder, plan, SystemClock())
        description = encoder.runner("image").description
    for sample in recorder.samples:
        print(json.dumps({"arm": sample.arm, "round": sample.round, "ms": round(sample.ms, 3)}), file=sys.stderr)
    model, embed = (recorder.samples_of(name) for name in ("model", "embed"))
    share = paired_ratio(model, embed)
    assert share is not None
    low, high = (100 * value for value in share.interval)
    print(
        f"{len(items)} pictures, batches of {given.batch_size}, {description}: "
        f"the model alone {summarise(model).per_second:.1f}/s, "
        f"embedding end to end {100 * share.median:.1f} % of that (95 % interval {low:.1f} to {high:.1f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
