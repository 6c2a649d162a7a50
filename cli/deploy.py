"""`tbps deploy`: a bundle in the form that another server loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tbps_infer.cli.shared.options import EXISTING, output_option, precision_options, verbosity_options

__all__ = ["deploy"]


@click.group()
def deploy() -> None:
    """Write a bundle in the form that another server loads.

    \b
    tbps deploy triton bundle -o repository
    """


@deploy.command()
@click.argument("bundle", type=EXISTING)
@output_option("Model repository to create.")
@click.option(
    "--backend",
    type=click.Choice(("onnxruntime", "tensorrt")),
    default="onnxruntime",
    help="What Triton runs: the bundle's graphs, or its engines.",
)
@click.option("--device", help="Device: cpu, cuda or cuda:N.", show_default="cpu; cuda for tensorrt")
@precision_options
@click.option("--engines", metavar="NAME", help="Folder of engines in the bundle, if several fit.")
@click.option("--name", default="tbps", help="What the names of the models begin with.")
@click.option("--max-batch", type=click.IntRange(1, 1024), default=32, help="Maximum items per run.")
@click.option("--delay", type=click.IntRange(0), default=2000, help="Wait for more requests, in microseconds.")
@click.option("--instances", type=click.IntRange(1), default=1, help="Copies of each model.")
@click.option("--python-env", metavar="FOLDER", help="Virtual environment with tbps-infer where the server runs.")
@verbosity_options
def triton(
    bundle: Path,
    output: Path,
    backend: Any,
    device: str | None,
    precision: Any,
    engines: str | None,
    name: str,
    max_batch: int,
    delay: int,
    instances: int,
    python_env: str | None,
) -> None:
    """Write BUNDLE as a model repository of NVIDIA Triton.

    The models are NAME_image, which takes crops, and NAME_text, which takes sentences. For the tokenizer, tbps-infer
    must be installed for the Python of the server's backend, or in --python-env, of the same Python version.

    \b
    tbps deploy triton bundle -o repository
    tritonserver --model-repository repository
    tbps doctor bundle --triton http://localhost:8000
    """
    from tbps_infer.bundle import Bundle
    from tbps_infer.runners.options import RunOptions
    from tbps_infer.triton.options import TritonOptions
    from tbps_infer.triton.repository import write_repository

    device = device or ("cpu" if backend == "onnxruntime" else "cuda")
    run = RunOptions(backend, device, precision)
    options = TritonOptions(run, engines, name, max_batch, delay, instances, python_env)
    models = write_repository(Bundle.open(bundle), output, options)
    click.echo(f"{output}: {', '.join(models)}")
