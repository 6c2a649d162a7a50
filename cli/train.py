"""`tbps train`: the reference model, from a checkpoint, on a data set."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.options import EXISTING, output_option, seed_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import Finite
from tbps_infer.cli.shared.progress import progress_bar, say

if TYPE_CHECKING:
    from tbps_infer.data.dataset import Split
    from tbps_infer.training.options import TrainOptions
    from tbps_infer.training.trainer import EpochLog

__all__ = ["train"]

_TERMS = ("global", "coarse", "fine")
_FLUSH_SECONDS = 10
"""TensorBoard's files are as old as this at most, for whoever watches a run."""


@click.command()
@click.argument("dataset", type=EXISTING)
@output_option("Run folder to create or continue.")
@click.option(
    "--init",
    "initial",
    type=EXISTING,
    metavar="CHECKPOINT",
    help="Checkpoint to start from.",
    show_default="tiny, random weights",
)
@click.option("--epochs", type=click.IntRange(1), default=60, help="Number of epochs.")
@click.option("-b", "--batch-size", type=click.IntRange(2), default=64, help="Pairs per step and device.")
@click.option("--head-lr", type=Finite(0, min_open=True), default=1e-3, help="Learning rate of the heads.")
@click.option(
    "--backbone-lr",
    type=Finite(0, min_open=True),
    default=1e-4,
    help="Learning rate of backbones, encoders and decoder.",
)
@click.option("--warmup-epochs", type=Finite(0), default=5.0, help="Epochs of linear warm-up.")
@click.option("--milestones", default="20,40", metavar="N,N,…", help="Epochs that divide the learning rates by ten.")
@click.option("--terms", default=",".join(_TERMS), help="Embeddings to train, separated by commas.")
@click.option(
    "--commonality",
    type=click.Choice(("id_prob", "entropy", "off")),
    default="entropy",
    help="How CMR measures the commonality of a part.",
)
@click.option(
    "--margin", type=click.Choice(("absolute", "relative")), default="relative", help="How margins follow from it."
)
@click.option(
    "--margin-of", type=click.Choice(("anchor", "negative")), default="anchor", help="Whose commonality counts."
)
@click.option(
    "--part-identity",
    type=click.Choice(("even", "distinctive", "together", "off")),
    default="together",
    help="How the identity loss weighs parts.",
)
@click.option("--pad", type=click.IntRange(0), default=10, help="Padding before the random crop, in pixels.")
@seed_option()
@click.option(
    "--precision",
    type=click.Choice(("32-true", "16-mixed", "bf16-mixed")),
    default="32-true",
    help="Numeric precision.",
)
@click.option("--accumulate", type=click.IntRange(1), default=1, help="Batches per update.")
@click.option("--compile", is_flag=True, help="Compile the model's blocks with torch.compile.")
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", help="Device to train on.")
@click.option("--devices", type=click.IntRange(1), default=1, help="Number of devices; DDP if more than one.")
@click.option(
    "--validation-identities",
    type=click.IntRange(1),
    default=100,
    help="Identities held out for validation if the data set has no val split.",
)
@click.option("--tensorboard", is_flag=True, help="Also log to RUN/tensorboard.")
@verbosity_options
def train(
    dataset: Path,
    output: Path,
    initial: Path | None,
    device: str,
    devices: int,
    milestones: str,
    terms: str,
    tensorboard: bool,
    **recipe: Any,
) -> None:
    """Train the reference model on DATASET.

    The epoch that is best on the validation identities is kept. The test split is not used. Run the command again
    with the same options to continue an interrupted run, or with more --epochs to extend a run. tbps info shows how
    far it is.

    \b
    tbps train people -o run --epochs 20 --milestones 13,18 --warmup-epochs 1
    """
    from tbps_infer.errors import UsageError
    from tbps_infer.reference.pretrained import initial_tiny_checkpoint
    from tbps_infer.training.options import TrainOptions
    from tbps_infer.training.trainer import train as run_training

    try:
        steps = tuple(int(step) for step in milestones.split(",") if step.strip())
    except ValueError as error:
        raise UsageError(f"The milestones are {milestones!r}, want whole numbers separated by commas.") from error
    chosen: Any = tuple(term.strip() for term in terms.split(","))
    options = TrainOptions(milestones=steps, terms=chosen, **recipe)
    splits = _splits(dataset, options)
    if initial is None:
        initial = output.parent / f"{output.name}-start"
        if not initial.exists():
            initial_tiny_checkpoint(initial, splits[0].captions, options.seed)
            say(f"Wrote a tiny model with random weights to {initial}")
    pairs = len(splits[0].captions) // (options.batch_size * devices)
    loggers = _loggers(output) if tensorboard else []
    with progress_bar("Training", "steps") as bar, ExitStack() as logs:
        for logger in loggers:
            logs.callback(logger.finalize, "success")
        report = run_training(
            initial,
            splits,
            output,
            options,
            fabric=_fabric(device, devices, options, loggers),
            on_step=lambda epoch, step, _loss: bar(epoch * pairs + step, options.epochs * pairs),
            on_epoch=lambda entry: say(_epoch_line(entry, options)),
        )
    click.echo(f"{report.best}: epoch {report.best_epoch}, validation R@1 {report.best_rank1:.2f}")


def _splits(dataset: Path, options: TrainOptions) -> tuple[Split, Split]:
    """Training and validation; identities are held out where the data set has no validation split."""
    from tbps_infer.data.readers import find_annotations, read_dataset
    from tbps_infer.training.validation import hold_out_identities

    training = read_dataset(dataset, "train")
    form = find_annotations(dataset, "train")[1]
    if form is not None and "val" in form.splits:
        return training, read_dataset(dataset, "val")
    say(f"{training.dataset} has no validation split: holding out {options.validation_identities} identities")
    return hold_out_identities(training, options.validation_identities, options.seed)


def _loggers(run: Path) -> list[Any]:
    from lightning_fabric.loggers import TensorBoardLogger

    from tbps_infer.errors import BackendError

    try:
        return [TensorBoardLogger(run, name="tensorboard", version="", flush_secs=_FLUSH_SECONDS)]
    except ModuleNotFoundError as error:
        raise BackendError(
            "--tensorboard needs the package tensorboardX, which is not installed.",
            'Install it: pip install "tbps-infer[train]".',
        ) from error


def _fabric(device: str, devices: int, options: TrainOptions, loggers: list[Any]) -> Any:
    import torch
    from lightning_fabric import Fabric

    from tbps_infer.errors import BackendError

    if device == "cuda" and torch.cuda.device_count() < devices:
        raise BackendError(
            f"{devices} CUDA devices were asked for, but PyTorch finds {torch.cuda.device_count()}.",
            "Choose --device cpu, or fewer --devices.",
        )
    # What an ablation leaves out gets no gradient, and DDP waits for all that it was not told to do without.
    strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
    return Fabric(
        accelerator=device, devices=devices, strategy=strategy, precision=options.precision, loggers=loggers
    )


def _epoch_line(entry: EpochLog, options: TrainOptions) -> str:
    metrics = "  ".join(f"{name} {entry.values[f'val_{name}']:.2f}" for name in ("R@1", "R@5", "R@10", "mAP"))
    return f"epoch {entry.epoch:3d}/{options.epochs}  {entry.seconds:6.1f} s  validation {metrics}"
