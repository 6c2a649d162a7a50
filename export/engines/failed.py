"""Where engines go that failed: their build took long, and whoever wants to know why needs them and the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tbps_infer.atomic import new_folder
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BundleError
from tbps_infer.tensorrt.engine_folder import ENGINE_JSON, ENGINES, FAILED_JSON, EngineFacts, EngineFolder

__all__ = ["failed_place", "set_aside"]


def failed_place(bundle: Bundle, facts: EngineFacts) -> Path:
    """Where engines go that fail, beside the place that they would have had."""
    return bundle.path / ENGINES / f"{facts.folder_name}.failed"


def set_aside(folder: EngineFolder, report: dict[str, Any], aside: Path) -> None:
    """Move engines to where nothing takes them for engines, in place of others that failed before.

    Args:
        folder: The engines, in their place or not yet.
        report: What was found, for the folder's ``failed.json``, which has all else that is known of them.
        aside: As `failed_place` says.

    Raises:
        BundleError: The folder cannot be written.
    """
    with new_folder(aside, BundleError, replace=True) as new:
        # First, for without it the rest is no folder of engines any more.
        (folder.path / ENGINE_JSON).unlink(missing_ok=True)
        for entry in sorted(folder.path.iterdir()):
            entry.rename(new / entry.name)
        facts = replace(folder.facts, self_check=report).to_json()
        text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
        (new / FAILED_JSON).write_text(text, encoding="utf-8")
    if folder.facts.self_check:  # it was in its place
        shutil.rmtree(folder.path)
