"""Training: resumable to the bit, honest about validation, and really learning."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import fail, succeed

from tbps_infer.data.dataset import Split
from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import SynthOptions, write_dataset
from tbps_infer.errors import DatasetError, UsageError
from tbps_infer.reference.backbones import TextBackbone
from tbps_infer.reference.checkpoint import load_checkpoint, save_checkpoint
from tbps_infer.reference.config import TextConfig
from tbps_infer.reference.model import PartModel
from tbps_infer.reference.pretrained import initial_tiny_checkpoint
from tbps_infer.reference.tensor_files import read_tensors
from tbps_infer.text import Tokenizer
from tbps_infer.training.batches import PairBatches, Shard, names_a_side
from tbps_infer.training.features import cache_text_features
from tbps_infer.training.options import Term, TrainOptions
from tbps_infer.training.run_folder import TrainingError, describe_run
from tbps_infer.training.trainer import train
from tbps_infer.training.validation import hold_out_identities

OPTIONS = TrainOptions(
    epochs=3, batch_size=8, head_lr=1e-3, backbone_lr=1e-3, warmup_epochs=1, milestones=(2,), pad=2, seed=3
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "people"
    write_dataset(root, SynthOptions(train=10, val=4, test=4, pictures=2, seed=1, workers=1))
    return root


@pytest.fixture(scope="module")
def splits(dataset: Path) -> tuple[Split, Split]:
    return read_dataset(dataset, "train"), read_dataset(dataset, "val")


@pytest.fixture(scope="module")
def initial(splits: tuple[Split, Split], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("initial") / "tiny"
    return initial_tiny_checkpoint(folder, splits[0].captions, seed=0)


@pytest.fixture(scope="module")
def whole(initial: Path, splits: tuple[Split, Split], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing interrupted."""
    torch.set_num_threads(1)
    folder: Path = tmp_path_factory.mktemp("whole")
    train(initial, splits, folder / "run", OPTIONS)
    return folder / "run"


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_resumed_after_a_kill_equals_an_uninterrupted_one(
    initial: Path, splits: tuple[Split, Split], whole: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(epoch: int, step: int, _loss: float) -> None:
        if (epoch, step) == (1, 2):
            raise Killed

    with pytest.raises(Killed):
        train(initial, splits, tmp_path / "cut", OPTIONS, on_step=kill)
    torch.manual_seed(99)  # nothing may hang on the state of the interrupted process
    report = train(initial, splits, tmp_path / "cut", OPTIONS)
    assert [entry.epoch for entry in report.history] == [1, 2, 3]
    assert _same(_tensors(whole / "last"), _tensors(tmp_path / "cut" / "last"))
    assert _same(_tensors(whole / "best"), _tensors(tmp_path / "cut" / "best"))
    logs = [(run / "log.csv").read_text().splitlines() for run in (whole, tmp_path / "cut")]
    rows = [list(csv.DictReader(log)) for log in logs]
    assert [row["epoch"] for row in rows[1]] == ["1", "2", "3"]
    assert [row["fine_cmr"] for row in rows[0]] == [row["fine_cmr"] for row in rows[1]]


def test_a_finished_run_can_be_extended_by_epochs_alone(
    initial: Path, splits: tuple[Split, Split], whole: Path, tmp_path: Path
) -> None:
    train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=2))
    assert describe_run(tmp_path / "run")["epochs"] == {"done": 2, "asked": 2, "finished": True}
    report = train(initial, splits, tmp_path / "run", OPTIONS)
    assert [entry.epoch for entry in report.history] == [1, 2, 3]
    for name in ("best", "last"):
        assert _same(_tensors(whole / name), _tensors(tmp_path / "run" / name))
    told = describe_run(tmp_path / "run")
    assert told["epochs"] == {"done": 3, "asked": 3, "finished": True}
    assert told["best"]["epoch"] == report.best_epoch
    assert told["best"]["R@1"] == pytest.approx(report.best_rank1, abs=0.006)
    assert load_checkpoint(tmp_path / "run" / "last").training["options"]["epochs"] == 3
    with pytest.raises(TrainingError, match=r"epochs is 3 there, not 2\."):
        train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=2))


def test_loggers_are_given_every_epoch(initial: Path, splits: tuple[Split, Split], tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from lightning_fabric import Fabric
    from lightning_fabric.loggers import TensorBoardLogger

    for epochs in (1, 2):
        logger = TensorBoardLogger(tmp_path, name="tensorboard", version="")
        fabric = Fabric(accelerator="cpu", devices=1, loggers=logger)
        report = train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=epochs), fabric=fabric)
        logger.finalize("success")
    wanted = {(entry.epoch, round(entry.values["val_mAP"], 4)) for entry in report.history}
    assert _logged(tmp_path / "tensorboard", "val_mAP") == wanted


def _logged(folder: Path, tag: str) -> set[tuple[int, float]]:
    """Steps and values of a curve in TensorBoard's files: records of a length, its checksum, an event, a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = set()
    for file in folder.glob("events.*"):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            found |= {(event.step, round(v.simple_value, 4)) for v in event.summary.value if v.tag == tag}
            data = data[16 + length :]
    return found


def test_info_tells_how_far_a_run_is(dataset: Path, initial: Path, tmp_path: Path) -> None:
    arguments = (
        *("train", dataset, "-o", tmp_path / "run", "--init", initial, "--epochs", 1, "--batch-size", 8),
        *("--pad", 2, "--tensorboard"),
    )
    succeed(*arguments)
    assert {step for step, _ in _logged(tmp_path / "run" / "tensorboard", "val_R_1")} == {1}
    told = json.loads(succeed("info", tmp_path / "run", "--json").stdout)
    assert told["kind"] == "training run"
    assert told["epochs"] == {"done": 1, "asked": 1, "finished": True}
    assert told["checkpoints"] == ["best", "last"]
    assert told["options"]["batch_size"] == 8
    assert "R@1" in told["best"]
    shown = succeed("info", tmp_path / "run").stdout
    assert "  done: 1\n  asked: 1\n  finished: True" in shown
    done = fail(1, *arguments, "--seed", 7)
    assert "seed is 0 there, not 7." in " ".join(done.stderr.split())
    (tmp_path / "run" / "log.csv").unlink()  # before the first epoch
    told = json.loads(succeed("info", tmp_path / "run", "--json").stdout)
    assert (told["epochs"]["done"], told["epochs"]["finished"], told["best"]) == (0, False, {})
    (tmp_path / "run" / "run.json").write_text("{")
    assert "run.json cannot be read" in fail(1, "info", tmp_path / "run").stderr


def test_mixed_precision_trains_weights_that_stay_fp32(
    initial: Path, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    few, _ = hold_out_identities(splits[0], 7, seed=0)  # one batch: CPUs are slow in bfloat16
    report = train(initial, (few, splits[1]), tmp_path / "run", replace(OPTIONS, epochs=1, precision="bf16-mixed"))
    before, after = _tensors(initial), _tensors(report.best)
    assert {tensor.dtype for tensor in after.values() if tensor.is_floating_point()} == {torch.float32}
    assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values())
    assert not _same(before, after)


def test_a_run_folder_of_other_options_is_refused(initial: Path, splits: tuple[Split, Split], tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    train(initial, splits, tmp_path / "run", options)
    with pytest.raises(TrainingError, match="options differ"):
        train(initial, splits, tmp_path / "run", replace(options, seed=4))
    with pytest.raises(TrainingError, match=r"differ from what was asked for: seed is 3 there, not 4\.") as caught:
        train(initial, splits, tmp_path / "run", replace(options, seed=4, epochs=2))
    assert "--epochs alone may be greater" in str(caught.value.hint)
    with pytest.raises(TrainingError, match=r"pad is 2 there, not 3, seed is 3 there, not 4\."):
        train(initial, splits, tmp_path / "run", replace(options, seed=4, pad=3))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        train(initial, splits, tmp_path / "other", options)


def test_a_run_that_never_began_takes_other_options(
    initial: Path, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="fewer than one batch"):
        train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=1, batch_size=4096))
    with pytest.raises(UsageError, match="pad is 32, want less than the 32 pixels"):
        train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=1, pad=32))
    train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=1, pad=31))
    assert describe_run(tmp_path / "run")["options"]["pad"] == 31


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {name: value}
            for name in ("head_lr", "warmup_epochs", "base_margin")
            for value in (-1, math.nan, math.inf)
        ),
        *({"seed": -1}, {"seed": 2**32}, {"pad": -1}, {"flip": 1.5}, {"milestones": (0, 3)}, {"backbone_lr": 0}),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(OPTIONS, **wrong)


def test_the_checkpoint_says_how_it_was_made(initial: Path, splits: tuple[Split, Split], tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1)
    report = train(initial, splits, tmp_path / "run", options)
    best = load_checkpoint(report.best)
    assert best.training["options"] == options.to_json()
    assert best.training["validation_R@1"] == report.best_rank1
    assert best.training["validation"]["name"] == "val"
    assert best.facts.fingerprint != load_checkpoint(initial).facts.fingerprint


def test_a_loss_that_is_not_finite_stops_the_run(initial: Path, splits: tuple[Split, Split], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="The loss is nan"):
        train(initial, splits, tmp_path / "run", replace(OPTIONS, head_lr=1e30, warmup_epochs=0))


@pytest.mark.parametrize("terms", [("global",), ("global", "coarse"), ("fine",)])
def test_terms_choose_the_losses(
    initial: Path, splits: tuple[Split, Split], tmp_path: Path, terms: tuple[Term, ...]
) -> None:
    report = train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=1, terms=terms))
    logged = {name.split("_")[0] for name in report.history[0].values if not name.startswith(("lr", "val"))}
    assert logged == set(terms)


def test_an_epoch_visits_every_pair_once_and_the_same_way_each_time(
    initial: Path, splits: tuple[Split, Split]
) -> None:
    checkpoint = load_checkpoint(initial)
    facts = checkpoint.facts
    tokenizer = Tokenizer.from_facts(checkpoint.tokenizer_path, facts)
    batches = PairBatches(splits[0], tokenizer, facts.preprocessing, OPTIONS)
    try:
        first, again = (list(batches.epoch(0, Shard())) for _ in range(2))
        other = list(batches.epoch(1, Shard()))
        shards = [list(batches.epoch(0, Shard(index, 2))) for index in (0, 1)]
    finally:
        batches.close()
    assert len(first) == len(splits[0].captions) // OPTIONS.batch_size
    for left, right in zip(first, again, strict=True):
        assert torch.equal(left.pixels, right.pixels)
        assert torch.equal(left.text, right.text)
    assert not torch.equal(first[0].text, other[0].text)
    seen = sorted(tuple(row[row > 0].tolist()) for batch in first for row in batch.text)
    assert len(seen) == len(first) * OPTIONS.batch_size
    assert torch.equal(shards[0][0].text, first[0].text)
    assert torch.equal(shards[1][0].text, first[1].text)


@pytest.mark.parametrize(
    ("caption", "named"),
    [("a bag on his left arm", True), ("Right hand up.", True), ("bright shoes", False), ("she left.", True)],
)
def test_captions_that_name_a_side(caption: str, named: bool) -> None:
    assert names_a_side(caption) is named


def test_held_out_identities_are_disjoint_and_complete(splits: tuple[Split, Split]) -> None:
    inside, outside = hold_out_identities(splits[0], 3, seed=0)
    assert len(set(outside.identities.tolist())) == 3
    assert not set(inside.identities.tolist()) & set(outside.identities.tolist())
    assert len(inside.pictures) + len(outside.pictures) == len(splits[0].pictures)
    with pytest.raises(DatasetError, match="10 training identities"):
        hold_out_identities(splits[0], 10, seed=0)


def test_frozen_features_are_the_backbones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = TextBackbone(TextConfig(vocab_size=40, hidden_size=16, layers=1, heads=2, mlp_size=32)).eval()
    tokens = [[2, 7, 9, 3], [2, 3], [2, 8, 8, 8, 8, 3]]
    cache = cache_text_features(backbone, tokens, tmp_path, torch.device("cpu"))
    padded = cache.padded([2, 1], 6)
    for row, caption in enumerate((2, 1)):
        ids = torch.tensor([tokens[caption]])
        with torch.inference_mode():
            want = backbone(ids, torch.ones_like(ids))[0]
        torch.testing.assert_close(padded[row, : len(want)], want, atol=2e-3, rtol=2e-3)
        assert (padded[row, len(want) :] == 0).all()
    before = sorted(tmp_path.iterdir())
    cache_text_features(backbone, tokens, tmp_path, torch.device("cpu"))
    assert sorted(tmp_path.iterdir()) == before
    cache_text_features(backbone, tokens[:2], tmp_path, torch.device("cpu"))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_frozen_text_backbone_stays_as_it_was(splits: tuple[Split, Split], initial: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(initial)
    frozen = replace(checkpoint.config, text=replace(checkpoint.config.text, frozen=True))
    model = PartModel(frozen)
    model.load_state_dict(checkpoint.model.state_dict())
    start = save_checkpoint(tmp_path / "start", model, checkpoint.tokenizer_path.read_text())
    report = train(start, splits, tmp_path / "run", replace(OPTIONS, epochs=1))
    before, after = _tensors(start), _tensors(report.best)
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert "text_backbone" not in changed
    assert {"image_backbone", "text_encoder", "decoder", "coarse_tokens"} <= changed


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 5), (2, 3), (9, 1)])
def test_batches_are_accumulated_to_one_update(
    initial: Path,
    splits: tuple[Split, Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
    updates: int,
) -> None:
    """An epoch of five batches; the last update takes what is left."""
    done: list[int] = []
    step = torch.optim.Adam.step

    def counted(self: torch.optim.Adam, *given: Any) -> Any:
        done.append(1)
        return step(self, *given)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    train(initial, splits, tmp_path / "run", replace(OPTIONS, epochs=1, accumulate=accumulate))
    assert len(done) == updates


def test_no_batch_at_all_is_no_update() -> None:
    with pytest.raises(UsageError, match="accumulate 0"):
        replace(OPTIONS, accumulate=0)
