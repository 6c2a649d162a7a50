"""The errors a user can cause, as one tree.

TbpsError                      anything below; the command line prints it and exits 1
├── UsageError                 an argument makes no sense, alone or beside another one (the command line exits 2)
├── CheckpointError            a checkpoint cannot be read, or its tensors do not fit the model
├── BundleError                a bundle is incomplete, altered, or written by another version
├── DatasetError               a data set's file or field is not what its format says
├── SourceError                a source of pictures (folder, list, glob) cannot be read
├── ImageError                 one picture cannot be decoded
├── VideoError                 a video, a file of detections or a folder of crops cannot be read or written
├── DetectorError              a detector's graph is not what its JSON file declares
├── GalleryError               a gallery cannot be read or written as asked
│   ├── GalleryBusyError       another process is writing to it
│   └── ModelMismatchError     it was embedded by another model
├── FilterError                a metadata filter is not valid
├── BackendError               a backend, provider, device or precision is not to be had on this machine
├── FeedError                  an array given to a runner has another shape or type than the graph wants
├── BenchmarkError             a benchmark cannot be continued or reported as asked
└── VerificationError          a graph or engine does not do what its reference does
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BenchmarkError",
    "BundleError",
    "CheckpointError",
    "DatasetError",
    "DetectorError",
    "FeedError",
    "FilterError",
    "GalleryBusyError",
    "GalleryError",
    "ImageError",
    "ModelMismatchError",
    "SourceError",
    "TbpsError",
    "UsageError",
    "VerificationError",
    "VideoError",
]


class TbpsError(Exception):
    """An error that the user can act on.

    Args:
        message: One sentence: what was given and what was wanted.
        hint: What to do about it, as one sentence or a command; empty when the message already says so.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TbpsError):
    """Raised when an argument makes no sense, alone or beside another one."""


class CheckpointError(TbpsError):
    """Raised when a checkpoint cannot be read safely, or its tensors do not fit the model."""


class BundleError(TbpsError):
    """Raised when a bundle is incomplete, altered since it was made, or of another schema version."""


class DatasetError(TbpsError):
    """Raised when an annotation file or one of its fields is not what the data set's format says."""


class SourceError(TbpsError):
    """Raised when a source of pictures (a folder, a list, a glob) cannot be read."""


class ImageError(TbpsError):
    """Raised when one picture cannot be decoded; embedding a gallery records it and goes on."""


class VideoError(TbpsError):
    """Raised when a video, a file of detections or a folder of crops cannot be read or written."""


class DetectorError(TbpsError):
    """Raised when a detector's JSON file is not valid, or its graph is not what it declares."""


class GalleryError(TbpsError):
    """Raised when a gallery cannot be read or written as asked."""


class GalleryBusyError(GalleryError):
    """Raised when another process is already writing to the gallery."""


class ModelMismatchError(GalleryError):
    """Raised when a gallery is used with another model than the one that embedded it."""


class FilterError(TbpsError):
    """Raised when a metadata filter cannot be parsed or names a column that is not there."""


class BackendError(TbpsError):
    """Raised when a backend, provider, device or precision cannot be had; never replaced by another one."""


class FeedError(TbpsError):
    """Raised when an array given to a runner has another shape, type or name than the graph wants."""


class BenchmarkError(TbpsError):
    """Raised when samples of two environments or configurations would be mixed, or a report cannot be made."""


class VerificationError(TbpsError):
    """Raised when a graph or engine does not reproduce its reference within the stated limits."""
