"""`tbps info`: what a checkpoint, a bundle, a gallery or a training run is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tbps_infer.cli.shared.family_options import family_options
from tbps_infer.cli.shared.missing import missing_pictures
from tbps_infer.cli.shared.options import json_option, verbosity_options
from tbps_infer.cli.shared.parameter_types import EXISTING_GALLERY
from tbps_infer.cli.shared.progress import say
from tbps_infer.model_facts import BRANCHES
from tbps_infer.render.printable import printable_line

if TYPE_CHECKING:
    from tbps_infer.families.family import Plan
    from tbps_infer.families.options import LoadOptions
    from tbps_infer.families.table import Found
    from tbps_infer.model_facts import ModelFacts

__all__ = ["describe", "info", "shown"]


@click.command()
@click.argument("path", type=EXISTING_GALLERY)
@json_option
@click.option("--check", is_flag=True, help="Also check every file against its checksum.")
@family_options
@verbosity_options
def info(path: Path | str, as_json: bool, check: bool, load: LoadOptions) -> None:
    """Describe PATH: a checkpoint, a bundle, a gallery or a training run.

    \b
    tbps info bundle --check
    """
    facts = describe(path, check, load)
    click.echo(shown(facts, as_json))


def shown(facts: dict[str, Any], as_json: bool) -> str:
    """What `describe` tells, for people or for programs."""
    return json.dumps(facts, indent=2, ensure_ascii=False) if as_json else _lines(facts)


def describe(path: Path | str, check: bool = False, load: LoadOptions | None = None) -> dict[str, Any]:
    """The facts of a checkpoint, bundle, gallery or training run, as JSON values.

    Raises:
        TbpsError: The path is none of the four, or damaged.
    """
    from tbps_infer.bundle import is_bundle
    from tbps_infer.gallery.opening import is_gallery_name
    from tbps_infer.training.run_folder import describe_run, is_run

    if is_gallery_name(path):
        _refuse(path, "gallery", load)
        return _gallery(path, check)
    path = Path(path)
    if is_bundle(path):
        _refuse(path, "bundle", load)
        return _bundle(path, check)
    if is_run(path):
        return {"kind": "training run", "path": str(path), **describe_run(path)}
    return _checkpoint(path, load)


def _refuse(path: Path | str, kind: str, load: LoadOptions | None) -> None:
    if load is not None:
        load.refuse_all(Path(path), kind)


def _bundle(path: Path, check: bool) -> dict[str, Any]:
    from tbps_infer.bundle import Bundle
    from tbps_infer.tensorrt.engine_folder import engines_of

    bundle = Bundle.open(path)
    if check:
        bundle.check_files()
    return {
        "kind": "bundle",
        "path": str(path),
        **_model(bundle.model),
        "opset": bundle.opset,
        "source": dict(bundle.source),
        "created": bundle.created,
        "versions": dict(bundle.versions),
        "verified": bundle.verification.get("passed"),
        "gate": dict(map(_verdict, bundle.gate)),
        "engines": {
            folder.path.name: {
                "plans": len(folder.facts.plans),
                "bytes": sum(plan.bytes for plan in folder.facts.plans),
                "executed": folder.facts.self_check.get("executed"),
                "outdated": bool(folder.other_graphs(bundle)),
            }
            for folder in engines_of(bundle.path)
        },
        "files": {name: {"bytes": f.bytes, "sha256": f.sha256} for name, f in bundle.files.items()},
        **({"checked": True} if check else {}),
    }


def _verdict(entry: Mapping[str, Any]) -> tuple[str, str]:
    """What the gate compared, and the result."""
    engine = " ".join(str(entry[name]) for name in ("backend", "device", "precision"))
    what = f"{engine} against {entry['reference']['kind']} on {entry['data']['name']}"
    changes = [
        f"{name} {each['difference']:+.2f}" for name, each in entry["metrics"].items() if name in ("R@1", "mAP")
    ]
    found = entry["agreement"]
    if found is not None and not changes:
        least = min(found[branch]["cosine"]["min"] for branch in BRANCHES)
        changes = [f"cosine {least:.6f}", f"overlap {found['overlap']:.2%}"]
    return what, ", ".join(["passed" if entry["passed"] else "FAILED", *changes, entry["when"][:10]])


def _gallery(path: Path | str, check: bool) -> dict[str, Any]:
    from tbps_infer.gallery import open_gallery

    with open_gallery(path) as gallery:
        missing = gallery.missing(every_file=check)
        if missing:
            say(missing_pictures(path, missing, gallery.missing_roots()))
        checked = {"segments_checked": gallery.verify()} if check else {}
        return {
            "kind": "gallery",
            "path": str(path),
            "records": gallery.count,
            "rejected": {str(reject.path): reject.reason for reject in gallery.rejects},
            "unreachable": {str(reject.path): reject.reason for reject in gallery.unreachable},
            "removed": len(gallery.tombstones),
            "roots": {str(root): count for root, count in gallery.roots.items()},
            "missing": missing,
            "columns": list(gallery.columns),
            "dtype": str(gallery.dtype),
            "indexes": gallery.indexes,
            "crops": gallery.keeps_crops,
            "bytes": gallery.bytes,
            "bundle": None if gallery.bundle_path is None else str(gallery.bundle_path),
            **_model(gallery.model),
            "created": gallery.facts.created,
            "made_by": gallery.facts.made_by,
            **checked,
        }


def _checkpoint(path: Path, load: LoadOptions | None) -> dict[str, Any]:
    from tbps_infer.families.table import inspect_checkpoint

    found = inspect_checkpoint(path, load)
    return _part(path) if found is None else _published(found)


def _published(found: Found) -> dict[str, Any]:
    return {
        "kind": "checkpoint",
        "path": str(found.file.path),
        "family": found.family.name,
        "bytes": found.file.path.stat().st_size,
        "coverage": str(found.coverage),
        "dropped": found.coverage.dropped_groups(),
        "assumed": dict(found.plan.assumed),
        **_shapes(found.plan),
        "settings": found.file.settings.source or "none",
        "sizes": dict(found.plan.config),
    }


def _part(path: Path) -> dict[str, Any]:
    from tbps_infer.reference.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    parameters = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    return {
        "kind": "checkpoint",
        "path": str(path),
        "parameters": parameters,
        "bytes": checkpoint.path.stat().st_size,
        "sha256": checkpoint.sha256,
        **_model(checkpoint.facts),
        "training": dict(checkpoint.training),
    }


def _model(facts: ModelFacts) -> dict[str, Any]:
    return {"family": facts.family, "fingerprint": facts.fingerprint, **_shapes(facts)}


def _shapes(model: ModelFacts | Plan) -> dict[str, Any]:
    """What goes into a model and what comes out."""
    height, width = model.preprocessing.image_size
    return {
        "image_size": f"{height}x{width} (height x width), {model.preprocessing.interpolation}",
        "max_length": model.max_length,
        "dim": model.layout.dim,
        "layout": ", ".join(f"{segment.name} {segment.size}" for segment in model.layout.segments),
    }


def _lines(facts: dict[str, Any]) -> str:
    """A name and a value per line; nested values are indented below their name."""
    lines = []
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        if isinstance(value, dict):
            lines.append(f"{name}:" if value else f"{name.ljust(width)}  none")
            lines += [f"  {printable_line(key)}: {_value(entry)}" for key, entry in value.items()]
        else:
            lines.append(f"{name.ljust(width)}  {_value(value)}")
    return "\n".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(entry)}" for key, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else printable_line(str(value))
