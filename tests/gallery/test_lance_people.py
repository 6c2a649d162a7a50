"""A dataset answers as the folder that it was pushed from, over real embeddings of 4,000 drawn people."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import succeed
from places import SHIPPED_BUNDLE

from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.encoder import Encoder
from tbps_infer.gallery import SearchOptions, open_gallery

pytest.importorskip("lance")
pytestmark = pytest.mark.slow


def test_300_captions_find_the_same_among_4000_people(tmp_path: Path) -> None:
    people, folder, dataset = tmp_path / "people", tmp_path / "gallery", tmp_path / "people.lance"
    write_dataset(people, SynthOptions(test=4000, pictures=1, captions=1, only=("test",)))
    succeed("embed", str(SHIPPED_BUNDLE), str(people), "-o", str(folder))
    succeed("gallery", "push", str(folder), str(dataset))
    captions = read_dataset(people, "test").captions[:300]
    with Encoder.open(SHIPPED_BUNDLE) as encoder:
        queries = encoder.encode_texts(captions)
    with open_gallery(folder) as one, open_gallery(dataset) as other:
        assert one.count == other.count == 4000
        found = [
            one.search(queries, 10, options=SearchOptions(method="scan")),
            other.search(queries, 10, options=SearchOptions(method="exact")),
        ]
    answers = [[[(hit.path, hit.score, dict(hit.split)) for hit in hits] for hits in each] for each in found]
    assert answers[0] == answers[1]
