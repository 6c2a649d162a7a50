"""The bundle: a folder that holds everything needed to embed pictures and sentences with one model.

::

    BUNDLE/
      bundle.json        what the model is, how its inputs are made, sha256 of every other file
      image.onnx         uint8 pixels [batch, height, width, 3] -> float32 image_embedding [batch, dim]
      text.onnx          int32 input_ids, attention_mask [batch, length] -> float32 text_embedding [batch, dim]
      image.int8.onnx, text.fp16.onnx, ...    the same in other precisions, where they were exported
      tokenizer.json     a `tokenizers` file
      golden/            a few crops and captions with the reference model's embeddings of them
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tbps_infer.atomic import finish_new_files, write_text
from tbps_infer.errors import BackendError, BundleError
from tbps_infer.formats.json_files import JsonObject, read_json
from tbps_infer.model_facts import Branch, ModelFacts, Precision

if TYPE_CHECKING:
    from tbps_infer.formats.npz_files import Wanted

__all__ = [
    "BUNDLE_JSON",
    "SCHEMA_VERSION",
    "Bundle",
    "FileFact",
    "Golden",
    "file_facts",
    "file_sha256",
    "is_bundle",
]

SCHEMA_VERSION = 1
BUNDLE_JSON = "bundle.json"
GOLDEN_JSON = "golden/golden.json"
GOLDEN_ARRAYS = "golden/vectors.npz"
_GOLDEN_EMBEDDINGS = ("text_embeddings", "image_embeddings")


@dataclass(frozen=True)
class FileFact:
    """Size in bytes and sha256 of one file of a bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Golden:
    """A few inputs with the reference model's embeddings of them, to be replayed on any machine.

    Attributes:
        captions: The sentences, n of them.
        crops: The pictures' files inside the bundle, m of them, before resizing.
        input_ids: int32 ``[n, length]``.
        attention_mask: int32 ``[n, length]``.
        pixels: uint8 ``[m, height, width, 3]``, the crops after resizing.
        text_embeddings: float32 ``[n, dim]``.
        image_embeddings: float32 ``[m, dim]``.
    """

    captions: tuple[str, ...]
    crops: tuple[Path, ...]
    input_ids: NDArray[np.int32]
    attention_mask: NDArray[np.int32]
    pixels: NDArray[np.uint8]
    text_embeddings: NDArray[np.float32]
    image_embeddings: NDArray[np.float32]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: The folder.
        model: What the model is.
        files: Every other file of the folder, by its name relative to it.
        opset: The ONNX opset of the graphs.
        versions: The packages that made it, by name.
        source: ``name`` and ``sha256`` of the checkpoint; what of it was ``dropped`` (tensors by module) and
            ``assumed`` (values by option), where anything was.
        created: When, ISO 8601 UTC.
        verification: The parity with PyTorch at export, as `tbps_infer.verification.parity` writes it.
        gate: Verdicts of the gate, the latest last, as `tbps_infer.verification.gate` writes them.
    """

    path: Path
    model: ModelFacts
    files: Mapping[str, FileFact]
    opset: int
    versions: Mapping[str, str]
    source: Mapping[str, Any]
    created: str
    verification: Mapping[str, Any]
    gate: tuple[Mapping[str, Any], ...] = ()

    @property
    def tokenizer_path(self) -> Path:
        """The `tokenizers` file."""
        return self.path / "tokenizer.json"

    def graph_path(self, branch: Branch, precision: Precision = "fp32") -> Path:
        """The ONNX file of one branch; raises BackendError where it was not exported in this precision."""
        name = _graph_name(branch, precision)
        if precision != "fp32" and name not in self.files:
            raise BackendError(
                f"{self.path} holds no {precision} graph of the {branch} branch.",
                f"Choose the precision fp32, or export the bundle again with --precision {precision}"
                + (" --calibration DATA." if precision == "int8" else "."),
            )
        return self.path / name

    def graph_files(self, branch: Branch, precision: Precision = "fp32") -> tuple[str, ...]:
        """Names of the files of a branch's graph, external data included."""
        graph = _graph_name(branch, precision)
        return tuple(sorted(name for name in self.files if name == graph or name.startswith(f"{graph}.")))

    @classmethod
    def open(cls, path: Path | str) -> Bundle:
        """Read a bundle's facts and check that its files are there with their sizes.

        The fingerprint is computed again from the facts, so that none of them can be changed alone.

        Raises:
            BundleError: The folder is not a bundle, or a file is missing, outside of it, or of another size.
        """
        path = Path(path)
        finish_new_files(path, BundleError)
        values = _read_json(path)
        if values.get("schema") != SCHEMA_VERSION:
            raise BundleError(
                f"{path} was written with bundle schema {values.get('schema')!r}; "
                f"this version reads {SCHEMA_VERSION}.",
                "Export it again with this version of tbps-infer.",
            )
        try:
            bundle = cls._of_json(path, values)
        except ValueError as error:
            raise BundleError(f"{path / BUNDLE_JSON} is not valid: {error}.", "Export it again.") from error
        except BundleError as error:
            raise BundleError(f"{path / BUNDLE_JSON} is not valid: {error.message}", error.hint) from error
        for name, fact in bundle.files.items():
            bundle._check_size(name, fact)
        return bundle

    @classmethod
    def _of_json(cls, path: Path, values: JsonObject) -> Bundle:
        files = values.object("files")
        bundle = cls(
            path=path,
            model=ModelFacts.from_json(values.object("model")),
            files={name: _file_fact(name, files.object(name)) for name in files},
            opset=values.integer("opset"),
            versions=_texts(values.object("versions")),
            source=_source(values.object("source")),
            created=values.text("created"),
            verification=values.mapping("verification"),
            gate=tuple(map(dict, values.objects("gate"))) if "gate" in values else (),
        )
        tokenizer = bundle.files.get(bundle.tokenizer_path.name)
        if not bundle.model.weights or tokenizer is None or tokenizer.sha256 != bundle.model.tokenizer:
            raise ValueError("the model facts do not name its weights, or another tokenizer than the one in files")
        return bundle

    def check_file(self, name: str) -> Path:
        """Hash one file and compare; returns its path, raises BundleError when it was altered."""
        fact = self.files.get(name)
        if fact is None:
            raise BundleError(f"{self.path} has no {name}.", "Export it again with tbps export.")
        self._check_size(name, fact)
        if file_sha256(self.path / name) != fact.sha256:
            raise BundleError(
                f"{self.path / name} is not the file this bundle was written with (its sha256 differs).",
                "Export the bundle again, or copy the file again from where it was made.",
            )
        return self.path / name

    def check_files(self) -> None:
        """Hash every file; raises BundleError naming the first that differs."""
        for name in self.files:
            self.check_file(name)

    def check_graph(self, branch: Branch, precision: Precision = "fp32") -> Path:
        """Hash a branch's graph with its external data, and return the graph's path.

        Raises:
            BackendError: It was not exported in this precision.
            BundleError: A file was altered.
        """
        path = self.graph_path(branch, precision)
        for name in sorted({path.name, *self.graph_files(branch, precision)}):
            self.check_file(name)
        return path

    def golden(self) -> Golden:
        """Load the golden vectors; raises BundleError when they are not there or altered."""
        from tbps_infer.formats.npz_files import read_npz

        facts_file, arrays_file = self.check_file(GOLDEN_JSON), self.check_file(GOLDEN_ARRAYS)
        try:
            facts = read_json(facts_file)
            captions, names = facts.texts("captions"), facts.texts("crops")
            arrays = read_npz(arrays_file, self._golden_arrays(len(captions), len(names)))
            _check_golden(arrays)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"The golden vectors of {self.path} are not valid: {error}.", "Export the bundle again."
            ) from error
        return Golden(captions, tuple(self.check_file(f"golden/{name}") for name in names), **arrays)

    def _golden_arrays(self, captions: int, crops: int) -> dict[str, Wanted]:
        dim, (height, width) = self.model.layout.dim, self.model.preprocessing.image_size
        return {
            "input_ids": ("int32", (captions, None)),
            "attention_mask": ("int32", (captions, None)),
            "pixels": ("uint8", (crops, height, width, 3)),
            "text_embeddings": ("float32", (captions, dim)),
            "image_embeddings": ("float32", (crops, dim)),
        }

    def write_facts(self) -> None:
        """Write ``bundle.json`` whole or not at all; the other files must be in place. Raises OSError."""
        values = {
            "schema": SCHEMA_VERSION,
            "model": self.model.to_json(),
            "files": {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in self.files.items()},
            "opset": self.opset,
            "versions": dict(self.versions),
            "source": dict(self.source),
            "created": self.created,
            "verification": dict(self.verification),
            "gate": [dict(verdict) for verdict in self.gate],
        }
        write_text(self.path / BUNDLE_JSON, json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def _check_size(self, name: str, fact: FileFact) -> None:
        file = self.path / name
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(
                f"{file} is a link that leads out of the bundle.", "Copy the files themselves, or export it again."
            )
        if not file.is_file():
            raise BundleError(f"{self.path} has no {name}.", "Copy the whole folder, or export it again.")
        if file.stat().st_size != fact.bytes:
            raise BundleError(
                f"{file} has {file.stat().st_size} bytes, and {fact.bytes} were written.",
                "Copy the whole folder again, or export it again.",
            )


def is_bundle(path: Path) -> bool:
    """Whether a path is a bundle's folder, judged by its ``bundle.json`` being there."""
    return (path / BUNDLE_JSON).is_file()


def _file_fact(name: str, fact: JsonObject) -> FileFact:
    """The facts of one file; raises ValueError on anything else, and on a name that leaves the bundle."""
    path = PurePosixPath(name)
    if not name.isprintable() or "\\" in name or path.is_absolute() or ".." in path.parts or str(path) != name:
        raise ValueError(f"{name[:40]!r} in files is not the plain name of a file in the bundle")
    fact.refuse_others("bytes", "sha256")
    return FileFact(fact.integer("bytes"), fact.text("sha256"))


def _source(values: JsonObject) -> dict[str, Any]:
    source: dict[str, Any] = {name: values.text(name) for name in ("name", "sha256")}
    if "dropped" in values:
        dropped = values.object("dropped")
        source["dropped"] = {module: dropped.integer(module) for module in dropped}
    if "assumed" in values:
        source["assumed"] = values.mapping("assumed")
    return source


def _texts(values: JsonObject) -> dict[str, str]:
    return {name: values.text(name) for name in values}


def _check_golden(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError where arrays of the right types and shapes are no inputs and embeddings."""
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    if ids.shape != mask.shape or (ids < 0).any() or not np.isin(mask, (0, 1)).all() or not mask.any(axis=1).all():
        raise ValueError("the token ids and their mask do not fit together")
    if not all(len(arrays[name]) and np.isfinite(arrays[name]).all() for name in _GOLDEN_EMBEDDINGS):
        raise ValueError("there are no embeddings, or they hold NaN or infinity")


def _graph_name(branch: Branch, precision: Precision) -> str:
    return f"{branch}.onnx" if precision == "fp32" else f"{branch}.{precision}.onnx"


def file_facts(folder: Path) -> dict[str, FileFact]:
    """Size and sha256 of every file below a folder, ``bundle.json`` left out, sorted by name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): FileFact(file.stat().st_size, file_sha256(file))
        for file in files
        if file.name != BUNDLE_JSON
    }


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _read_json(path: Path) -> JsonObject:
    file = path / BUNDLE_JSON
    try:
        return read_json(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(
            f"{path} is not a bundle: it has no {BUNDLE_JSON}.",
            "Make one from a checkpoint: tbps export CHECKPOINT -o BUNDLE.",
        ) from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{file} is not valid JSON: {error}.", "Export the bundle again.") from error
