"""Datasets on the command line: embedded in shards, pushed, searched as one, described, pulled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command_line import fail, succeed

from tbps_infer.data.synth import write_people


def hits(*arguments: str | Path) -> list[dict[str, Any]]:
    """The hits of the only query."""
    (result,) = json.loads(succeed("search", *arguments, "--format", "json").stdout)
    found: list[dict[str, Any]] = result["hits"]
    return found


def test_datasets_are_embedded_pushed_searched_and_pulled(tiny_bundle: Path, tmp_path: Path) -> None:
    people, folder, site = tmp_path / "people", tmp_path / "gallery", tmp_path / "site.lance"
    write_people(people, 4, seed=3)
    succeed("embed", tiny_bundle, people, "-o", folder)
    counts = []
    for shard in ("0/2", "1/2"):
        told = succeed("embed", tiny_bundle, people, "-o", site, "--shard", shard, "--with-crops").stdout
        counts.append(int(told.split(": ")[1].split()[0]))
    assert sum(counts) == 12
    assert "12 unchanged" in succeed("embed", tiny_bundle, people, "-o", site).stdout

    wanted = hits(folder, "a woman in a red coat", "-k", "20")
    found = hits(site, "a woman in a red coat", "-k", "20", "--exact")
    assert [(hit["path"], hit["score"]) for hit in found] == [(hit["path"], hit["score"]) for hit in wanted]
    both = hits(site, folder, "a woman in a red coat", "-k", "30")
    assert len(both) == 24 and {hit["gallery"] for hit in both} == {str(site), str(folder)}

    gone = tmp_path / "gone.lance"
    assert "There is no dataset at" in fail(1, "search", site, gone, "a man").stderr
    partly = succeed("search", site, gone, "a man", "-k", "3", "--allow-partial", "--format", "csv")
    assert partly.stdout.startswith("query_id,query,gallery,rank") and f"Not searched: {gone}" in partly.stderr

    for picture in people.glob("*.jpg"):
        picture.unlink()
    page = tmp_path / "hits.html"
    quiet = succeed("search", site, "a man", "--html", page)
    assert "not there any more" not in quiet.stderr
    assert page.read_text().count("data:image/jpeg;base64") == 10 and "cannot be read" not in page.read_text()

    facts = json.loads(succeed("gallery", "info", site, "--json").stdout)
    assert (facts["records"], facts["crops"], facts["indexes"], facts["kind"]) == (12, True, [], "gallery")
    assert facts == json.loads(succeed("info", site, "--json").stdout)
    assert "1 records removed" in succeed("gallery", "rm", site, "--record", found[0]["record"]).stdout
    assert "11 rows kept, 1 dropped" in succeed("gallery", "compact", site).stdout
    assert "11 records" in succeed("gallery", "verify", site).stdout
    assert "11 records added" in succeed("gallery", "pull", site, tmp_path / "back").stdout
    assert "11 records added" in succeed("gallery", "push", tmp_path / "back", tmp_path / "two.lance").stdout
    assert "0 records added, 11 known" in succeed("gallery", "push", tmp_path / "back", tmp_path / "two.lance").stdout


def test_what_makes_no_sense_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    site = tmp_path / "site.lance"
    assert "is no dataset" in fail(2, "gallery", "push", tmp_path, tmp_path / "folder").stderr
    assert "from 0 to n - 1" in fail(2, "embed", tiny_bundle, tmp_path, "-o", site, "--shard", "2/2").stderr
    assert "no shard such as 3/64" in fail(2, "embed", tiny_bundle, tmp_path, "-o", site, "--shard", "2").stderr
    assert "--exact searches no index" in fail(2, "search", site, "a man", "--exact", "--probes", "3").stderr
    assert "There is no dataset at" in fail(1, "info", site).stderr
    assert "holds credentials" in fail(2, "info", "s3://key:secret@bucket/site.lance").stderr
    assert not site.exists()
