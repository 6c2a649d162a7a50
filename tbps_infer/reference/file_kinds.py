"""What people hold in place of a file of tensors, told from its first bytes. Nothing here needs torch."""

from __future__ import annotations

from pathlib import Path

from tbps_infer.errors import CheckpointError

__all__ = ["TENSOR_SUFFIXES", "is_safetensors", "refuse_other_kinds"]

TENSOR_SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar", ".bin", ".ckpt", ".safetensors.index.json")
"""How the names of files of tensors end."""

CONVERT = "If you trust it, convert it to safetensors: docs/families.md has the command."

_UNPACK = "Unpack it, and name the file of tensors inside."
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the file that it points to",
        "Fetch the file: git lfs pull.",
    ),
    (b"\x1f\x8b", "is compressed with gzip", "Unpack it (gunzip), and name the result."),
    (b"BZh", "is compressed with bzip2", "Unpack it (bunzip2), and name the result."),
    (b"\xfd7zXZ\0", "is compressed with xz", "Unpack it (unxz), and name the result."),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "Unpack it (unzstd), and name the result."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (b"Rar!", "is a RAR archive", _UNPACK),
    (b"\x93NUMPY", "is a NumPy array", "Give the checkpoint as PyTorch or safetensors write it."),
    (b"\x89HDF", "is an HDF5 file, as Keras writes it", "Give the checkpoint as PyTorch or safetensors write it."),
    (b"GGUF", "is a GGUF file of quantised weights", "Give the checkpoint that it was made from."),
)
_HEAD_BYTES = 512


def refuse_other_kinds(path: Path) -> None:
    """Refuse a file that is recognised and holds no tensors that could be read as it is.

    Raises:
        CheckpointError: Names what it is, with what to do; or the file is empty or cannot be read.
    """
    head = _head(path)
    if not head:
        raise CheckpointError(f"{path} is damaged: it is empty.", "Copy it again.")
    for magic, what, remedy in _KINDS:
        if head.startswith(magic):
            raise CheckpointError(f"{path} {what}.", remedy)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page (HTML), not a checkpoint.",
            "Open it in a browser to see what the download asks for, and download the file itself.",
        )
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive.", "Unpack it (tar xf), and name the file of tensors inside.")
    if head.startswith(b"PK"):
        _refuse_other_zips(path)


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do, whatever its name: eight bytes of length, then a JSON object."""
    head = _head(path)
    return head[8:9] == b"{" and 1 < int.from_bytes(head[:8], "little") <= path.stat().st_size


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error


def _refuse_other_zips(path: Path) -> None:
    """PyTorch's own files are zip archives too: ``data.pkl`` is inside, and in TorchScript ``constants.pkl`` too."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            inside = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return  # cut off: the reader says that it is damaged
    if "constants.pkl" in inside:
        raise CheckpointError(
            f"{path} is a TorchScript archive, as OpenAI publishes CLIP: it carries code, which was not executed.",
            CONVERT,
        )
    if "data.pkl" not in inside:
        raise CheckpointError(f"{path} is a zip archive.", _UNPACK)
