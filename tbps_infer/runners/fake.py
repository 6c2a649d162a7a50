"""A runner for tests of what lies around a model: numpy alone, no files, no backend, the same numbers everywhere.

::

    from tbps_infer.encoder import Encoder
    from tbps_infer.runners.fake import FakeRunner, fake_facts

    facts = fake_facts()
    runner = FakeRunner(facts, "image")
    with Encoder(facts, tokenizer, lambda: runner, lambda: FakeRunner(facts, "text")) as encoder:
        vectors = encoder.encode_crops(crops)
    assert runner.batch_sizes == [32, 3]

A real tokenizer for it takes milliseconds: ``tbps_infer.tokenizer_files.train_wordpiece(captions, 200).save(path)``.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.errors import FeedError
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.preprocessing import Preprocessing
from tbps_infer.runners.protocol import Feeds, SerialRunner, branch_specs, check_feeds

__all__ = ["FakeRunner", "fake_facts"]


FAKE_LAYOUT = VectorLayout(
    (Segment("global", 8), Segment("coarse", 12), Segment("fine.0", 8, 0.5), Segment("fine.1", 8, 0.5))
)


def fake_facts(
    image_size: tuple[int, int] = (12, 4), *, layout: VectorLayout = FAKE_LAYOUT, fingerprint: str = "fake"
) -> ModelFacts:
    """Facts of a model that does not exist: at most 16 tokens; by default 36 numbers with |z|² = 3."""
    return ModelFacts(
        family="fake",
        config={},
        preprocessing=Preprocessing(image_size=image_size),
        caption_rule="none",
        max_length=16,
        pad_id=0,
        layout=layout,
        fingerprint=fingerprint,
    )


class FakeRunner(SerialRunner):
    """A runner whose embeddings are noise seeded by a hash of each item; see the protocol.

    An item gives the same embedding alone or in any batch, on any machine; different items give unrelated ones. A
    caption's filling does not count. Each segment has the norm that the layout declares.

    Args:
        facts: The model it stands for: input size, layout.
        branch: ``image`` or ``text``.
        error: Raised by `run` instead of an answer, once ``fail_after`` calls have succeeded.
        fail_after: How many calls succeed before.

    Attributes:
        inputs, outputs: As a real model's of these facts.
        batch_sizes: The number of items in each call that succeeded, in order.
        closed: Whether `close` was called.
    """

    def __init__(
        self, facts: ModelFacts, branch: Branch, *, error: Exception | None = None, fail_after: int = 0
    ) -> None:
        self._layout = facts.layout
        self._branch = branch
        self.inputs, self.outputs = branch_specs(facts, branch)
        self._error = error
        self._fail_after = fail_after
        self.batch_sizes: list[int] = []
        self.closed = False

    @property
    def description(self) -> str:
        """That it is a fake."""
        return f"fake {self._branch} branch"

    def run(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Make up the embeddings. Raises FeedError as any runner, and the error it was told to raise."""
        if self.closed:
            raise FeedError("the runner is closed")
        check_feeds(self.inputs, feeds)
        if self._error is not None and len(self.batch_sizes) >= self._fail_after:
            raise self._error
        arrays = [feeds[spec.name] for spec in self.inputs]
        if self._branch == "image":
            items = [crop.tobytes() for crop in arrays[0]]
        else:
            items = [ids[mask != 0].astype("<i4").tobytes() for ids, mask in zip(*arrays, strict=True)]
        self.batch_sizes.append(len(items))
        return {self.outputs[0].name: np.stack([self._embedding(item) for item in items])}

    def close(self) -> None:
        """Refuse to run from now on."""
        self.closed = True

    def _embedding(self, item: bytes) -> NDArray[np.float32]:
        seed = hashlib.blake2b(item, digest_size=8, person=self._branch.encode()).digest()
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        vector = rng.standard_normal(self._layout.dim, dtype=np.float32)
        for segment in self._layout.segments:
            piece = vector[self._layout.slices[segment.name]]
            piece *= np.sqrt(segment.weight) / np.linalg.norm(piece)
        return vector
