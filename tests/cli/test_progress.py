"""Progress bars leave nothing behind where no person watches."""

from __future__ import annotations

import pytest

from tbps_infer.cli.shared.progress import progress_bar


def test_without_a_terminal_a_bar_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Embedding", "items") as progress:
        progress(1, 2)
        progress(2, 2)
    assert capsys.readouterr() == ("", "")
