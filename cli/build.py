"""`tbps build`: a bundle's graphs become TensorRT engines, on the device that will run them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.build_options import build_and_report, build_options
from tbps_infer.cli.shared.gate_options import verify_data_option
from tbps_infer.cli.shared.options import EXISTING, mixed_precision_options, precision_options, verbosity_options
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from tbps_infer.verification.evaluation_set import EvaluationSet

__all__ = ["build"]


@click.command()
@click.argument("bundle", type=EXISTING)
@click.option("--backend", type=click.Choice(tuple(FLAVOURS)), default="tensorrt", help="TensorRT edition.")
@build_options
@verify_data_option
@mixed_precision_options
@precision_options
@verbosity_options
def build(
    bundle: Path,
    backend: Any,
    build: Mapping[str, Any],
    gate_on: EvaluationSet | None,
    mixed: Any,
    precision: Any,
) -> None:
    """Build the TensorRT engines of BUNDLE on this machine.

    The precision of every kernel is checked and printed. Engines whose output differs from the reference are not
    installed and kept aside. INT8 needs a bundle that was exported with --precision int8.

    \b
    tbps build bundle --fp16
    tbps build bundle --backend tensorrt-rtx --fp16 --target sm86
    """
    from tbps_infer.export.engines.options import EngineOptions

    build_and_report(
        bundle, EngineOptions(backend=backend, precision=precision, mixed=mixed, gate_on=gate_on, **build)
    )
