"""`tbps doctor`: what this machine can run, and whether a bundle works on it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, json_option, memory_option, verbosity_options
from tbps_infer.cli.shared.streams import styled
from tbps_infer.errors import UsageError
from tbps_infer.render.printable import printable

if TYPE_CHECKING:
    from tbps_infer.doctor import Finding

__all__ = ["doctor"]

_MARKS = {
    "ok": ("ok", "green"),
    "absent": ("-", "yellow"),
    "warning": ("warning", "yellow"),
    "problem": ("PROBLEM", "red"),
}


@click.command()
@click.argument("bundle", type=EXISTING, required=False)
@click.option("--device", default="cuda", help="GPU to check: cuda or cuda:N.")
@click.option("--triton", metavar="URL", help="Triton server that runs BUNDLE: replay the golden vectors there, too.")
@click.option("--triton-name", default="tbps", help="What the names of its models begin with.")
@memory_option
@json_option
@verbosity_options
def doctor(
    bundle: Path | None, device: str, triton: str | None, triton_name: str, memory_kind: Any, as_json: bool
) -> int:
    """Check what this machine can run, and test BUNDLE on it.

    The golden vectors of a bundle are run through its tokenizer, preprocessing, graphs and engines. Exits with status
    1 if there is a problem. A line marked - names something that is not installed, and a warning names a difference
    too small to matter; neither is a problem.

    \b
    tbps doctor bundle
    tbps doctor bundle --triton http://localhost:8000
    """
    from tbps_infer.devices import Device
    from tbps_infer.doctor import examine_bundle, examine_machine
    from tbps_infer.triton.client import TritonClient

    if triton is not None and bundle is None:
        raise UsageError("A server was given, and no bundle to compare it with.", "tbps doctor BUNDLE --triton URL")
    server = None if triton is None else TritonClient(triton, triton_name)
    index = Device.parse(device).index
    findings: list[Finding] = []
    groups = [("machine", examine_machine(index, memory_kind))]
    if bundle is not None:
        groups.append((str(bundle), examine_bundle(bundle, index, memory_kind, server)))
    for title, group in groups:
        if not as_json and title != "machine":
            click.echo(f"\n{title}")
        for finding in group:
            findings.append(finding)
            if not as_json:
                _print(finding)
    problems = sum(finding.status == "problem" for finding in findings)
    if as_json:
        values = {"problems": problems, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
    return int(problems > 0)


def _print(finding: Finding) -> None:
    mark, color = _MARKS[finding.status]
    line = printable(f"{finding.subject}: {finding.detail}")
    mark = mark.ljust(7)
    on_terminal = sys.stdout.isatty()
    shown = click.style(mark, fg=color) if on_terminal else mark
    click.echo(f"{shown}  {line}", file=styled(sys.stdout) if on_terminal else sys.stdout)
    if finding.action and finding.status != "ok":
        click.echo(f"{'':7}    -> {finding.action}")
