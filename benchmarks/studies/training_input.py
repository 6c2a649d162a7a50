"""How many pictures a core decodes, resizes and augments per second for training.

Run it as ``python -m tbps_infer.benchmarks.studies.training_input DATASET``. Time is the processor's, so that what
else the machine does counts little.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tbps_infer.data.readers import read_dataset
from tbps_infer.images import load_crop
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.training.batches import augment
from tbps_infer.training.options import TrainOptions

_PICTURES = 400


def main(arguments: Sequence[str] | None = None) -> int:
    """Print pictures per second of a core at the sizes of both configurations."""
    (root,) = sys.argv[1:] if arguments is None else arguments
    pictures = read_dataset(Path(root), "train").pictures[:_PICTURES]
    for size in ((384, 128), (96, 32)):
        facts, options, rng = Preprocessing(image_size=size), TrainOptions(), np.random.default_rng(0)
        started = time.thread_time()
        crops = [load_crop(picture.path, facts) for picture in pictures]
        decoded = time.thread_time()
        for crop in crops:
            augment(crop, options, True, rng)
        ended = time.thread_time()
        count = len(pictures)
        print(
            f"{size[0]}x{size[1]}: {count / (ended - started):.0f} pictures/s "
            f"(decode and resize {1e3 * (decoded - started) / count:.2f} ms, "
            f"augment {1e3 * (ended - decoded) / count:.2f} ms)"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
