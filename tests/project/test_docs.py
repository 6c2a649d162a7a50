"""The pages beside the README: what they show is run, what cannot run here says why, and what they name exists."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from documents import DOCUMENTS, NOT_RUN, README, SLOW, Block, blocks, parse_command, run, run_block
from places import ROOT

from tbps_infer.data.synth import write_people

PAGES = (README, *DOCUMENTS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
LANGUAGES = {"console", "python", "text"}
CONSOLE = [block for page in PAGES for block in blocks(page, "console")]
SLOW_ORDER = ("precision", "tensorrt", "verification", "explain")
"""In one folder: the later pages use the data set and the bundle that the first makes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shipped_bundle: Path) -> Path:
    """What the reader of a page has: a bundle, people with metadata, and a gallery of them."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "tbps_infer").symlink_to(ROOT / "tbps_infer")
    shutil.copytree(shipped_bundle, folder / "bundle")
    described = write_people(folder / "people", 12, seed=7)
    pictures = sorted((folder / "people").glob("*.jpg"))
    (folder / "pictures").symlink_to("people")
    shutil.copy(pictures[0], folder / "crop.jpg")
    _write_rows(folder / "queries.csv", ("text", "person"), [(one.caption, one.identity) for one in described[:3]])
    rows = [(f"people/{one.name}", int(one.name[:4]), one.name[5:10], "2024-06-01") for one in pictures]
    _write_rows(folder / "people.csv", ("path", "id", "camera", "time"), rows)
    run("tbps embed bundle people.csv -o gallery", folder)
    return folder


def _write_rows(file: Path, head: tuple[str, ...], rows: Sequence[tuple[str | int, ...]]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([head, *rows])


def _runs(page: Path, *markers: str) -> list[Block]:
    return [block for block in blocks(page, "console") if block.marker in markers]


@pytest.mark.parametrize("page", [page for page in DOCUMENTS if _runs(page, "")], ids=lambda page: page.stem)
def test_the_transcripts_are_what_the_commands_print(page: Path, folder: Path) -> None:
    for block in _runs(page, ""):
        run_block(block, folder)


@pytest.mark.parametrize("block", [block for page in DOCUMENTS for block in blocks(page, "python")], ids=str)
def test_the_python_runs(block: Block, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", block.text], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_slow_transcripts_are_what_the_commands_print(folder: Path) -> None:
    pages = [ROOT / "docs" / f"{name}.md" for name in SLOW_ORDER]
    assert {page for page in DOCUMENTS if _runs(page, SLOW)} == set(pages)
    for page in pages:
        for block in _runs(page, SLOW):
            if "tensorrt-rtx" in block.text and importlib.util.find_spec("tensorrt_rtx") is None:
                continue  # it is installed on x86 alone
            run_block(block, folder, points=0.3)


def test_every_block_has_a_language_and_every_command_is_run_or_says_why_not() -> None:
    assert len(CONSOLE) > 20
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = blocks(page)
        assert text.count("\n```") == 2 * len(found), f"{page}: a fence without its end"
        for block in found:
            assert block.language in LANGUAGES, block
            if block.language == "text":
                assert not re.search(r"^(\$ )?(tbps|python|pip|make) ", block.text, flags=re.MULTILINE), block
        assert not re.search(r"^ {4}(\$ )?(tbps|python|pip|export|make) ", text, flags=re.MULTILINE), page
    for block in CONSOLE:
        assert block.steps, block
        assert block.marker in ("", SLOW) or len(block.marker) > len(NOT_RUN), block


@pytest.mark.parametrize("block", [block for block in CONSOLE if not block.is_run], ids=str)
def test_a_command_that_is_not_run_is_one_that_there_is(block: Block) -> None:
    for step in block.steps:
        words = shlex.split(step.command, comments=True)
        if "tbps" in words:
            parse_command(words[words.index("tbps") + 1 :])


def test_a_command_in_a_crontab_is_one_that_there_is() -> None:
    texts = [block.text for page in PAGES for block in blocks(page) if block.language == "text"]
    commands = re.findall(r"bin/tbps (.+)$", "\n".join(texts), flags=re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        parse_command(shlex.split(command))


def test_every_module_that_a_page_names_exists() -> None:
    named = {
        name.rstrip(".")
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if not line.startswith("- Command: ")  # what was typed when the samples of a page were taken
        for name in re.findall(r"(?:python -m |`)(tbps_infer\.[\w.]+)", line)
    }
    assert "tbps_infer.benchmarks.studies.search" in named
    assert all(_exists(name) for name in named)


def _exists(name: str) -> bool:
    """Whether there is a module of that full name, or a module with such an attribute."""
    module, _, attribute = name.rpartition(".")
    try:
        return importlib.util.find_spec(name) is not None or hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:  # what should be a package is none
        return hasattr(importlib.import_module(module), attribute)


def test_every_file_of_the_code_that_a_page_names_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"`((?:tbps_infer|export|benchmarks|cli|tests)/[\w/.-]*)`", page.read_text("utf-8")):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target, _, anchor in (
            link.partition("#") for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8"))
        ):
            file = (page.parent / target).resolve() if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in _anchors(file), f"{page.name}: {target}#{anchor}"


def test_the_site_has_every_page_once_and_every_public_module() -> None:
    """What `make docs` builds is told here too, where building takes too long."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    made = {"index.md", "contributing.md", "changelog.md", "reference/commands.md"}
    hooks = (ROOT / "mkdocs_hooks.py").read_text("utf-8")
    assert all(f'"{page}"' in hooks for page in made)
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    shown = [page for section in site["nav"] for page in _pages(section)]
    assert sorted(shown) == sorted(written | made)
    named = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/reference/python.md").read_text("utf-8"), re.MULTILINE)
    assert {"tbps_infer", "tbps_infer.gallery", "tbps_infer.export.bundle.export_bundle"} <= set(named)
    assert all(_exists(name) for name in named)


def _pages(section: object) -> list[str]:
    if isinstance(section, str):
        return [section]
    assert isinstance(section, dict)
    return [page for inner in section.values() for each in (inner if isinstance(inner, list) else [inner])
            for page in _pages(each)]  # fmt: skip


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
