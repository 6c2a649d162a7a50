"""Text-based person search: from a trained checkpoint to verified engines and exact gallery search.

The public names are loaded at first use, so that importing the package stays cheap::

    from tbps_infer import Encoder, Gallery

    with Encoder.open("bundle") as encoder, Gallery.open("gallery") as gallery:
        queries = encoder.encode_texts(["a woman in a red coat with a grey backpack"])
        for hit in gallery.search(queries, k=5)[0]:
            print(f"{hit.score:.3f}  {hit.path}")
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tbps_infer.bundle import Bundle
    from tbps_infer.embedding import EmbedOptions, EmbedReport, embed_gallery
    from tbps_infer.encoder import Encoder
    from tbps_infer.errors import TbpsError
    from tbps_infer.gallery import Filter, Gallery, GalleryWriter, Hit
    from tbps_infer.layout import Segment, VectorLayout
    from tbps_infer.model_facts import ModelFacts
    from tbps_infer.preprocessing import Preprocessing
    from tbps_infer.runners import RunOptions
    from tbps_infer.sources import SourceItem, read_sources

# In a clone, the packages export, cli and benchmarks lie beside this folder, where Python does not look for them.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
if not os.path.isdir(os.path.join(_HERE, "cli")):  # noqa: PTH112, PTH118
    __path__.append(os.path.dirname(_HERE))  # noqa: PTH120

__version__ = "0.2.0.dev0"

__all__ = [
    "Bundle",
    "EmbedOptions",
    "EmbedReport",
    "Encoder",
    "Filter",
    "Gallery",
    "GalleryWriter",
    "Hit",
    "ModelFacts",
    "Preprocessing",
    "RunOptions",
    "Segment",
    "SourceItem",
    "TbpsError",
    "VectorLayout",
    "__version__",
    "embed_gallery",
    "read_sources",
]

_HOMES = {
    "Bundle": "bundle",
    "EmbedOptions": "embedding",
    "EmbedReport": "embedding",
    "Encoder": "encoder",
    "Filter": "gallery",
    "Gallery": "gallery",
    "GalleryWriter": "gallery",
    "Hit": "gallery",
    "ModelFacts": "model_facts",
    "Preprocessing": "preprocessing",
    "RunOptions": "runners",
    "Segment": "layout",
    "SourceItem": "sources",
    "TbpsError": "errors",
    "VectorLayout": "layout",
    "embed_gallery": "embedding",
    "read_sources": "sources",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
