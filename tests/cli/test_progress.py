"""Progress bars leave nothing behind where no person watches."""

from __future__ import annotations

import pytest

from tbps_infer.cli.shared import progress as progress_module
from tbps_infer.cli.shared.progress import progress_bar


def test_without_a_terminal_a_bar_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("Embedding", "items") as progress:
        progress(1, 2)
        progress(2, 2)
        progress(1, 0, "another label, of unknown length")
    assert capsys.readouterr() == ("", "")


def test_a_line_goes_above_a_bar_that_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal
    monkeypatch.setattr(progress_module, "_SHOW_AFTER_S", -1)
    with progress_bar("Embedding", "items") as progress:
        progress(1, 2)
        progress_module.say("above the bar")
    assert "\x1b[2Kabove the bar\n" in capsys.readouterr().err
