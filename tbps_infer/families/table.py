"""The table of models: how a checkpoint of each family becomes two modules, to be run or exported."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import logging
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbps_infer.bundle import file_sha256
from tbps_infer.errors import CheckpointError, UsageError
from tbps_infer.families.family import DualEncoder, Family, Plan
from tbps_infer.families.files import CheckpointFile, read_checkpoint_file
from tbps_infer.families.hugging_face import CLIP_FOLDER
from tbps_infer.families.irra import ICL, IRRA
from tbps_infer.families.loading import Coverage, copy_tensors, cover
from tbps_infer.families.openai import CLIP
from tbps_infer.families.options import LoadOptions, option
from tbps_infer.families.outside import find_outside, outside_families
from tbps_infer.families.plip import PLIP
from tbps_infer.families.rde import ITSELF, RDE
from tbps_infer.families.siglip import SIGLIP
from tbps_infer.families.tbps_clip import TBPS_CLIP
from tbps_infer.families.vocabulary import find_tokenizer
from tbps_infer.formats.json_files import read_json
from tbps_infer.model_facts import Branch, ModelFacts
from tbps_infer.reference.checkpoint import CONFIG_JSON, FAMILY, load_checkpoint, tensors_sha256
from tbps_infer.reference.model import PartModel
from tbps_infer.reference.tensor_files import tensors_file_sha256

__all__ = ["FAMILIES", "PUBLISHED", "Found", "SourceModel", "inspect_checkpoint", "load_source"]

PUBLISHED: tuple[Family, ...] = (ITSELF, RDE, IRRA, ICL, TBPS_CLIP, PLIP, CLIP, CLIP_FOLDER, SIGLIP)
"""Families of published checkpoints. The first that recognises one has it: RDE stands before IRRA, whose tensors it
has and more, and TBPS-CLIP before CLIP."""

FAMILIES: tuple[str, ...] = (FAMILY, *(family.name for family in PUBLISHED))
"""Every name that ``--family`` takes: this project's own part model first."""

_logger = logging.getLogger(__name__)
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class SourceModel:
    """A loaded model of any family, its two branches in eval mode on the CPU.

    Attributes:
        facts: What defines its embedding space.
        image: ``pixels``, uint8 ``[batch, height, width, 3]``, to z, float32 ``[batch, dim]``.
        text: ``input_ids`` and ``attention_mask``, int32 ``[batch, length]``, to z, float32 ``[batch, dim]``.
        path: The file that carried its tensors.
        tokenizer_path: Its `tokenizers` file; one made for a published checkpoint is deleted with this object.
        sha256: Of the checkpoint's tensors' file.
        dropped: How many of its tensors served the training alone, by the module that they belong to.
        assumed: What nobody said about it, by the name of the option that says it.
    """

    facts: ModelFacts
    image: nn.Module
    text: nn.Module
    path: Path
    tokenizer_path: Path
    sha256: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    assumed: Mapping[str, Any] = field(default_factory=dict)
    _copies: dict[torch.device, tuple[nn.Module, nn.Module]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._copies[_CPU] = (self.image, self.text)

    @property
    def name(self) -> str:
        """Of the checkpoint: its folder and file."""
        return f"{self.path.resolve().parent.name}/{self.path.name}"

    def branch(self, branch: Branch, device: torch.device = _CPU) -> nn.Module:
        """The module of one branch.

        On another device than the CPU it is a copy, made once for each device, so that no one's module is moved under
        them. The copies of both branches share what the branches share.
        """
        if device not in self._copies:
            self._copies[device] = _copied_to(device, self.image, self.text)
        image, text = self._copies[device]
        return image if branch == "image" else text


@dataclass(frozen=True)
class Found:
    """A published checkpoint understood: which family, what of it is taken, what is left.

    Attributes:
        plan: Its network is of the right sizes and does not have the tensors yet.
    """

    family: Family
    file: CheckpointFile
    plan: Plan
    coverage: Coverage


def assumptions(assumed: Mapping[str, Any]) -> str:
    """What is assumed of a checkpoint, as a sentence without its end."""
    known = {each.name for each in dataclasses.fields(LoadOptions)}
    values = ", ".join(f"{option(name) if name in known else name} {value}" for name, value in assumed.items())
    return f"neither the checkpoint nor its settings say it, so this is assumed: {values}"


def _copied_to(device: torch.device, image: nn.Module, text: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Copies of both branches with their tensors on a device; the host's memory never holds the tensors twice."""
    memo: dict[int, object] = {}
    for module in (image, text):
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            moved = tensor.detach().to(device)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(moved, tensor.requires_grad) if is_parameter else moved
    return copy.deepcopy(image, memo), copy.deepcopy(text, memo)


class _ImageBranch(nn.Module):
    def __init__(self, model: PartModel | DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class _TextBranch(nn.Module):
    def __init__(self, model: PartModel | DualEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, attention_mask)


def load_source(family: str | None, path: Path, options: LoadOptions | None = None) -> SourceModel:
    """Load a checkpoint of any family, strictly, as FP32.

    Args:
        family: One of `FAMILIES`; recognised from the checkpoint when None.
        path: The checkpoint: a file, or a folder with one.
        options: What else there is to say about it.

    Raises:
        UsageError: The family is not in the table, or the tokenizer's file is missing or another model's.
        CheckpointError: The checkpoint cannot be read, is of no known family, or its tensors do not fit.
    """
    options = options or LoadOptions()
    if family is not None:
        options = dataclasses.replace(options, family=family)
    found = inspect_checkpoint(path, options)
    return _load_part(path, options.key) if found is None else _load_published(found, options)


def inspect_checkpoint(path: Path, options: LoadOptions | None = None) -> Found | None:
    """Recognise a published checkpoint and compare its tensors with its family's network, without loading them.

    Returns:
        None for a checkpoint of the part model, which its own reader checks.

    Raises:
        UsageError: The family asked for is not in the table.
        CheckpointError: It cannot be read, is of no known family, or its tensors do not fit.
    """
    options = options or LoadOptions()
    named = None if options.family in (None, FAMILY) else _named(options.family)
    folder = path if path.is_dir() else path.parent
    if options.family == FAMILY or (options.family is None and _is_parts(folder / CONFIG_JSON)):
        options.refuse_unknown(f"the family {FAMILY}", ())
        return None
    file = read_checkpoint_file(path, options)
    family = named or _recognise(file)
    options.refuse_unknown(f"the family {family.name}", family.options)
    file = family.translate(file)
    plan = family.plan(file, options)
    return Found(family, file, plan, cover(file, plan.network, plan.table, plan.droppable, options.drop))


def _is_parts(config: Path) -> bool:
    """Whether a ``config.json`` is the part model's. Hugging Face's, beside a vocabulary, is not."""
    try:
        values = read_json(config)
    except FileNotFoundError:
        return False
    except ValueError:  # damaged: the part model's own reader says how
        return True
    return "model_type" not in values


def _named(name: str | None) -> Family:
    assert name is not None
    family = next((family for family in PUBLISHED if family.name == name), None) or find_outside(name)
    if family is None:
        raise UsageError(
            f"The model family {name!r} is not known.", f"Give one of {', '.join(FAMILIES)}, or MODULE:NAME."
        )
    return family


def _recognise(file: CheckpointFile) -> Family:
    for family in itertools.chain(PUBLISHED, outside_families()):
        if family.recognises(file):
            return family
    groups = ", ".join(dict.fromkeys(name.partition(".")[0] for name in file.tensors))
    raise CheckpointError(
        f"{file.path} holds the tensors of no known family: {len(file.tensors)} in {groups or 'no module'}.",
        f"If it is of one of these, name it: --family {'|'.join(FAMILIES)}. The family {FAMILY} needs its "
        f"{CONFIG_JSON} beside it.",
    )


def _load_part(path: Path, key: str | None) -> SourceModel:
    checkpoint = load_checkpoint(path, key)
    return SourceModel(
        facts=checkpoint.facts,
        image=_ImageBranch(checkpoint.model).eval(),
        text=_TextBranch(checkpoint.model).eval(),
        path=checkpoint.path,
        tokenizer_path=checkpoint.tokenizer_path,
        sha256=checkpoint.sha256,
    )


def _load_published(found: Found, options: LoadOptions) -> SourceModel:
    plan, file = found.plan, found.file
    tokenizer = find_tokenizer(
        plan.tokenizer, options.merges or options.vocab or options.tokenizer, file.path.parent, plan.vocab
    )
    copy_tensors(file, plan.network, plan.table)
    network = plan.network.eval().requires_grad_(False)
    folder = Path(tempfile.mkdtemp(prefix="tbps-tokenizer."))
    tokenizer_path = folder / "tokenizer.json"
    tokenizer.save(str(tokenizer_path))
    facts = _facts(found, file_sha256(tokenizer_path))
    if plan.assumed:
        _logger.warning("%s: %s", file.path, assumptions(plan.assumed))
    source = SourceModel(
        facts=facts,
        image=_ImageBranch(network).eval(),
        text=_TextBranch(network).eval(),
        path=file.path,
        tokenizer_path=tokenizer_path,
        sha256=tensors_file_sha256(file.path),
        dropped=found.coverage.dropped_groups(),
        assumed=plan.assumed,
    )
    weakref.finalize(source, shutil.rmtree, folder, ignore_errors=True)
    return source


def _facts(found: Found, tokenizer_sha256: str) -> ModelFacts:
    plan = found.plan
    facts = ModelFacts(
        family=found.family.name,
        config=plan.config,
        preprocessing=plan.preprocessing,
        caption_rule=plan.caption_rule,
        max_length=plan.max_length,
        pad_id=plan.pad_id,
        layout=plan.layout,
    )
    weights = {own: found.file.tensors[name] for name, own in plan.table.items()}
    return facts.identified(tensors_sha256(weights), tokenizer_sha256)
