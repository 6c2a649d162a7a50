"""Writes and changes small text files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["change_json", "write_files"]


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """Files by their path below a folder, which is returned."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Read an object, have it changed in place, and write it back."""
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")
