"""What engines are compared on: pictures and captions, with or without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tbps_infer.bundle import Bundle, file_sha256
from tbps_infer.data.dataset import Split
from tbps_infer.decoding import decode_threads, decoded_in_order
from tbps_infer.encoder import Encoder
from tbps_infer.errors import DatasetError, UsageError
from tbps_infer.evaluation.evaluate import embed_both
from tbps_infer.images import load_rgb
from tbps_infer.verification.agreement import Embedded
from tbps_infer.verification.differences import Labels
from tbps_infer.verification.tolerances import LEAST_DISTINCT

__all__ = [
    "EvaluationSet",
    "OnProgress",
    "embed_set",
    "first_of_equals",
    "golden_set",
    "labelled_set",
    "picture_set",
    "refuse_few",
]

OnProgress = Callable[[int, int], None]
"""Called with what is done and how much there is."""


@dataclass(frozen=True)
class EvaluationSet:
    """Pictures and captions to embed.

    Attributes:
        name: For people.
        pictures: Files, the gallery.
        captions: The queries.
        labels: Whom they show and describe; None when nobody knows.
        golden: Whether they are the few that a bundle carries.
    """

    name: str
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    labels: Labels | None = None
    golden: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the pictures' bytes, the captions and the labels, wherever the files lie."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(file_sha256(picture).encode())
        for caption in self.captions:
            digest.update(hashlib.sha256(caption.encode()).digest())
        if self.labels is not None:
            digest.update(self.labels.image_ids.astype("<i8").tobytes())
            digest.update(self.labels.text_ids.astype("<i8").tobytes())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.pictures) + len(self.captions)

    def __str__(self) -> str:
        labels = "with labels" if self.labels is not None else "without labels"
        return f"{self.name}: {len(self.pictures)} pictures, {len(self.captions)} captions, {labels}"

    def to_json(self) -> dict[str, Any]:
        """What it was, without what it held."""
        return {
            "name": self.name,
            "pictures": len(self.pictures),
            "captions": len(self.captions),
            "labelled": self.labels is not None,
            "fingerprint": self.fingerprint,
        }


def first_of_equals(pictures: Iterable[Path], seen: set[bytes]) -> Iterator[int]:
    """The places of those pictures whose pixels no earlier one has, whatever their files are named and hold besides.

    Args:
        pictures: Files, decoded as far as the places are asked for.
        seen: Hashes of the pixels of pictures that came before; those found are added.

    Raises:
        ImageError: A picture cannot be read.
    """
    threads = decode_threads()
    with closing(decoded_in_order(_pixel_hash, pictures, ahead=2 * threads, threads=threads)) as hashes:
        for place, found in enumerate(hashes):
            if found not in seen:
                seen.add(found)
                yield place


def _pixel_hash(picture: Path) -> bytes:
    pixels = load_rgb(picture)
    return hashlib.sha256(repr(pixels.size).encode() + pixels.tobytes()).digest()


def refuse_few(data: EvaluationSet) -> None:
    """Refuse a set on which no verdict can rest; equal pictures and equal captions count once.

    Raises:
        UsageError: There are fewer than `LEAST_DISTINCT` different pictures or, with labels, captions.
        ImageError: A picture cannot be read.
    """
    found = {"pictures": sum(1 for _ in islice(first_of_equals(data.pictures, set()), LEAST_DISTINCT))}
    if data.labels is not None:
        found["captions"] = len(set(data.captions))
    for kind, count in found.items():
        if count < LEAST_DISTINCT:
            raise UsageError(
                f"Too few {kind} of {data} differ: {count}, and the gate wants {LEAST_DISTINCT} or more.",
                "Give more data; equal pictures and equal captions count once.",
            )


def labelled_set(split: Split) -> EvaluationSet:
    """A data set's split, its identities as labels where they are known; raises DatasetError without a caption."""
    if not split.captions:
        raise DatasetError(f"{split.dataset} {split.name} has no captions.", "Choose a split that has some.")
    return EvaluationSet(
        name=f"{split.dataset} {split.name}",
        pictures=tuple(picture.path for picture in split.pictures),
        captions=split.captions,
        labels=Labels(split.identities, split.caption_identities) if split.labelled else None,
    )


def picture_set(bundle: Bundle, sources: Sequence[str]) -> EvaluationSet:
    """Pictures of nobody known; captions from a list's column ``caption``, otherwise the bundle's golden ones.

    Raises:
        SourceError: A source cannot be read, or names no picture.
        BundleError: The golden captions are missing or were altered.
    """
    from tbps_infer.sources import SourceOptions, read_sources

    items = read_sources(sources, SourceOptions(first_row=True))
    captions = [str(text) for item in items if (text := item.metadata.get("caption")) not in (None, "")]
    return EvaluationSet(
        name=", ".join(sources),
        pictures=tuple(item.path for item in items),
        captions=tuple(captions) or bundle.golden().captions,
    )


def golden_set(bundle: Bundle) -> EvaluationSet:
    """The crops and captions that a bundle carries; raises BundleError when they are missing or were altered."""
    golden = bundle.golden()
    return EvaluationSet("golden vectors", golden.crops, golden.captions, golden=True)


def embed_set(
    encoder: Encoder, data: EvaluationSet, on_progress: OnProgress = lambda _done, _total: None
) -> Embedded:
    """Embed all of a set, decoding and tokenising included.

    Raises:
        As `Encoder.encode_images` and `Encoder.encode_texts`.
    """
    texts, images = embed_both(encoder.encode_texts, encoder.encode_images, data.captions, data.pictures, on_progress)
    return Embedded(images, texts)
