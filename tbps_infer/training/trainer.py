"""The training loop: resumable after every epoch, the best epoch chosen on validation identities."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from tbps_infer.atomic import new_file
from tbps_infer.data.dataset import Split
from tbps_infer.errors import UsageError
from tbps_infer.reference.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tbps_infer.text import Tokenizer
from tbps_infer.training.batches import Batch, PairBatches, Shard
from tbps_infer.training.features import cache_text_features
from tbps_infer.training.objective import Objective, compile_blocks, parameter_groups
from tbps_infer.training.options import TrainOptions
from tbps_infer.training.run_folder import (
    BEST,
    CACHE,
    LAST,
    STATE,
    TrainingError,
    claim_run,
    read_run,
    write_log,
)
from tbps_infer.training.validation import Validator

__all__ = ["EpochLog", "TrainReport", "TrainingError", "train"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochLog:
    """What one epoch did: seconds, mean of each loss term, and validation metrics in percent."""

    epoch: int
    seconds: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrainReport:
    """What a run ended with.

    Attributes:
        best: Folder of the best checkpoint.
        best_epoch: Counted from 1.
        best_rank1: Validation Rank-1 (text to image, pessimistic ties), percent.
        history: One entry per epoch, those before a resume included.
    """

    best: Path
    best_epoch: int
    best_rank1: float
    history: tuple[EpochLog, ...]


@dataclass
class _Progress:
    """What changes from epoch to epoch beside the tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_rank1: float = -1.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    initial: Path,
    splits: tuple[Split, Split],
    run: Path,
    options: TrainOptions,
    *,
    fabric: Fabric | None = None,
    on_step: Callable[[int, int, float], None] = lambda _epoch, _step, _loss: None,
    on_epoch: Callable[[EpochLog], None] = lambda _log: None,
) -> TrainReport:
    """Train from a checkpoint, or carry on with a run of the same options in the same folder.

    A run that was interrupted is finished, and one that is asked for more epochs is extended. A run killed at any
    instant and started again ends in the same weights as an uninterrupted one on the same machine: order,
    augmentation, dropout and negatives of an epoch depend on the seed and the epoch alone.

    Args:
        initial: The checkpoint to start from (`tbps init` writes one); its tokenizer is saved with every checkpoint.
        splits: Training and validation.
        run: The run's folder.
        options: How to train.
        fabric: Device, number of processes, mixed precision and loggers, which are given every epoch's values; the
            CPU at `options.precision` without loggers by default.
        on_step: Called with epoch (from 0), step (from 1) and loss.
        on_epoch: Called after each epoch.

    Raises:
        TrainingError: The folder holds a run of other options, or a loss is not finite.
        UsageError: The padding is as large as the model's images.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1, precision=options.precision)
    fabric.launch()
    start = load_checkpoint(initial)
    least = min(start.config.preprocessing.image_size)
    if options.pad >= least:
        raise UsageError(f"pad is {options.pad}, want less than the {least} pixels of the model's images.")
    if fabric.is_global_zero:
        claim_run(run, _facts(start, splits, options))
    fabric.barrier()
    trainer = _Trainer(start, splits, run, options, fabric)
    progress = trainer.progress
    try:
        for epoch in range(progress.epoch, options.epochs):
            started = time.monotonic()
            values = trainer.run_epoch(epoch, on_step) | trainer.validate()
            entry = EpochLog(epoch + 1, time.monotonic() - started, values)
            if fabric.is_global_zero:
                trainer.log(entry)
                trainer.finish_epoch(entry)
                on_epoch(entry)
            fabric.barrier()
    finally:
        trainer.close()
    if fabric.is_global_zero:
        trainer.save(run / LAST, progress.epoch)
    history = tuple(EpochLog(**entry) for entry in progress.history)
    return TrainReport(run / BEST, progress.best_epoch, progress.best_rank1, history)


class _Trainer:
    """One process's share of a run: model, optimizer, batches and progress."""

    def __init__(
        self, start: Checkpoint, splits: tuple[Split, Split], run: Path, options: TrainOptions, fabric: Fabric
    ) -> None:
        self._run, self._options, self._fabric = run, options, fabric
        self._model = start.model.requires_grad_(True)
        self._tokenizer_json = start.tokenizer_path.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_facts(start.tokenizer_path, start.facts)
        training, validation = splits
        features = None
        if start.config.text.frozen:
            backbone = self._model.text_backbone.to(fabric.device).eval()
            features = cache_text_features(backbone, tokenizer.encode(training.captions), run / CACHE, fabric.device)
        self._batches = PairBatches(training, tokenizer, start.config.preprocessing, options, features)
        self._validator = Validator(self._model, tokenizer, validation, options.terms)
        torch.manual_seed(options.seed)
        self._objective = Objective(self._model, self._batches.identities, options)
        groups = parameter_groups(self._objective, options)
        fused = fabric.device.type == "cuda"  # one kernel for all tensors
        optimizer = torch.optim.Adam(groups, weight_decay=options.weight_decay, fused=fused)
        if fabric.device.type == "cuda":  # pixels arrive with the channels last already
            self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if options.compile:
            compile_blocks(self._model)
        self._wrapped, self._optimizer = fabric.setup(self._objective, optimizer)
        self.progress = self._resume()

    def run_epoch(self, epoch: int, on_step: Callable[[int, int, float], None]) -> dict[str, float]:
        """Train for one epoch; returns the mean of every loss term and the last learning rates."""
        self._wrapped.train()
        if self._model.config.text.frozen:
            self._model.text_backbone.eval()
        shard = Shard(self._fabric.global_rank, self._fabric.world_size)
        seed = (self._options.seed * 100_003 + epoch) * 1009 + shard.index
        torch.manual_seed(seed)
        generator = torch.Generator(self._fabric.device).manual_seed(seed)
        steps, accumulate = self._batches.steps(shard), self._options.accumulate
        sums: dict[str, torch.Tensor] = {}
        for step, batch in enumerate(self._batches.epoch(epoch, shard), start=1):
            factor = self._options.lr_factor(epoch + (step - 1) / steps)
            for group in self._optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            first = (step - 1) // accumulate * accumulate
            together = min(accumulate, steps - first)  # the last update of an epoch may have fewer batches
            terms = self._step(batch, generator, together, updates=step - first == together)
            value = float(torch.stack(list(terms.values())).sum())  # one wait for the device, not one per term
            if not math.isfinite(value):
                raise TrainingError(
                    f"The loss is {value} in epoch {epoch + 1}, step {step}.",
                    "Lower the learning rate, or train with --precision 32-true; the run's last epoch is kept.",
                )
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term
            on_step(epoch, step, value)
        groups = self._optimizer.param_groups
        rates = {f"lr_{name}": g["lr"] for name, g in zip(("heads", "backbone"), groups, strict=True)}
        return {**rates, **{name: total.item() / steps for name, total in sums.items()}}

    def validate(self) -> dict[str, float]:
        """Retrieval metrics on the validation split, the same in every process."""
        return self._validator.evaluate(self._fabric.device)

    def log(self, entry: EpochLog) -> None:
        """Give an epoch's values to the loggers that Fabric was made with; whoever made them closes them."""
        self._fabric.log_dict(entry.values, step=entry.epoch)
        for logger in self._fabric.loggers:
            logger.save()

    def finish_epoch(self, entry: EpochLog) -> None:
        """Save the best checkpoint first, then the state that counts the epoch as done."""
        progress = self.progress
        progress.epoch = entry.epoch
        progress.history.append(vars(entry))
        rank1 = entry.values["val_R@1"]
        if rank1 > progress.best_rank1:
            progress.best_rank1, progress.best_epoch = rank1, entry.epoch
            self.save(self._run / BEST, entry.epoch, rank1)
        state = {"objective": self._objective.state_dict(), "optimizer": self._optimizer.state_dict()}
        state |= vars(progress)
        with new_file(self._run / STATE, TrainingError) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:  # of a disk that is full, torch says "unexpected pos"
                message = f"{self._run / STATE} cannot be written: {error}."
                raise TrainingError(message, "Make room on the disk; the run's last epoch is kept.") from error
        write_log(self._run, progress.history)
        _log.info("epoch %d of %d: validation R@1 %.2f", entry.epoch, self._options.epochs, rank1)

    def save(self, folder: Path, epoch: int, rank1: float | None = None) -> None:
        """Write the model as a checkpoint that says how it was made."""
        facts = read_run(self._run)
        facts.pop("model")
        training = {**facts, "epoch": epoch} | ({} if rank1 is None else {"validation_R@1": rank1})
        save_checkpoint(folder, self._model, self._tokenizer_json, training=training)

    def close(self) -> None:
        """Stop the decoding threads."""
        self._batches.close()

    def _step(
        self, batch: Batch, generator: torch.Generator, together: int, *, updates: bool
    ) -> dict[str, torch.Tensor]:
        """The gradient of one of so many batches, and with the last one the update; returns the terms, detached."""
        tensors = [batch.pixels, batch.text, batch.attention_mask, batch.labels]
        device = self._fabric.device
        if device.type == "cuda":  # from pinned memory a copy waits for nothing
            tensors = [tensor.pin_memory() for tensor in tensors]
        moved = (tensor.to(device, non_blocking=True) for tensor in tensors)
        with self._fabric.no_backward_sync(self._wrapped, enabled=not updates):
            terms: dict[str, torch.Tensor] = self._wrapped(*moved, generator)
            self._fabric.backward(torch.stack(list(terms.values())).sum() / together)
        if updates:
            self._optimizer.step()
            self._optimizer.zero_grad()
        return {name: term.detach() for name, term in terms.items()}

    def _resume(self) -> _Progress:
        file = self._run / STATE
        if not file.is_file():
            return _Progress()
        state = torch.load(file, map_location=self._fabric.device, weights_only=True)
        self._objective.load_state_dict(state.pop("objective"))
        self._optimizer.load_state_dict(state.pop("optimizer"))
        _log.info("carrying on after epoch %d of %s", state["epoch"], self._run)
        return _Progress(**state)


def _facts(start: Checkpoint, splits: tuple[Split, Split], options: TrainOptions) -> dict[str, Any]:
    """What a run is asked to do, as JSON values."""
    training, validation = splits
    return {
        "dataset": training.dataset,
        "training": {"pictures": len(training.pictures), "captions": len(training.captions)},
        "validation": {"name": validation.name, "pictures": len(validation.pictures)},
        "options": options.to_json(),
        "model": start.config.to_json(),
        "initial_fingerprint": start.facts.fingerprint,
    }
