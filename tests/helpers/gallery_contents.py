"""Records for what holds of folders and datasets alike, with metadata that filters could stumble over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fake_vectors import embeddings
from numpy.typing import NDArray

from tbps_infer.gallery import Entry, FileStamp, open_gallery_writer
from tbps_infer.gallery.columns import Value
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.runners.fake import fake_facts

__all__ = ["FACTS", "VECTORS", "entries", "entry", "fill", "values_of"]

FACTS = fake_facts((8, 4), layout=VectorLayout((Segment("global", 24), Segment("coarse", 8))))
NOTES = (
    "O'Brien", "a%b_c", "Ähre", "ähre", "ABC", "abc", "", "7", "07", "7.0", "x\ny", "%", "\\d", None, "K", "\u212a",
    "it's",
)  # fmt: skip
FLOORS = (3, 3.5, -2, 0, None, 1e15, 2**53, 7)
VECTORS = embeddings(FACTS.layout, 60)


def entry(number: int, metadata: Mapping[str, Value] | None = None, content: int = 0) -> Entry:
    """The entry of picture `number`."""
    stamp = FileStamp(10 + content, 20, f"{number + 1000 * content:064x}")
    return Entry(Path(f"/pictures/{number:03d}.jpg"), stamp, values_of(number) if metadata is None else metadata)


def values_of(number: int) -> dict[str, Value]:
    """What is known about picture `number`."""
    found: dict[str, Value] = {
        "id": str(number // 3),
        "camera": ("cam_a", "cam_b", "Cam_C")[number % 3],
        "time": f"2024-03-{number % 28 + 1:02d}T10:{number % 60:02d}:00" + ("+05:00" if number % 4 == 0 else ""),
        "note": NOTES[number % len(NOTES)],
        "floor no.": FLOORS[number % len(FLOORS)],
    }
    if number % 5 == 0:
        del found["time"]
    return {name: value for name, value in found.items() if value is not None}


def entries(numbers: Sequence[int]) -> list[Entry]:
    """Entries of some pictures."""
    return [entry(number) for number in numbers]


def fill(name: Path | str, numbers: Sequence[int] = range(len(VECTORS))) -> NDArray[np.float32]:
    """Commit some pictures; returns their vectors."""
    vectors = VECTORS[list(numbers)]
    with open_gallery_writer(name, FACTS) as writer:
        writer.commit(entries(numbers), vectors)
    return vectors
