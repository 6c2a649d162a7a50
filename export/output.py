"""Where a bundle goes: a new folder, an empty one, or a bundle's own, in which the files of others stay."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.atomic import finish_new_files, is_vacant, new_files, new_folder
from tbps_infer.bundle import BUNDLE_JSON, is_bundle
from tbps_infer.errors import BundleError
from tbps_infer.export.options import ExportOptions
from tbps_infer.formats.json_files import read_json

__all__ = ["Output"]


@dataclass(frozen=True)
class Output:
    """The place of a bundle that is to be written.

    Attributes:
        path: The folder.
        replaced: Names of the files of the bundle that is there, which the new ones replace; none where nothing is.
    """

    path: Path
    replaced: frozenset[str]

    @classmethod
    def find(cls, path: Path, options: ExportOptions) -> Output:
        """Look at the place before any work.

        Raises:
            BundleError: Something is there that is not to be, or not a bundle that could be, replaced or added to.
        """
        finish_new_files(path, BundleError)
        if is_vacant(path):
            if options.add:
                raise BundleError(f"There is no bundle {path} to add to.", "Leave --add out: the export makes one.")
            return cls(path, frozenset())
        if not (options.overwrite or options.add):
            hint = "Choose another name, replace it with --overwrite, or add graphs of another precision with --add."
            raise BundleError(f"{path} already exists.", hint)
        if path.is_symlink() or not is_bundle(path):
            change = "added to" if options.add else "overwritten"
            raise BundleError(f"{path} already exists and is not a bundle, so it is not {change}.", "Move it away.")
        return cls(path, _written(path))

    def opened(self) -> contextlib.AbstractContextManager[Path]:
        """An empty folder to write to, whose files take their places at the end; raises BundleError."""
        if self.replaced:
            return new_files(self.path, BundleError, replaces=self.replaced, last=BUNDLE_JSON)
        return new_folder(self.path, BundleError, last=BUNDLE_JSON)

    def kept(self) -> list[str]:
        """Names in the folder that the bundle that was there did not have."""
        own = {name.split("/")[0] for name in self.replaced}
        return sorted(entry.name for entry in self.path.iterdir() if entry.name not in own) if own else []


def _written(bundle: Path) -> frozenset[str]:
    """Names of the files that an export wrote, damaged or not."""
    try:
        return frozenset({*read_json(bundle / BUNDLE_JSON).object("files"), BUNDLE_JSON})
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{bundle / BUNDLE_JSON} is not valid, so which files are the bundle's is not known: {error}.",
            "Move the folder away.",
        ) from error
