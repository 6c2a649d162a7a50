"""`tbps export`: a checkpoint becomes a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.build import ENGINE_BACKENDS, build_and_report
from tbps_infer.cli.families import family_options
from tbps_infer.cli.options import (
    EXISTING,
    mixed_precision_options,
    output_option,
    overwrite_option,
    precision_options,
    verbosity_options,
)
from tbps_infer.cli.progress import say

if TYPE_CHECKING:
    from PIL import Image

    from tbps_infer.families.options import LoadOptions

__all__ = ["export"]


@click.command()
@click.argument("checkpoint", type=EXISTING)
@output_option("The bundle's folder.")
@family_options
@click.option("--opset", type=int, default=18, help="ONNX opset of both graphs, 18 to 22.")
@click.option("--external-data", is_flag=True, help="Keep the weights in files beside the graphs.")
@overwrite_option("Replace a bundle that is already there.")
@click.option(
    "--data",
    type=EXISTING,
    help="Verify on the test split of this data set instead of on synthetic people.",
)
@click.option("--samples", type=click.IntRange(2), default=32, help="Pictures of --data to verify on.")
@click.option(
    "--backend",
    type=click.Choice(("onnxruntime", *ENGINE_BACKENDS)),
    default="onnxruntime",
    help="tensorrt and tensorrt-rtx also build engines, as tbps build does.",
)
@mixed_precision_options
@precision_options
@verbosity_options
def export(
    checkpoint: Path,
    output: Path,
    load: LoadOptions,
    opset: int,
    external_data: bool,
    overwrite: bool,
    data: Path | None,
    samples: int,
    backend: Any,
    mixed: Any,
    precision: Any,
) -> None:
    """Turn CHECKPOINT (a folder, or its file of tensors) into a bundle of two verified ONNX graphs.

    Both graphs are compared with PyTorch on real inputs; on a difference above the limits nothing is written.

    \b
    tbps export checkpoints/best -o bundle
    """
    from tbps_infer.export.bundle import export_bundle
    from tbps_infer.export.options import ExportOptions

    engines = None
    if backend != "onnxruntime":
        from tbps_infer.export.engine_options import EngineOptions
        from tbps_infer.export.engines import check_buildable

        engines = EngineOptions(backend=backend, precision=precision, mixed=mixed)
        check_buildable(engines)  # before the minutes that exporting takes
    options = ExportOptions(
        load=load,
        opset=opset,
        external_data=external_data,
        overwrite=overwrite,
        samples=None if data is None else _samples(data, samples),
        # Engines are built from the FP32 graphs; FP16 graphs in the bundle are for ONNX Runtime on a GPU.
        **({} if engines else {"precision": precision, "mixed": mixed}),
    )
    bundle = export_bundle(checkpoint, output, options, on_step=lambda step: say(f"{step} ..."))
    check = bundle.verification
    click.echo(
        f"{output}: verified against PyTorch, "
        f"cosine image {check['image']['cosine_min']:.7f}, text {check['text']['cosine_min']:.7f} at least, "
        f"top-{check['ranking']['top_k']} overlap {check['ranking']['overlap']:.1%}"
    )
    if engines:
        build_and_report(output, engines)


def _samples(data: Path, count: int) -> list[tuple[Image.Image, tuple[str, ...]]]:
    from tbps_infer.data.readers import read_dataset
    from tbps_infer.images import load_rgb

    pictures = [picture for picture in read_dataset(data, "test").pictures if picture.captions]
    step = max(len(pictures) // count, 1)
    return [(load_rgb(picture.path), picture.captions) for picture in pictures[::step][:count]]
