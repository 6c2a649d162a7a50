"""`tbps doctor`: what this machine can run, and whether a bundle works on it."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tbps_infer.cli.shared.options import EXISTING, verbosity_options

__all__ = ["doctor"]

_MARKS = {"ok": ("ok", "green"), "absent": ("-", "yellow"), "problem": ("PROBLEM", "red")}


@click.command()
@click.argument("bundle", type=EXISTING, required=False)
@click.option("--device", default="cuda", help="The GPU to look at: cuda or cuda:N.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbosity_options
def doctor(bundle: Path | None, device: str, as_json: bool) -> int:
    """Tell what this machine has to run models with, and try BUNDLE on it.

    A bundle's golden vectors are replayed through its tokenizer, resizing, graphs and engines. Exits 1 on a
    problem; what is marked - is not there, and is no problem.

    \b
    tbps doctor bundle
    """
    from tbps_infer.devices import Device
    from tbps_infer.doctor import Finding, examine_bundle, examine_machine

    index = Device.parse(device).index
    findings: list[Finding] = []
    groups = [("machine", examine_machine(index))]
    if bundle is not None:
        groups.append((str(bundle), examine_bundle(bundle, index)))
    for title, group in groups:
        if not as_json and title != "machine":
            click.echo(f"\n{title}")
        for finding in group:
            findings.append(finding)
            if not as_json:
                _print(finding)
    problems = sum(finding.status == "problem" for finding in findings)
    if as_json:
        values = {"problems": problems, "findings": [finding.to_json() for finding in findings]}
        click.echo(json.dumps(values, indent=2, ensure_ascii=False))
    return int(problems > 0)


def _print(finding: object) -> None:
    status, subject, detail, action = (getattr(finding, name) for name in ("status", "subject", "detail", "action"))
    mark, color = _MARKS[status]
    click.echo(f"{click.style(mark.ljust(7), fg=color)}  {subject}: {detail}")
    if action and status != "ok":
        click.echo(f"{'':7}    -> {action}")
