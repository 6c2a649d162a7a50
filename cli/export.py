"""`tbps export`: a checkpoint becomes a verified bundle."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tbps_infer.cli.shared.build_options import (
    build_and_report,
    build_command,
    build_options,
    given_build_options,
)
from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.gate_options import verify_data_option
from tbps_infer.cli.shared.options import (
    EXISTING,
    int8_limit_options,
    mixed_precision_options,
    output_option,
    precisions_options,
    verbosity_options,
)
from tbps_infer.cli.shared.progress import say
from tbps_infer.model_facts import BRANCHES
from tbps_infer.tensorrt.flavours import FLAVOURS

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.export.engines.options import EngineOptions
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.verification.evaluation_set import EvaluationSet

__all__ = ["export"]


@click.command()
@click.argument("checkpoint", type=EXISTING)
@output_option("Bundle folder to write.")
@family_options
@click.option("--opset", type=int, default=18, help="ONNX opset, 18 to 22.")
@click.option("--external-data", is_flag=True, help="Store the weights in separate files beside the graphs.")
@click.option("--with-attention", is_flag=True, help="Also export the decoder's attention (reference model only).")
@click.option("--overwrite", is_flag=True, help="Replace the files of an existing bundle; others in it stay.")
@click.option("--add", is_flag=True, help="Add graphs of another precision to an existing bundle of CHECKPOINT.")
@click.option(
    "--data",
    type=EXISTING,
    metavar="DATASET",
    help="Data set whose test split to verify on.",
    show_default="synthetic people",
)
@click.option("--samples", type=click.IntRange(2), default=32, help="Pictures of --data to verify on.")
@click.option(
    "--backend",
    type=click.Choice(("onnxruntime", *FLAVOURS)),
    default="onnxruntime",
    help="tensorrt and tensorrt-rtx also build engines, as tbps build does, with the options that follow.",
)
@build_options
@verify_data_option
@click.option(
    "--calibration",
    type=EXISTING,
    metavar="DATA",
    help="INT8 only: data set folder (train and val splits), or a CSV or JSONL list with path and caption.",
)
@int8_limit_options
@mixed_precision_options
@precisions_options
@verbosity_options
def export(
    checkpoint: Path,
    output: Path,
    load: LoadOptions,
    opset: int,
    external_data: bool,
    with_attention: bool,
    overwrite: bool,
    add: bool,
    data: Path | None,
    samples: int,
    backend: Any,
    build: Mapping[str, Any],
    gate_on: EvaluationSet | None,
    calibration: Path | None,
    int8_limits: dict[str, float],
    mixed: Any,
    precisions: Any,
) -> None:
    """Export CHECKPOINT, a folder or a file of tensors, to a bundle of two verified ONNX graphs.

    Both graphs are compared with PyTorch on real inputs. If they differ by more than the limits, nothing is written.
    With --backend, the bundle also gets engines, for which the options of tbps build are taken.

    \b
    tbps export checkpoints/best -o bundle
    tbps export checkpoints/best -o bundle --backend tensorrt --fp16
    tbps export checkpoints/best -o bundle --backend tensorrt-rtx --fp16 --target sm86 --max-batch 8
    tbps export checkpoints/best -o bundle --fp16 --int8 --calibration CUHK-PEDES
    tbps export checkpoints/best -o bundle --add --int8 --calibration CUHK-PEDES
    """
    from tbps_infer.export.bundle import export_bundle
    from tbps_infer.export.options import ExportOptions

    engines = _engines(backend, precisions, {**build, "mixed": mixed, "gate_on": gate_on})
    options = ExportOptions(
        load=load,
        opset=opset,
        external_data=external_data,
        with_attention=with_attention,
        overwrite=overwrite,
        add=_addable(add),
        samples=None if data is None else _samples(data, samples),
        gate_on=gate_on,
        **(_source_graphs(precisions) if engines else {"precisions": precisions, "mixed": mixed}),
        int8=_int8(calibration, int8_limits),
    )
    bundle = export_bundle(checkpoint, output, options, on_step=lambda step: say(f"{step} ..."))
    check = bundle.verification
    click.echo(
        f"{output}: verified against PyTorch, "
        f"cosine image {check['image']['cosine_min']:.7f}, text {check['text']['cosine_min']:.7f} at least, "
        f"top-{check['ranking']['top_k']} overlap {check['ranking']['overlap']:.1%}"
    )
    if dropped := bundle.source.get("dropped"):
        click.echo("dropped, as only training needs them: " + ", ".join(f"{n} {c}" for n, c in dropped.items()))
    if "int8" in check:
        click.echo(_int8_summary(check["int8"]))
    _build_all(output, engines)


def _engines(backend: Any, precisions: Collection[Any], given: Mapping[str, Any]) -> list[EngineOptions]:
    """What to build, for each precision; refused before the minutes that exporting takes where it cannot be built."""
    if backend == "onnxruntime":
        unused = given_build_options()
        if unused:
            raise click.UsageError(f"These options need --backend tensorrt or tensorrt-rtx: {', '.join(unused)}.")
        return []
    from tbps_infer.export.engines.build import check_buildable
    from tbps_infer.export.engines.options import EngineOptions
    from tbps_infer.export.fp16.convert import MixedPrecisionOptions

    engines = []
    for precision in precisions:
        mixed = MixedPrecisionOptions() if precision == "fp32" and len(precisions) > 1 else given["mixed"]
        engines.append(EngineOptions(backend=backend, precision=precision, **{**given, "mixed": mixed}))
    for each in engines:
        check_buildable(each)
    return engines


def _build_all(bundle: Path, engines: list[EngineOptions]) -> None:
    """Build engines of a bundle that is in its place; where one fails, the hint says how to go on."""
    from tbps_infer.errors import TbpsError

    for number, options in enumerate(engines):
        try:
            build_and_report(bundle, options)
        except TbpsError as error:
            left = " && ".join(build_command(bundle, each) for each in engines[number:])
            error.hint = f"{error.hint} The bundle {bundle} is there; go on with: {left}".strip()
            raise


def _addable(add: bool) -> bool:
    """``--add``, which takes the FP32 graphs as they are."""
    context = click.get_current_context()
    for name, flag in (("opset", "--opset"), ("external_data", "--external-data")):
        if add and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--add keeps the graphs that are there, so {flag} would do nothing.")
    return add


def _source_graphs(precisions: Collection[Any]) -> dict[str, Any]:
    """The graphs that engines are built from: INT8 or FP32; FP16 graphs are for ONNX Runtime on a GPU."""
    return {"precisions": ("int8",)} if "int8" in precisions else {}


def _int8(calibration: Path | None, limits: dict[str, float]) -> Any:
    """`Int8Options`, or None without calibration data."""
    if calibration is None:
        if limits:
            given = ", ".join(f"--int8-{name.replace('_', '-')}" for name in limits)
            raise click.UsageError(f"These options need --precision int8 and --calibration DATA: {given}.")
        return None
    from dataclasses import replace

    from tbps_infer.export.int8.calibration import read_calibration
    from tbps_infer.export.int8.options import Int8Options
    from tbps_infer.verification.tolerances import GATE

    return Int8Options(read_calibration(calibration), replace(GATE["int8"], **limits))


def _int8_summary(check: dict[str, Any]) -> str:
    agreement = check["verdict"]["agreement"]
    branches = [
        f"{branch} {check[branch]['int8_layers']} layers, {len(check[branch]['kept_fp32'])} kept in FP32, "
        f"mean cosine {agreement[branch]['cosine']['mean']:.5f}"
        for branch in BRANCHES
    ]
    metrics = [
        f"{name} {each['reference']:.2f} to {each['candidate']:.2f}"
        for name, each in check["verdict"]["metrics"].items()
        if name in ("R@1", "mAP")
    ]
    judged = check["judged_on"]
    people = f"on {judged['pictures']} pictures and {judged['captions']} captions that it was not calibrated on"
    return f"INT8: {'; '.join(branches)}; {', '.join([*metrics, '']) if metrics else ''}{people}"


def _samples(data: Path, count: int) -> list[tuple[Image.Image, tuple[str, ...]]]:
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.images import load_rgb

    pictures = [picture for picture in read_dataset(data, "test").pictures if picture.captions]
    step = max(len(pictures) // count, 1)
    return [(load_rgb(picture.path), picture.captions) for picture in pictures[::step][:count]]
