"""Where things lie that tests read, whatever folder a test is in."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""

SHIPPED = ROOT / "tbps_infer" / "assets" / "tiny"
"""The shipped, trained checkpoint."""

SHIPPED_BUNDLE = ROOT / "tbps_infer" / "assets" / "tiny-bundle"
"""The bundle that was exported from it and is shipped, too."""

MERGES = ROOT.parent / "shared" / "data" / "bpe_simple_vocab_16e6.txt.gz"
"""CLIP's merges, which are not ours to ship; tests that need them are skipped where they are missing."""
