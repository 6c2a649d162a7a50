"""The package's public names exist, are the modules' own, and load nothing before they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tbps_infer


def test_every_public_name_loads() -> None:
    for name in tbps_infer.__all__:
        assert getattr(tbps_infer, name) is not None
    assert set(tbps_infer._HOMES) | {"__version__"} == set(tbps_infer.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Galery'"):
        _ = tbps_infer.Galery


def test_every_public_name_can_be_the_first_that_is_imported() -> None:
    homes = sorted({f"tbps_infer.{home}" for home in tbps_infer._HOMES.values()})
    code = (
        "import importlib, os\n"
        f"for home in {homes!r}:\n"
        "    if os.fork() == 0: importlib.import_module(home); os._exit(0)\n"
        "    assert os.wait()[1] == 0, home"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_none_of_them() -> None:
    code = "import sys, tbps_infer; print([m for m in sys.modules if m.startswith(('tbps_infer.', 'numpy'))])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_opening_a_gallery_to_search_loads_nothing_that_writes_one() -> None:
    code = (
        "import sys\nfrom tbps_infer.gallery import open_galleries\n"
        "print([m for m in sys.modules if m.split('.')[-1] in ('writer', 'upkeep', 'folder_upkeep', 'lance')"
        " and not m.startswith('tbps_infer.gallery.lance')])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
