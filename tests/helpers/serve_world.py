"""A small gallery and a server over it for tests: a fake model, real pictures, real files on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image

from tbps_infer.embedding import EmbedOptions, embed_gallery
from tbps_infer.encoder import Encoder
from tbps_infer.gallery.columns import Value
from tbps_infer.runners.fake import FakeRunner, fake_facts
from tbps_infer.serve.app import create_app
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.searcher import Searcher
from tbps_infer.sources import SourceItem
from tbps_infer.text import Tokenizer
from tbps_infer.tokenizer_files import train_wordpiece

FACTS = fake_facts()
SCRIPT = "<script>document.title='owned'</script>"


@dataclass(frozen=True)
class World:
    """The folders of a test: pictures, a gallery over them, a tokenizer."""

    folder: Path

    @property
    def gallery(self) -> Path:
        return self.folder / "gallery"

    def encoder(self) -> Encoder:
        file = self.folder / "tokenizer.json"
        if not file.exists():
            train_wordpiece(["a woman in a red coat", "a man with a hat and a backpack"], 200).save(str(file))
        tokenizer = Tokenizer(file, caption_rule="none", max_length=FACTS.max_length, pad_id=FACTS.pad_id)
        return Encoder(FACTS, tokenizer, lambda: FakeRunner(FACTS, "image"), lambda: FakeRunner(FACTS, "text"))

    def add(self, numbers: Sequence[int]) -> None:
        """Draw pictures of these numbers and embed them."""
        items = []
        for number in numbers:
            path = self.folder / f"{number:03d}.png"
            seed = hashlib.sha256(str(number).encode()).digest()
            noise = np.random.default_rng(list(seed)).integers(0, 255, (60, 20, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)
            items.append(SourceItem(path, _metadata(number)))
        with self.encoder() as encoder:
            embed_gallery(encoder, items, self.gallery, EmbedOptions(batch_size=8))

    def add_with(self, *columns: Mapping[str, Value]) -> None:
        """Embed a picture for each of these columns: ``0.png``, ``1.png`` …"""
        items = []
        for number, metadata in enumerate(columns):
            Image.fromarray(np.full((60, 20, 3), 40 * number, np.uint8)).save(self.folder / f"{number}.png")
            items.append(SourceItem(self.folder / f"{number}.png", metadata))
        with self.encoder() as encoder:
            embed_gallery(encoder, items, self.gallery, EmbedOptions(batch_size=8))

    @contextmanager
    def client(
        self, options: ServeOptions | None = None, *, base_url: str = "http://127.0.0.1"
    ) -> Iterator[TestClient]:
        """A client of a server that is ready."""
        options, metrics = options or ServeOptions(), Metrics()
        searcher = Searcher(self.encoder(), self.gallery, options.batch, metrics)
        app = create_app(searcher, options, metrics)
        with TestClient(app, base_url=base_url, raise_server_exceptions=False, follow_redirects=False) as client:
            searcher.warm_up().result(10)
            yield client


def _metadata(number: int) -> dict[str, Value]:
    note = {1: SCRIPT, 2: '=HYPERLINK("x")'}.get(number, f"note {number}")
    camera = "cam_a" if number % 2 else "cam_b"
    zone = "+05:00" if number == 3 else ""
    return {
        "id": str(number // 2),
        "camera": camera,
        "time": f"{date(2024, 3, 1) + timedelta(days=number)}T10:00:00{zone}",
        "note": note,
    }
