"""What reading, decoding and committing cost: embedding a gallery end to end against the model alone.

Run it as ``python -m tbps_infer.benchmarks.embedding BUNDLE``. Both arms embed the same pictures with the same runner
and batch size; the model-only arm gets them decoded already. Rounds alternate, so that drift touches both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tbps_infer.embedding import EmbedOptions, embed_gallery
from tbps_infer.encoder import Encoder
from tbps_infer.images import load_crop
from tbps_infer.sources import SourceItem, read_sources

__all__ = ["measure_round"]


def measure_round(encoder: Encoder, items: Sequence[SourceItem], folder: Path) -> dict[str, float]:
    """Pictures per second of the model alone, and of embedding a new gallery in a folder."""
    crops = np.stack([load_crop(item.path, encoder.facts.preprocessing) for item in items])
    started = time.perf_counter()
    encoder.encode_crops(crops)
    model = len(items) / (time.perf_counter() - started)
    started = time.perf_counter()
    report = embed_gallery(encoder, items, folder, EmbedOptions(batch_size=encoder.batch_size))
    whole = len(items) / (time.perf_counter() - started)
    if report.embedded != len(items):
        raise RuntimeError(f"{report.embedded} of {len(items)} pictures were embedded")
    return {"model_per_s": model, "embed_per_s": whole, "share": whole / model}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the shares; raw rounds go to standard error as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pictures", type=Path, help="a folder; synthetic people are drawn when not given")
    parser.add_argument("--count", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch, Encoder.open(given.bundle, batch_size=given.batch_size) as encoder:
        pictures = given.pictures
        if pictures is None:
            from tbps_infer.data.synth import write_people

            pictures = Path(scratch) / "people"
            write_people(pictures, count=-(-given.count // 3), seed=0)
        items = read_sources([str(pictures)])[: given.count]
        encoder.encode_images([items[0].path])
        rounds = []
        for number in range(given.rounds):
            rounds.append(measure_round(encoder, items, Path(scratch) / f"gallery-{number}"))
            print(json.dumps(rounds[-1]), file=sys.stderr)
        description = encoder.runner("image").description
    shares = sorted(100 * row["share"] for row in rounds)
    print(
        f"{len(items)} pictures, batches of {given.batch_size}, {description}: "
        f"the model alone {statistics.median(row['model_per_s'] for row in rounds):.1f}/s, "
        f"embedding end to end {statistics.median(shares):.1f} % of that (from {shares[0]:.1f} to {shares[-1]:.1f})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
