"""The stages around a model: decoding, resizing, tokenising, searching, and a sentence's whole way to its top 10."""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.measure import Arm, Value, without_parts
from tbps_infer.bundle import Bundle
from tbps_infer.encoder import Encoder
from tbps_infer.errors import UsageError
from tbps_infer.gallery import Entry, FileStamp, Gallery, GalleryWriter
from tbps_infer.images import load_rgb, to_crop
from tbps_infer.layout import VectorLayout
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.runners import Runner
from tbps_infer.text import Tokenizer
from tbps_infer.verification.samples import Samples, prepare_samples, synthetic_samples

__all__ = ["TOP_K", "Material", "encode_arms", "open_material", "random_embeddings", "stage_arms", "write_gallery"]

TOP_K = 10
_JPEG_QUALITY = 90
_ROWS_PER_COMMIT = 2000


@dataclass(frozen=True)
class Material:
    """What arms work on: synthetic people, the same ones everywhere.

    Attributes:
        facts: The model's.
        tokenizer: The model's.
        samples: Crops and token rows as the model takes them.
        jpegs: The pictures as files.
        sentence: Their caption of median length.
        captions: A mix of their captions.
        gallery: Open to be searched.
    """

    facts: ModelFacts
    tokenizer: Tokenizer
    samples: Samples
    jpegs: tuple[bytes, ...]
    sentence: str
    captions: tuple[str, ...]
    gallery: Gallery


@contextmanager
def open_material(bundle: Bundle, gallery: Path | None, rows: int, captions: int) -> Iterator[Material]:
    """Make what arms work on; a gallery that is made is deleted at the end.

    Args:
        bundle: The model.
        gallery: Searched; one of ``rows`` random embeddings when not given.
        rows: Of the gallery that is made.
        captions: How many at most; those of the synthetic people are repeated to make as many.

    Raises:
        UsageError: ``rows`` or ``captions`` is below 1.
        ModelMismatchError: The gallery was embedded by another model.
    """
    if rows < 1 or captions < 1:
        raise UsageError(f"The gallery has {rows} rows and the mix {captions} captions; want 1 or more of each.")
    pairs = synthetic_samples()
    tokenizer = Tokenizer.from_bundle(bundle)
    samples = prepare_samples(pairs, bundle.model.preprocessing, tokenizer)
    sentences = tuple(caption for _, several in pairs for caption in several)
    jpegs = []
    for image, _ in pairs:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
        jpegs.append(buffer.getvalue())
    with ExitStack() as stack:
        if gallery is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gallery"
            gallery = write_gallery(folder, bundle.model, rows)
        reader = stack.enter_context(Gallery.open(gallery))
        reader.require_model(bundle.model)
        by_length = sorted(range(len(sentences)), key=lambda number: len(samples.rows[number]))
        yield Material(
            facts=bundle.model,
            tokenizer=tokenizer,
            samples=samples,
            jpegs=tuple(jpegs),
            sentence=sentences[by_length[len(by_length) // 2]],
            captions=tuple(itertools.islice(itertools.cycle(sentences), captions)),
            gallery=reader,
        )


def random_embeddings(layout: VectorLayout, count: int, seed: int) -> NDArray[np.float32]:
    """float32 ``[count, dim]``, each segment a random direction of the norm that the layout declares."""
    values = np.random.default_rng(seed).standard_normal((count, layout.dim), dtype=np.float32)
    for segment in layout.segments:
        piece = values[:, layout.slices[segment.name]]
        piece *= np.float32(np.sqrt(segment.weight)) / np.linalg.norm(piece, axis=1, keepdims=True)
    return values


def write_gallery(
    path: Path,
    facts: ModelFacts,
    rows: int,
    vectors: Callable[[int, int], NDArray[np.float32]] | None = None,
    metadata: Callable[[int], Mapping[str, str | int]] | None = None,
) -> Path:
    """Write a gallery of pictures that do not exist.

    Args:
        path: Where nothing is yet.
        facts: Of the model that it claims to be embedded by.
        rows: How many.
        vectors: Gives rows ``[start, stop)``; random ones when not given.
        metadata: Gives a row's metadata; none has any when not given.
    """
    make = vectors or (lambda start, stop: random_embeddings(facts.layout, stop - start, start))
    with GalleryWriter.open(path, facts) as writer:
        for start in range(0, rows, _ROWS_PER_COMMIT):
            stop = min(start + _ROWS_PER_COMMIT, rows)
            entries = [
                Entry(Path(f"/{number}"), FileStamp(0, 0, ""), metadata(number) if metadata else {})
                for number in range(start, stop)
            ]
            writer.commit(entries, make(start, stop))
    return path


def stage_arms(material: Material, fingerprint: str) -> list[Arm]:
    """Decoding, resizing, tokenising and searching, one item a run, each on the CPU and by one caller."""
    jpegs = itertools.cycle(material.jpegs)
    images = itertools.cycle([load_rgb(data) for data in material.jpegs])
    query = random_embeddings(material.facts.layout, 1, 1)
    first = load_rgb(material.jpegs[0])
    shared: dict[str, Value] = {"device": "cpu", "model": fingerprint}
    stored = material.gallery.stored
    gallery: dict[str, Value] = {
        "rows": material.gallery.count,
        "dtype": str(material.gallery.dtype),
        "row_bytes": stored.row_bytes,
    }

    def arm(what: str, run: Callable[[], object], **configuration: Value) -> Arm:
        return Arm(what, {"what": what, **shared, **configuration}, without_parts(run))

    return [
        arm("decode", lambda: load_rgb(next(jpegs)), width=first.width, height=first.height, format="JPEG"),
        arm("resize", lambda: to_crop(next(images), material.facts.preprocessing)),
        arm("tokenise", lambda: material.tokenizer.encode([material.sentence])),
        arm("search", lambda: material.gallery.search(query, TOP_K), **gallery),
    ]


def encode_arms(
    material: Material, label: str, configuration: Mapping[str, Value], runners: Mapping[Branch, Runner]
) -> list[Arm]:
    """A sentence to its top 10, and a mix of captions through length buckets, over one backend's runners."""
    encoder = Encoder(
        material.facts,
        material.tokenizer,
        lambda: runners["image"],
        lambda: runners["text"],
        least_filling=configuration["device"] == "cpu",  # as Encoder.open chooses
    )
    sentence, captions, gallery = material.sentence, material.captions, material.gallery
    tokens: dict[str, Value] = {"tokens": len(material.tokenizer.encode([sentence])[0])}
    searched: dict[str, Value] = {"rows": gallery.count, "dtype": str(gallery.dtype)}
    whole = {"what": "sentence to top 10", **configuration, **tokens, **searched}
    mix = {
        "what": "caption mix",
        **configuration,
        "captions": len(captions),
        "tokens": _mean([len(row) for row in material.tokenizer.encode(captions)]),
        "batch": encoder.batch_size,
    }
    search = without_parts(lambda: gallery.search(encoder.encode_texts([sentence]), TOP_K))
    embed = without_parts(lambda: encoder.encode_texts(captions))
    return [
        Arm(f"sentence to top 10 {label}", whole, search),
        Arm(f"caption mix {label}", mix, embed, len(captions)),
    ]


def _mean(lengths: Sequence[int]) -> float:
    return round(sum(lengths) / len(lengths), 2)
