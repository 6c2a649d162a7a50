"""`tbps export` with engines: the builder's options, what is said when only the build fails, and signals."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from command_line import fail, run, succeed

import tbps_infer.export.bundle as bundle_module
from tbps_infer.bundle import Bundle
from tbps_infer.cli import build as build_module
from tbps_infer.cli import export as export_module
from tbps_infer.cli import main as main_module
from tbps_infer.cli.shared import signals
from tbps_infer.errors import BackendError
from tbps_infer.model_facts import Branch

pytestmark = pytest.mark.usefixtures("no_driver")


@pytest.fixture
def ready_graphs(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take the tiny bundle's graphs, which saves their making."""

    def export(_module: object, _branch: Branch, _facts: object, path: Path, **_options: object) -> None:
        shutil.copy(tiny_bundle / path.name, path)

    monkeypatch.setattr(bundle_module, "export_graph", export)


def test_export_takes_every_option_of_the_builder() -> None:
    options = [
        {option.name for option in command.params if isinstance(option, click.Option)}
        for command in (build_module.build, export_module.export)
    ]
    assert options[0] <= options[1]


def outdated(bundle: Path) -> list[str]:
    engines = json.loads(run("info", bundle, "--json").stdout)["engines"]
    return [name for name, facts in engines.items() if facts["outdated"]]


@pytest.mark.usefixtures("ready_graphs")
def test_one_command_leads_from_a_checkpoint_to_engines(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    bundle = tmp_path / "bundle"
    done = succeed(
        *("export", tiny_checkpoint, "-o", bundle, "--backend", "tensorrt-rtx", "--fp16", "--target", "sm86"),
        *("--min-batch", "2", "--opt-batch", "4,2", "--max-batch", "4", "--text-lengths", "32,100"),
        *("--workspace", "1GiB", "--device", "cuda", "--keep-fp32", "Softmax"),
    )
    assert f"{bundle}: verified against PyTorch" in done.stdout
    (folder,) = (bundle / "engines").iterdir()
    spec = json.loads((folder / "engine.json").read_text(encoding="utf-8"))["spec"]
    assert spec["batch"] == {
        "image": {"minimum": 2, "optimum": 4, "maximum": 4},
        "text": {"minimum": 2, "optimum": 2, "maximum": 4},
    }
    assert spec["settings"] == {"workspace_bytes": 1 << 30, "optimization_level": None, "target": "sm86"}
    assert (spec["text_lengths"], spec["keep_fp32"], spec["precision"]) == ([32, 100], ["Softmax"], "fp16")
    # Engines are no export's: they stay, and are outdated by the graphs that they were made from.
    assert not outdated(bundle)
    succeed("export", tiny_checkpoint, "-o", bundle, "--overwrite")
    assert not outdated(bundle), "the same graphs"
    opened = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    opened["files"]["text.onnx"]["sha256"] = "0" * 64
    (bundle / "bundle.json").write_text(json.dumps(opened), encoding="utf-8")
    assert outdated(bundle) == [folder.name]


@pytest.mark.usefixtures("ready_graphs")
def test_a_build_that_fails_leaves_the_bundle_and_says_how_to_go_on(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx")
    given: list[Any] = []

    def refuse(_bundle: Path, options: Any) -> None:
        given.append(options)
        if options.precision == "fp16":
            raise BackendError("The builder failed.", "Try again.")

    monkeypatch.setattr(export_module, "build_and_report", refuse)
    bundle = tmp_path / "a bundle"
    options = ["--backend", "tensorrt-rtx", "--target", "sm86", "--max-batch", "4", "--text-lengths", "32,100"]
    options += ["--workspace", "1GiB", "--keep-fp32", "Softmax", "--keep-fp32", "Add", "--auto-islands"]
    done = fail(1, "export", tiny_checkpoint, "-o", bundle, "--precision", "fp32", "--fp16", *options)
    Bundle.open(bundle).check_files()
    assert "Error: The builder failed." in done.stderr
    hint = done.stderr.strip().splitlines()[-1]
    said, _, command = hint.partition("; go on with: ")
    assert said == f"Hint: Try again. The bundle {bundle} is there"
    monkeypatch.setattr(build_module, "build_and_report", lambda _bundle, options: given.append(options))
    words = shlex.split(command)
    assert words[:3] == ["tbps", "build", str(bundle)]
    succeed(*words[1:])
    failed, again = given[1:]
    assert again == failed, "the command does what was asked for"
    assert [each.precision for each in given] == ["fp32", "fp16", "fp16"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--target", "sm86", "--max-batch", "4"), "need --backend tensorrt or tensorrt-rtx: --target, --max-batch"),
        (("--backend", "tensorrt-rtx", "--fp16", "--max-batch", "0"), "--max-batch"),
        (("--backend", "tensorrt-rtx", "--fp16", "--device", "cpu"), "Engines do not run on the CPU"),
        (("--backend", "tensorrt-rtx", "--fp16", "--target", "sm87"), "does not build for 'sm87'"),
        (("--add", "--opset", "20"), "so --opset would do nothing"),
        (("--add", "--external-data"), "so --external-data would do nothing"),
        (("--add", "--overwrite"), "cannot be added to a bundle that is replaced"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_export(
    tiny_checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    done = fail(2, "export", tiny_checkpoint, "-o", tmp_path / "out", *arguments)
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_greatest_batch_alone_is_enough(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(build_module, "build_and_report", lambda _bundle, options: given.append(options))
    succeed("build", tiny_checkpoint, "--max-batch", "4")
    (options,) = given
    assert (options.image_batch.optimum, options.text_batch.optimum) == (4, 1)


@pytest.mark.parametrize(("flags", "precision"), [(("--int8",), "int8"), (("--precision", "fp16", "--half"), "fp16")])
def test_shorthands(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], precision: str
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(build_module, "build_and_report", lambda _bundle, options: given.append(options))
    succeed("build", tiny_checkpoint, *flags)
    assert given[0].precision == precision
    assert "fp16 and int8 exclude each other" in fail(2, "build", tiny_checkpoint, "--fp16", "--int8").stderr


@pytest.mark.parametrize("name", ["export", "search"])
def test_scripts_call_themselves_by_their_own_name(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in ((["-h"], 0), (["--nonsense"], 2)):
        monkeypatch.setattr(sys, "argv", [f"tbps-{name}", *arguments])
        with pytest.raises(SystemExit) as caught:
            getattr(main_module, f"{name}_main")()
        assert caught.value.code == code
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: tbps-{name} [OPTIONS]")
    assert f"Try 'tbps-{name} --help' for help" in err
    assert run(name, "-h").stdout.startswith(f"Usage: cli {name} [OPTIONS]")  # as click's runner calls the group


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_a_signal_leaves_nothing_half_written(tiny_checkpoint: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tbps_infer.cli.main", "export", str(tiny_checkpoint)]
    command += ["-o", str(tmp_path / "out" / "bundle")]
    # Under nohup, which this test may run under, a hangup is ignored by all processes.
    heard = partial(signal.signal, number, signal.SIG_DFL)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Exporting the image"):
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert (process.returncode, rest.strip().splitlines()[-1]) == (-number, f"Terminated by {number.name}.")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raised_terminations(), pytest.raises(signals.Terminated, match="SIGTERM"):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
