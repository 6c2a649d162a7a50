"""Bundles with INT8 graphs, and synthetic people to calibrate them on."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

from tbps_infer.bundle import Bundle, file_facts
from tbps_infer.export.int8.bundle_graphs import write_int8_graphs
from tbps_infer.export.int8.options import Int8Options
from tbps_infer.text import Tokenizer

__all__ = ["with_int8", "write_people"]


def write_people(folder: Path, count: int = 52) -> Path:
    """Pictures of some synthetic people and a list of them with captions; the list."""
    from tbps_infer.data.synth import sample_crops

    with (folder / "people.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "text"])
        for number, (picture, captions) in enumerate(sample_crops(count, 5)):
            picture.save(folder / f"{number}.png")
            writer.writerow([f"{number}.png", captions[0]])
    return folder / "people.csv"


def with_int8(bundle: Path, copy: Path, options: Int8Options) -> tuple[Path, dict[str, Any]]:
    """A copy of a bundle with INT8 graphs, and the report on them."""
    shutil.copytree(bundle, copy)
    opened = Bundle.open(copy)
    report = write_int8_graphs(copy, opened.model, Tokenizer.from_bundle(opened), options)
    Bundle(
        path=copy,
        model=opened.model,
        files=file_facts(copy),
        opset=opened.opset,
        versions=opened.versions,
        source=opened.source,
        created=opened.created,
        verification={**opened.verification, "int8": report},
    ).write_facts()
    return copy, report
