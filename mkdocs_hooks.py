"""What mkdocs cannot be told in mkdocs.yml: pages that lie outside docs/, and four folders under one import name."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root, and the pages that they become."""


def on_config(config: MkDocsConfig) -> None:
    """Lay out the package as an installation does, for a reader of sources that does not import them."""
    package = ROOT / "build" / "docs" / "tbps_infer"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for source in (*(ROOT / "tbps_infer").iterdir(), *(ROOT / name for name in ("export", "benchmarks", "cli"))):
        (package / source.name).symlink_to(source)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, with their links as they are seen from docs/."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for source, target in PAGES.items():
            text = text.replace(f"]({source})", f"]({target})")
        files.append(File.generated(config, page, content=re.sub(r"\]\(docs/", "](", text)))
    return files
