"""The ablation in the paper's spirit, on synthetic pedestrians: which embeddings and which margins help.

Run it as ``python -m tbps_infer.benchmarks.studies.ablation --data people --backbones CHECKPOINT --out RUNS``; it
carries on where it was stopped, and prints the Markdown table from the raw results (one JSON line per arm and seed).

As in the paper, the arms share pretrained backbones, and the text one is frozen: everything above them starts anew
with each seed. `CHECKPOINT` should come from other identities and the global term alone, so that no arm is at home.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from tbps_infer.training.options import Term, TrainOptions

__all__ = ["ARMS", "Arm", "markdown_table", "run_arm", "start_from_backbones"]


@dataclass(frozen=True)
class Arm:
    """One row of the table: which embeddings are trained and compared, and how parts get their margins.

    With `shuffled` a batch's margins are dealt out anew among its anchors and parts: as large on the whole, and blind
    to what is common. What such an arm loses, commonality did not win.
    """

    name: str
    terms: tuple[Term, ...]
    commonality: str = "off"
    shuffled: bool = False

    def options(self, base: TrainOptions) -> TrainOptions:
        """The arm's recipe: the base one with its terms and commonality."""
        assert self.commonality in ("off", "id_prob", "entropy")
        return replace(base, terms=self.terms, commonality=self.commonality)  # type: ignore[arg-type]


ARMS = (
    Arm("global only", ("global",)),
    Arm("+ coarse", ("global", "coarse")),
    Arm("+ fine, CMR off", ("global", "coarse", "fine")),
    Arm("+ fine, CMR id_prob", ("global", "coarse", "fine"), "id_prob"),
    Arm("+ fine, CMR entropy", ("global", "coarse", "fine"), "entropy"),
    Arm("+ fine, CMR id_prob, shuffled", ("global", "coarse", "fine"), "id_prob", shuffled=True),
)

METRICS = ("R@1", "R@5", "R@10", "mAP")


def start_from_backbones(checkpoint: Path, folder: Path, seed: int) -> Path:
    """Write a checkpoint with another one's backbones, the text one frozen, and random weights above them."""
    import torch

    from tbps_infer.reference.checkpoint import load_checkpoint, save_checkpoint
    from tbps_infer.reference.model import PartModel

    source = load_checkpoint(checkpoint)
    torch.manual_seed(seed)
    model = PartModel(replace(source.config, text=replace(source.config.text, frozen=True)))
    model.image_backbone.load_state_dict(source.model.image_backbone.state_dict())
    model.text_backbone.load_state_dict(source.model.text_backbone.state_dict())
    facts = {"initial_seed": seed, "backbones": source.facts.fingerprint}
    return save_checkpoint(folder, model, source.tokenizer_path.read_text(encoding="utf-8"), training=facts)


def run_arm(arm: Arm, data: Path, backbones: Path, out: Path, base: TrainOptions) -> dict[str, Any]:
    """Train one arm with one seed and measure its best epoch on the test split.

    Returns:
        Arm, seed, best epoch, seconds, and test metrics in percent.
    """
    import torch

    from tbps_infer.data.readers import read_dataset
    from tbps_infer.reference.checkpoint import load_checkpoint
    from tbps_infer.text import Tokenizer
    from tbps_infer.training.trainer import train
    from tbps_infer.training.validation import Validator

    started = time.monotonic()
    splits = read_dataset(data, "train"), read_dataset(data, "val")
    options = arm.options(base)
    name = f"{arm.name.replace(' ', '-').replace(',', '')}-{options.seed}"
    initial = start_from_backbones(backbones, out / f"{name}-start", options.seed)
    with _shuffled_margins() if arm.shuffled else nullcontext():
        report = train(initial, splits, out / name, options)
    best = load_checkpoint(report.best)
    tokenizer = Tokenizer.from_facts(best.tokenizer_path, best.facts)
    judge = Validator(best.model, tokenizer, read_dataset(data, "test"), options.terms)
    metrics = {key.removeprefix("val_"): value for key, value in judge.evaluate(torch.device("cpu")).items()}
    return {
        "arm": arm.name,
        "seed": options.seed,
        "best_epoch": report.best_epoch,
        "seconds": round(time.monotonic() - started, 1),
        **{metric: metrics[metric] for metric in METRICS},
    }


@contextmanager
def _shuffled_margins() -> Iterator[None]:
    """Deal a batch's margins out anew; the order follows from the batch, as a resumed run needs."""
    import torch

    from tbps_infer.training import losses

    honest = losses.commonality_margin

    def shuffled(commonality: torch.Tensor, *limits: float) -> torch.Tensor:
        margin = honest(commonality, *limits)
        generator = torch.Generator().manual_seed(int(margin.sum().item() * 1e6))
        order = torch.randperm(margin.numel(), generator=generator).to(margin.device)
        return margin.flatten()[order].view_as(margin)

    with mock.patch.object(losses, "commonality_margin", shuffled):
        yield


def markdown_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Mean ± sample standard deviation over seeds, a row per arm, in the arms' order."""
    lines = [f"| | seeds | {' | '.join(METRICS)} |", f"|---|---|{'---|' * len(METRICS)}"]
    for arm in ARMS:
        rows = [row for row in results if row["arm"] == arm.name]
        if rows:
            cells = [_mean_and_spread([float(row[metric]) for row in rows]) for metric in METRICS]
            lines.append(f"| {arm.name} | {len(rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _read_results(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="a data set written by tbps data synth")
    parser.add_argument("--backbones", type=Path, required=True, help="a checkpoint of the tiny configuration")
    parser.add_argument("--out", type=Path, required=True, help="runs and results.jsonl go here")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves its default")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run from the i-th, for n processes")
    given = parser.parse_args(arguments)
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    base = TrainOptions(
        epochs=given.epochs,
        head_lr=1e-3,
        backbone_lr=1e-3,
        warmup_epochs=1,
        milestones=(round(given.epochs * 0.6), round(given.epochs * 0.85)),
        pad=3,
        precision="bf16-mixed",
    )
    results = given.out / "results.jsonl"
    index, count = (int(part) for part in given.shard.split("/"))
    runs = [(arm, seed) for seed in range(given.seeds) for arm in ARMS]
    for arm, seed in runs[index::count]:
        if not any(row["arm"] == arm.name and row["seed"] == seed for row in _read_results(results)):
            row = run_arm(arm, given.data, given.backbones, given.out, replace(base, seed=seed))
            with results.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr, flush=True)
    print(markdown_table(_read_results(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
