"""What `tbps search` loads and sets up before it answers, on which the time of its start depends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tbps_infer
from tbps_infer.benchmarks.stages import write_gallery
from tbps_infer.bundle import Bundle
from tbps_infer.cli.main import COMMANDS

BUNDLE = Path(tbps_infer.__file__).parent / "assets" / "tiny-bundle"

UNUSED = {
    *(home.partition(":")[0] for name, (home, _) in COMMANDS.items() if name != "search"),
    *("PIL", "importlib.metadata", "rich", "tempfile", "torch", "zipfile"),
    *(f"tbps_infer.gallery.{name}" for name in ("expressions.nodes", "lance.reader", "times", "upkeep", "writer")),
    *(f"tbps_infer.{name}" for name in ("embedding", "formats.npz_files", "images", "sources", "video")),
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gallery(tmp_path_factory.mktemp("start") / "gallery", Bundle.open(BUNDLE).model, 20)


def test_a_search_loads_what_it_uses_and_collects_little_garbage(gallery: Path) -> None:
    code = (
        "import atexit, gc, json, os, sys\n"
        "def tell():\n"
        f"    loaded = [name for name in {sorted(UNUSED)!r} if name in sys.modules]\n"
        "    facts = loaded, gc.isenabled(), gc.get_threshold()[0], gc.get_freeze_count() > 10_000\n"
        "    print(json.dumps([*facts, os.environ['OPENBLAS_THREAD_TIMEOUT']]), file=sys.stderr)\n"
        "atexit.register(tell)\n"  # called after what is registered later
        "from tbps_infer.cli.main import search_main\nsearch_main()"
    )
    arguments = [str(gallery), "a man in a red coat", "--bundle", str(BUNDLE), "-q"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].split()[0] == "1"
    assert json.loads(done.stderr) == [[], True, 10_000, True, "4"]
