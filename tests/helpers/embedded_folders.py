"""Folders of tiny pictures and galleries of them, by an encoder that depends on a crop's pixels alone."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from itertools import islice
from pathlib import Path

import numpy as np
from fake_vectors import embeddings
from numpy.typing import NDArray

from tbps_infer.embedding import EmbedOptions, EmbedReport, embed_gallery
from tbps_infer.gallery import Gallery
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.pruning import source_folder
from tbps_infer.runners.fake import fake_facts
from tbps_infer.sources import SourceItem, read_sources

LAYOUT = VectorLayout((Segment("global", 6), Segment("fine.0", 2, 0.5), Segment("fine.1", 3, 0.5)))
FACTS = fake_facts((8, 4), layout=LAYOUT)


class CountingEncoder:
    """A `CropEncoder` that counts what it embeds."""

    facts = FACTS

    def __init__(self) -> None:
        self.count = 0

    def encode_stream(
        self, crops: Iterable[NDArray[np.uint8]], batch_size: int
    ) -> Generator[NDArray[np.float32], None, None]:
        source = iter(crops)
        while batch := list(islice(source, batch_size)):
            self.count += len(batch)
            yield np.stack([embedding_of(crop.tobytes()) for crop in batch])


def embedding_of(pixels: bytes) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(pixels).digest()[:8], "little")
    vector: NDArray[np.float32] = embeddings(LAYOUT, 1, seed)[0]
    return vector


def picture(colour: int) -> bytes:
    """An 8 by 4 picture, already of the crop's size; another one for every colour."""
    pixels = np.full((8, 4, 3), (colour % 256, colour // 256 % 256, colour // 65536), dtype=np.uint8)
    return b"P6 4 8 255\n" + pixels.tobytes()


def stored_vector(content: bytes) -> bytes:
    """What a gallery of float16 stores of a picture."""
    return embedding_of(content[11:]).astype(np.float16).tobytes()


def write_pictures(folder: Path, colours: Iterable[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for colour in colours:
        (folder / f"{colour:04}.ppm").write_bytes(picture(colour))
    return folder


def embed(
    gallery: Path, *sources: Path, roots: tuple[Path, ...] = (), forget: bool = False, rehash: bool = False
) -> EmbedReport:
    """As ``tbps embed`` of some sources does it."""
    names = [str(source) for source in sources]
    return embed_items(gallery, read_sources(names), sources, roots=roots, forget=forget, rehash=rehash)


def embed_items(
    gallery: Path,
    items: list[SourceItem],
    sources: Iterable[Path],
    *,
    roots: tuple[Path, ...] = (),
    forget: bool = False,
    rehash: bool = False,
    encoder: CountingEncoder | None = None,
) -> EmbedReport:
    options = EmbedOptions(
        batch_size=4,
        workers=1,
        roots=roots,
        rehash=rehash,
        source_folders=tuple(source_folder(str(source)) for source in sources),
        forget_tombstones=forget,
    )
    return embed_gallery(encoder or CountingEncoder(), items, gallery, options)


def contents(gallery: Path) -> dict[str, tuple[int, bytes]]:
    """Path to number and stored vector, after a look at the checksums."""
    with Gallery.open(gallery) as opened:
        opened.verify()
        return {str(r.path): (r.record, opened.vectors[r.row].tobytes()) for r in opened.records()}
