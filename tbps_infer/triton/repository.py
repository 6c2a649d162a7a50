"""Writes the model repository of a bundle.

::

    REPOSITORY/
      tbps_image/         pixels uint8 [height, width, 3] -> image_embedding float32 [dim]
      tbps_text/          text, a string -> text_embedding float32 [dim]: an ensemble of the next two
      tbps_tokenizer/     text -> input_ids, attention_mask int32 [length], filled up to a multiple of 16
      tbps_text_graph/    input_ids, attention_mask -> text_embedding

Every model batches what arrives together, and carries the model's fingerprint as a parameter.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.atomic import is_vacant, new_folder
from tbps_infer.bundle import Bundle
from tbps_infer.errors import BackendError, BundleError, UsageError
from tbps_infer.model_facts import Branch
from tbps_infer.tensorrt.engine_folder import EngineFolder, engines_of
from tbps_infer.tensorrt.runner import refuse_other_graphs
from tbps_infer.triton.model_config import branch_config, ensemble_config, tokenizer_config
from tbps_infer.triton.options import TritonOptions

__all__ = ["write_repository"]

_LENGTH_STEP = 16
_TOKENIZER_PROGRAM = '''"""Triton's Python backend looks here; tbps-infer is installed where the server runs."""

from tbps_infer.triton.tokenizer_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class _Served:
    """What Triton loads for one branch.

    Attributes:
        files: The graph or plan, and what lies beside it.
        most: Items per run at most.
        lengths: Tokens per caption that it runs, ascending; empty for pictures.
    """

    files: tuple[Path, ...]
    most: int
    lengths: tuple[int, ...]


def write_repository(bundle: Bundle, out: Path, options: TritonOptions) -> tuple[str, ...]:
    """Write a bundle's model repository, whole or not at all.

    Args:
        bundle: An opened bundle; its files are hashed before they are copied.
        out: Where the repository goes: nothing is there, or an empty folder.
        options: How Triton is to run it.

    Returns:
        The names of the models.

    Raises:
        UsageError: Something is at ``out``.
        BackendError: The bundle has no graph of the precision, or no engines that Triton can load.
        BundleError: A file was altered, or the repository cannot be written.
    """
    if not is_vacant(out):
        raise UsageError(f"{out} already exists.", "Choose another folder, or remove it.")
    serve = _engine if options.run.backend == "tensorrt" else _graph
    image, text = serve(bundle, "image", options), serve(bundle, "text", options)
    tokenizer = bundle.check_file(bundle.tokenizer_path.name)
    with new_folder(out, BundleError) as folder:
        config = branch_config(bundle.model, "image", image.files[0].name, image.most, options)
        _write(folder, f"{options.name}_image", config, image.files)
        config = branch_config(bundle.model, "text", text.files[0].name, text.most, options)
        _write(folder, f"{options.name}_text_graph", config, text.files)
        config = tokenizer_config(bundle.model, text.lengths, text.most, options)
        program = _write(folder, f"{options.name}_tokenizer", config, (tokenizer,))
        (program / "model.py").write_text(_TOKENIZER_PROGRAM, encoding="utf-8")
        _write(folder, f"{options.name}_text", ensemble_config(bundle.model, text.most, options), ())
    return tuple(f"{options.name}_{part}" for part in ("image", "text", "tokenizer", "text_graph"))


def _write(folder: Path, name: str, config: str, files: tuple[Path, ...]) -> Path:
    """Write one model with its one version, and return the version's folder."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(config, encoding="utf-8")
    for file in files:
        shutil.copyfile(file, version / file.name)
    return version


def _graph(bundle: Bundle, branch: Branch, options: TritonOptions) -> _Served:
    graph = bundle.check_graph(branch, options.run.precision)
    beside = (bundle.path / name for name in bundle.graph_files(branch, options.run.precision))
    files = (graph, *(file for file in beside if file != graph))
    longest = bundle.model.max_length
    lengths = (*range(_LENGTH_STEP, longest, _LENGTH_STEP), longest)
    return _Served(files, options.most, lengths if branch == "text" else ())


def _engine(bundle: Bundle, branch: Branch, options: TritonOptions) -> _Served:
    folder = _engine_folder(bundle, options)
    plans = [plan for plan in folder.facts.plans if plan.branch == branch]
    batch = folder.facts.spec["batch"][branch]
    if len(plans) != 1:
        raise BackendError(
            f"The engines in {folder.path} are one for each text length, and Triton's text model is one.",
            f"Build one: {folder.rebuild_command} --text-lengths {bundle.model.max_length}",
        )
    if batch["minimum"] > 1:
        raise BackendError(
            f"The engines in {folder.path} run {batch['minimum']} items at least, and Triton also asks for one.",
            f"Build them again: {folder.rebuild_command} --min-batch 1",
        )
    return _Served((folder.check_plan(plans[0]),), min(options.most, batch["maximum"]), plans[0].lengths)


def _engine_folder(bundle: Bundle, options: TritonOptions) -> EngineFolder:
    """The bundle's engines of TensorRT in the precision, those that were named or the only ones."""
    found = [
        folder
        for folder in engines_of(bundle.path)
        if folder.facts.flavour == "tensorrt" and folder.facts.precision == options.run.precision
        if options.engines in (None, folder.path.name)
    ]
    if not found:
        raise BackendError(
            f"{bundle.path} holds no engines of TensorRT in {options.run.precision}"
            + (f" of the name {options.engines}." if options.engines else "; those for RTX, Triton does not load."),
            f"On the machine of the server: tbps build {bundle.path} --precision {options.run.precision}",
        )
    if len(found) > 1:
        names = ", ".join(folder.path.name for folder in found)
        raise BackendError(f"{bundle.path} holds several engines: {names}.", "Choose one with --engines NAME.")
    refuse_other_graphs(found[0], bundle)
    return found[0]
