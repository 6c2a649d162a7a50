"""Peers in one run: pictures, captions and search, each against what a user would pick instead.

::

    make -C benchmarks/studies/peers BUNDLE=bundle CHECKPOINT=checkpoint

Arms of a group do the same work on the same weights and material; what they give is compared before they are timed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.benchmarks.backends import Models
from tbps_infer.benchmarks.document import markdown_text
from tbps_infer.benchmarks.environment import PACKAGES, record_environment
from tbps_infer.benchmarks.latency_report import latency_document
from tbps_infer.benchmarks.machine_limits import limit_arms
from tbps_infer.benchmarks.measure import Arm, Plan, SystemClock, Value, WarmUpRule, measure, without_parts
from tbps_infer.benchmarks.results import collect_results
from tbps_infer.benchmarks.samples import SampleFile
from tbps_infer.benchmarks.stages import TOP_K, Material, open_material, random_embeddings
from tbps_infer.cores import usable_cores
from tbps_infer.devices import Device
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError, TbpsError, VerificationError
from tbps_infer.gallery import Gallery
from tbps_infer.model_facts import BRANCHES, Precision
from tbps_infer.runners import RunOptions
from tbps_infer.verification.similarity import cosines, overlaps
from tbps_infer.verification.tolerances import GATE, GOLDEN_COSINE

__all__ = ["PICTURES", "main", "peer_arms"]

PICTURES = "Pictures to embeddings: decode, resize, image branch"
CAPTIONS = "Captions to embeddings: the plain loop fills all up to the model's greatest length"
BERT = "Captions through BERT alone, batches filled up to their longest"
SEARCH = "Search in the same vectors, exact, top 10"

_PLAIN = "a plain PyTorch loop"
_PEERS = ("optimum", "optimum-onnx", "sentence-transformers")
_BATCH = 32


@dataclass
class _Run:
    """What is open during a run."""

    models: Models
    checkpoint: Path
    material: Material
    count: int
    scratch: Path
    stack: ExitStack
    absent: dict[str, str] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)

    def open(self, name: str, opener: Callable[[], Any]) -> Any:
        """What an opener gives, or None with the reason noted."""
        try:
            return opener()
        except BackendError as error:
            self.absent[name] = f"{error.message} {error.hint}".strip()
            return None


def peer_arms(run: _Run) -> Iterator[Arm]:
    """All arms, each compared with its group's baseline."""
    yield from _embedding_arms(run, _encoders(run))
    yield from _bert_arms(run)
    yield from _search_arms(run)
    yield from limit_arms(Device("cpu"), run.models.threads)


def _encoders(run: _Run) -> Mapping[Precision, Encoder]:
    found: dict[Precision, Encoder] = {}
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        options = RunOptions(precision=precision, threads=run.models.threads)

        def opener(options: RunOptions = options) -> Encoder:
            encoder = run.stack.enter_context(Encoder.open(run.models.bundle.path, options, batch_size=_BATCH))
            for branch in BRANCHES:
                encoder.runner(branch)  # what is missing shows here
            return encoder

        encoder = run.open(f"tbps-infer onnxruntime {precision}", opener)
        if encoder is not None:
            found[precision] = encoder
    return found


def _embedding_arms(run: _Run, encoders: Mapping[Precision, Encoder]) -> Iterator[Arm]:
    from tbps_infer.benchmarks.studies.peers.plain_loop import embed_captions, embed_pictures

    source, material = run.models.reference, run.material
    assert source is not None
    files = [material.jpegs[number % len(material.jpegs)] for number in range(run.count)]
    loop: Any = partial(embed_pictures, source, batch=_BATCH)
    ours: dict[Precision, Any] = {precision: encoder.encode_images for precision, encoder in encoders.items()}
    yield from _branch_arms(run, PICTURES, files, loop, ours)
    loop = partial(embed_captions, source, material.tokenizer, batch=_BATCH)
    ours = {precision: encoder.encode_texts for precision, encoder in encoders.items()}
    yield from _branch_arms(run, CAPTIONS, material.captions, loop, ours, ", by length")


def _branch_arms(
    run: _Run, what: str, items: Sequence[Any], loop: Any, ours: Mapping[Precision, Any], remark: str = ""
) -> Iterator[Arm]:
    wanted = loop(items[:4])
    yield _arm(run, what, _PLAIN, partial(loop, items), len(items), True)
    for precision, embed in ours.items():
        name = f"tbps-infer onnxruntime {precision}{remark}"
        _record_parity(run, f"{what}: {name}", embed(items[:4]), wanted, precision)
        yield _arm(run, what, name, partial(embed, items), len(items))


def _bert_arms(run: _Run) -> Iterator[Arm]:
    from tbps_infer.benchmarks.studies.peers.bert import (
        open_optimum,
        open_sentence_transformers,
        open_transformers,
        write_bert,
    )

    folder = run.open("BERT alone", lambda: write_bert(run.checkpoint, run.scratch / "bert"))
    if folder is None:
        return
    captions = run.material.captions
    baseline = open_transformers(folder)
    wanted = baseline(captions[:4])
    yield _arm(run, BERT, "transformers", lambda: baseline(captions), len(captions), True)
    others = {
        "Optimum, ONNX Runtime": lambda: open_optimum(folder, run.models.threads),
        "sentence-transformers": lambda: open_sentence_transformers(folder),
    }
    for name, opener in others.items():
        embed = run.open(name, opener)
        if embed is not None:
            _record_parity(run, f"{BERT}: {name}", embed(captions[:4]), wanted, "fp32")
            yield _arm(run, BERT, name, partial(embed, captions), len(captions))


def _search_arms(run: _Run) -> Iterator[Arm]:
    from tbps_infer.benchmarks.studies.peers.indexes import open_faiss, open_usearch

    gallery: Gallery = run.material.gallery
    vectors = np.asarray(gallery.vectors, np.float32)
    threads = run.models.threads

    def ours(queries: NDArray[np.float32]) -> NDArray[np.int64]:
        return np.array([[int(hit.path.name) for hit in hits] for hits in gallery.search(queries, TOP_K)])

    found = {
        "faiss IndexFlatIP, float32": run.open("faiss", lambda: open_faiss(vectors, TOP_K, threads)),
        "usearch exact, float16": run.open("usearch", lambda: open_usearch(vectors, TOP_K, threads)),
        "tbps-infer, float16, paths and metadata of hits included": ours,
    }
    searches = {name: search for name, search in found.items() if search is not None}
    exact = random_embeddings(run.material.facts.layout, 64, 1)
    scores = exact @ vectors.T
    best = np.sort(scores, axis=1)[:, -TOP_K:]
    for count in (1, 64):
        queries = exact[:count]
        group = f"{SEARCH}, {count} {'query' if count == 1 else 'queries'} of {gallery.count} rows"
        for place, (name, search) in enumerate(searches.items()):
            rows = search(queries)
            given = np.take_along_axis(scores[:count], rows, axis=1)
            different = np.diff(np.sort(rows, axis=1), axis=1).all()
            overlap = float(overlaps(best[:count], given).mean()) if different else 0.0
            if not overlap >= GATE["fp16"].min_overlap:  # float16 rows may swap hits that are all but equally near
                raise VerificationError(f"{name} finds {100 * overlap:.1f} % of the top {TOP_K}; it is not exact.")
            run.parity[f"{group}: {name}"] = overlap
            yield _arm(run, group, name, partial(search, queries), count, place == 0)


def _arm(run: _Run, what: str, peer: str, work: Callable[[], object], items: int, baseline: bool = False) -> Arm:
    facts = run.models.bundle.model
    configuration: dict[str, Value] = {
        "what": what,
        "peer": peer,
        "baseline": baseline,
        "threads": run.models.threads,
        "items": items,
        "rows": run.material.gallery.count,
        "model": facts.fingerprint,
    }
    return Arm(f"{what}: {peer}", configuration, without_parts(work), items)


def _record_parity(run: _Run, name: str, given: NDArray[Any], wanted: NDArray[Any], precision: Precision) -> None:
    cosine = float(cosines(given, wanted).min())
    if not cosine >= (least := GOLDEN_COSINE[precision]):
        raise VerificationError(
            f"{name} gives other embeddings than the baseline: cosine {cosine:.6f}, want {least}."
        )
    run.parity[name] = round(cosine, 9)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m tbps_infer.benchmarks.studies.peers.run", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("checkpoint", type=Path, help="that the bundle was exported from")
    parser.add_argument("--raw", type=Path, default=Path("peers.jsonl"), help="raw samples; continued when there")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--captions", type=int, default=64)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--least-samples", type=int, default=5)
    parser.add_argument("--arm-seconds", type=float, default=10.0)
    parser.add_argument("--warm-up-seconds", type=float, default=10.0)
    given = parser.parse_args(arguments)
    try:
        return _measure(given)
    except TbpsError as error:
        print(f"Error: {error.message} {error.hint}".rstrip(), file=sys.stderr)
        return 1


def _measure(given: argparse.Namespace) -> int:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(given.threads)
    command = ["python", "-m", "tbps_infer.benchmarks.studies.peers.run", *sys.argv[1:]]
    rule = WarmUpRule(most_seconds=given.warm_up_seconds)
    plan = Plan(given.samples, min(given.least_samples, given.samples), given.arm_seconds, warm_up=rule)
    with ExitStack() as stack:
        environment = record_environment(packages=(*PACKAGES, *_PEERS))
        file = stack.enter_context(SampleFile.open(given.raw, environment, command))
        models = Models.open(given.bundle, given.checkpoint, given.threads)
        material = stack.enter_context(open_material(models.bundle, None, given.rows, given.captions))
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        run = _Run(models, given.checkpoint, material, given.pictures, scratch, stack)
        arms = list(peer_arms(run))
        file.refuse_other_configurations(arms)
        file.add_note("absent", run.absent)
        file.add_note("parity", run.parity)
        print(f"{len(arms)} arms", file=sys.stderr)
        measure(arms, file, plan, SystemClock(), _progress if sys.stderr.isatty() else None)
        print(markdown_text(latency_document(collect_results(file.held))))
    return 0


def _progress(done: int, total: int) -> None:
    print(f"\r{done} of {total} samples", end="" if done < total else "\n", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
