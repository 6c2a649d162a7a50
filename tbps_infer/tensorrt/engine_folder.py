"""Engines on disk: raw plans that trtexec loads too, and beside them one JSON file with all that is known of them.

::

    BUNDLE/engines/tensorrt-10.3.0-orin-sm87-fp16/
      image.plan
      text.plan        a profile for each text length; text-32.plan and so on where TensorRT wants one profile each
      engine.json      build spec and its hash, versions, GPU, profiles, memory, times, proof of precision, self-check
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tbps_infer.atomic import leftover_of, write_text
from tbps_infer.bundle import Bundle, file_sha256
from tbps_infer.errors import BackendError, BundleError
from tbps_infer.formats.json_files import JsonObject, read_json
from tbps_infer.model_facts import BRANCHES, PRECISIONS, Branch, Precision
from tbps_infer.tensorrt.flavours import FLAVOURS, FlavourName
from tbps_infer.tensorrt.gpus import GpuFacts
from tbps_infer.tensorrt.precision_proof import PrecisionProof

__all__ = [
    "ENGINES",
    "ENGINE_JSON",
    "FAILED_JSON",
    "PORTABLE_TARGET",
    "EngineFacts",
    "EngineFolder",
    "PlanFacts",
    "engines_of",
    "spec_hash",
    "write_facts",
]

ENGINE_JSON = "engine.json"
FAILED_JSON = "failed.json"
"""Stands in for `ENGINE_JSON` where engines failed, so that nothing takes them for engines."""
ENGINES = "engines"
SCHEMA_VERSION = 3
PORTABLE_TARGET = "sm80-and-later"
"""What TensorRT for RTX builds for when it is given no target."""


@dataclass(frozen=True)
class PlanFacts:
    """One plan.

    Attributes:
        file: Its name in the folder.
        branch: Of the model.
        lengths: Tokens per caption, one for each optimization profile in order; empty for images, of one profile.
        bytes: Its size.
        sha256: Of the file.
        build_seconds: How long the builder took.
        activation_bytes: Device memory that it needs to run, beside its weights, by its greatest profile.
        predicted_activation_bytes: What was said before building; None where it could not be predicted.
        proofs: Its precision, one for each profile.
    """

    file: str
    branch: Branch
    lengths: tuple[int, ...]
    bytes: int
    sha256: str
    build_seconds: float
    activation_bytes: int
    predicted_activation_bytes: int | None
    proofs: tuple[PrecisionProof, ...]

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return {**dataclasses.asdict(self), "proofs": [proof.to_json() for proof in self.proofs]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PlanFacts:
        """Read what `to_json` wrote; raises ValueError on anything else."""
        read = JsonObject(values, "plan")
        file, branch = read.text("file"), read.text("branch")
        if Path(file).name != file:
            raise ValueError(f"{file[:40]!r} is not the plain name of a file in the folder")
        if branch not in BRANCHES:
            raise ValueError(f"a plan is of the branch {branch[:40]!r}")
        return cls(
            file=file,
            branch=branch,
            lengths=read.integers("lengths", 1),
            bytes=read.integer("bytes"),
            sha256=read.text("sha256"),
            build_seconds=read.number("build_seconds"),
            activation_bytes=read.integer("activation_bytes"),
            predicted_activation_bytes=(
                None if read["predicted_activation_bytes"] is None else read.integer("predicted_activation_bytes")
            ),
            proofs=tuple(map(PrecisionProof.from_json, read.objects("proofs"))),
        )


@dataclass(frozen=True)
class EngineFacts:
    """All plans of one build.

    Attributes:
        flavour: Which product built them.
        version: Its version.
        precision: Of the graphs.
        target: What TensorRT for RTX was asked to build for; None for TensorRT, which builds for ``gpu``.
        gpu: The GPU of the machine that built them; None where there was none.
        spec: All that the plans follow from: graphs, profile, settings, versions, GPU.
        plans: Each of them.
        mixed_precision: What became of each branch's graph; empty for FP32.
        self_check: ``{"executed": false, "reason": ...}``, or the report; empty while they are being built.
        created: When, ISO 8601 UTC.
    """

    flavour: FlavourName
    version: str
    precision: Precision
    target: str | None
    gpu: GpuFacts | None
    spec: Mapping[str, Any]
    plans: tuple[PlanFacts, ...]
    mixed_precision: Mapping[str, Any]
    self_check: Mapping[str, Any]
    created: str

    @property
    def portable(self) -> bool:
        """Whether they run on several kinds of GPU."""
        return self.flavour == "tensorrt-rtx" and self.target is None

    @property
    def built_for(self) -> str:
        """The GPU that TensorRT built for, or the target of TensorRT for RTX, as folders are named."""
        if FLAVOURS[self.flavour].needs_gpu_to_build and self.gpu is not None:
            return self.gpu.label
        return self.target or PORTABLE_TARGET

    @property
    def folder_name(self) -> str:
        """What the folder is called in the bundle's ``engines``."""
        return f"{self.flavour}-{self.version}-{self.built_for}-{self.precision}"

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Each branch's least, usual and most items per run, in order."""
        return tuple(sorted({int(size) for sizes in self.spec["batch"].values() for size in sizes.values()}))

    def to_json(self) -> dict[str, Any]:
        """The facts as plain JSON values."""
        return {
            "schema": SCHEMA_VERSION,
            "flavour": self.flavour,
            "version": self.version,
            "precision": self.precision,
            "target": self.target,
            "gpu": None if self.gpu is None else dataclasses.asdict(self.gpu),
            "spec": dict(self.spec),
            "spec_sha256": spec_hash(self.spec),
            "plans": [plan.to_json() for plan in self.plans],
            "mixed_precision": dict(self.mixed_precision),
            "self_check": dict(self.self_check),
            "created": self.created,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> EngineFacts:
        """Read what `to_json` wrote; raises ValueError on anything else."""
        read = JsonObject(values)
        if read["schema"] != SCHEMA_VERSION:
            raise ValueError(f"schema {read['schema']!r} instead of {SCHEMA_VERSION}")
        if read.text("flavour") not in FLAVOURS or read.text("precision") not in PRECISIONS:
            raise ValueError(f"{read['flavour']!r} in {read['precision']!r}")
        if spec_hash(read.mapping("spec")) != read["spec_sha256"]:
            raise ValueError("the build spec is not the one that was hashed")
        return cls(
            flavour=cast(FlavourName, values["flavour"]),
            version=read.text("version"),
            precision=cast(Precision, values["precision"]),
            target=None if read["target"] is None else read.text("target"),
            gpu=None if read["gpu"] is None else GpuFacts.from_json(read.object("gpu")),
            spec=read.mapping("spec"),
            plans=tuple(map(PlanFacts.from_json, read.objects("plans"))),
            mixed_precision=read.mapping("mixed_precision"),
            self_check=read.mapping("self_check"),
            created=read.text("created"),
        )


@dataclass(frozen=True)
class EngineFolder:
    """An opened folder of engines; `open` reads its facts, `check_plan` a plan's bytes."""

    path: Path
    facts: EngineFacts

    @classmethod
    def open(cls, path: Path) -> EngineFolder:
        """Read the facts. Raises BackendError when the folder is not one, or of another schema."""
        file = path / ENGINE_JSON
        try:
            return cls(path, EngineFacts.from_json(read_json(file)))
        except FileNotFoundError as error:
            raise BackendError(
                f"{path} holds no engines: it has no {ENGINE_JSON}.", "Make them: tbps build."
            ) from error
        except (OSError, ValueError) as error:
            raise BackendError(
                f"{file} is not valid: {error}.", "Make the engines again: tbps build --rebuild."
            ) from error

    @property
    def rebuild_command(self) -> str:
        """What makes these engines again."""
        return f"{self.command(target=self.facts.target)} --rebuild"

    def command(self, *, target: str | None) -> str:
        """What makes engines like these for a target, which TensorRT for RTX alone is told."""
        facts = self.facts
        given = f" --target {target}" if target and facts.flavour == "tensorrt-rtx" else ""
        return f"tbps build {self.path.parent.parent} --backend {facts.flavour} --precision {facts.precision}{given}"

    def check_plan(self, plan: PlanFacts) -> Path:
        """The path of a plan whose bytes are those that were written; raises BackendError on any others."""
        file = self.path / plan.file
        if not file.is_file():
            raise BackendError(f"{self.path} has no {plan.file}.", f"Make it again: {self.rebuild_command}")
        if file.stat().st_size != plan.bytes or file_sha256(file) != plan.sha256:
            raise BackendError(
                f"{file} is not the engine that was built (its sha256 differs).",
                f"Make it again: {self.rebuild_command}",
            )
        return file

    def other_graphs(self, bundle: Bundle) -> list[str]:
        """Names of the graphs that the engines were made from and that the bundle has others of, or none."""
        found = {name: fact.sha256 for name, fact in bundle.files.items()}
        return [name for name, sha256 in self.facts.spec["graphs"].items() if found.get(name) != sha256]

    def refuse_elsewhere(self, version: str, gpu: GpuFacts) -> None:
        """Refuse another TensorRT or GPU than those that the engines were built with.

        Raises:
            BackendError: With the command that builds them again.
        """
        facts = self.facts
        if facts.version != version:
            raise BackendError(
                f"The engines in {self.path} were built by {facts.flavour} {facts.version}, and {version} is here.",
                f"Build them on this machine: {self.rebuild_command}",
            )
        self.refuse_other_gpu(gpu)

    def refuse_other_gpu(self, gpu: GpuFacts) -> None:
        """Refuse a GPU that the engines were not built for. Raises BackendError with the command that does."""
        facts = self.facts
        if facts.flavour == "tensorrt-rtx":
            fits = int(gpu.sm[2:]) >= 80 if facts.target is None else facts.target == gpu.sm
        else:
            fits = facts.gpu is not None and facts.gpu.same_kind(gpu)
        if not fits:
            raise BackendError(
                f"The engines in {self.path} were built for {facts.built_for}, and here is {gpu.label}.",
                f"Build some for it on this machine: {self.command(target=gpu.sm)}",
            )


def spec_hash(spec: Mapping[str, Any]) -> str:
    """sha256 of a build spec: equal hashes mean that the engines need not be built again."""
    canonical = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def engines_of(bundle: Path) -> list[EngineFolder]:
    """Every folder of engines in a bundle, sorted by name. Raises BackendError when one cannot be read."""
    folder = bundle / ENGINES
    if not folder.is_dir():
        return []
    return [
        EngineFolder.open(path)
        for path in sorted(folder.iterdir())
        if (path / ENGINE_JSON).is_file() and not leftover_of(path.name)
    ]


def write_facts(folder: Path, facts: EngineFacts) -> None:
    """Write a folder's ``engine.json`` whole or not at all; raises BundleError where that cannot be."""
    text = json.dumps(facts.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(folder / ENGINE_JSON, text, BundleError)
