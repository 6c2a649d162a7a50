"""What every family says about itself and about one of its checkpoints: the row of a table, and a plan to load."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from tbps_infer.errors import CheckpointError
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.options import LoadOptions
from tbps_infer.families.vocabulary import TokenizerKind
from tbps_infer.layout import VectorLayout
from tbps_infer.preprocessing import Preprocessing, json_values

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "DualEncoder",
    "Family",
    "Plan",
    "check_setting",
    "image_grid",
    "prefixed",
    "settle",
    "sizes_json",
    "text_length",
]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class DualEncoder(nn.Module):
    """Two branches from their inputs to z."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """RGB crops, uint8 ``[batch, height, width, 3]``, to z, float32 ``[batch, dim]``."""
        raise NotImplementedError

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask, int32 ``[batch, length]``, to z, float32 ``[batch, dim]``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Plan:
    """One checkpoint understood: its network, still without its tensors, and how inputs are made for it.

    Attributes:
        network: Of the sizes that the tensors have.
        table: The name of each of the network's tensors, by its name in the checkpoint.
        droppable: Tensors that served the training alone, as `tbps_infer.families.loading.cover` takes them.
        config: The sizes, as JSON values.
        tokenizer: Which kind (`tbps_infer.families.vocabulary`); the model knows ``vocab`` tokens.
        assumed: What nobody said and the checkpoint leaves open, by the name of the option that says it.
        pad_id: The id that fills a batch's shorter captions.
    """

    network: DualEncoder
    table: Mapping[str, str]
    droppable: tuple[str, ...]
    config: Mapping[str, Any]
    preprocessing: Preprocessing
    caption_rule: str
    max_length: int
    layout: VectorLayout
    tokenizer: TokenizerKind
    vocab: int
    assumed: Mapping[str, Any] = field(default_factory=dict)
    pad_id: int = 0


@dataclass(frozen=True)
class Family:
    """A row of the table of families.

    Attributes:
        name: What users call it.
        markers: Tensors that every checkpoint of it has; the first row of the table with all of them is taken.
        plan: Understands a checkpoint of it.
        options: Which attributes of `LoadOptions` mean something to it.
        rows: The length that some of the markers have.
        translate: Brings a checkpoint's tensors to the names that ``plan`` knows, where that takes more than a table.
    """

    name: str
    markers: tuple[str, ...]
    plan: Callable[[CheckpointFile, LoadOptions], Plan]
    options: tuple[str, ...] = ("config", "image_size", "max_length", "tokenizer", "drop")
    rows: Mapping[str, int] = field(default_factory=dict)
    translate: Callable[[CheckpointFile], CheckpointFile] = lambda file: file

    def recognises(self, file: CheckpointFile) -> bool:
        """Whether a checkpoint has this family's markers."""
        tensors = file.tensors
        return all(marker in tensors for marker in self.markers) and all(
            tensors[marker].shape[:1] == (rows,) for marker, rows in self.rows.items()
        )


def settle(assumed: dict[str, Any], name: str, *said: Any, default: Any) -> Any:
    """The first value that somebody said; the default where nobody did, noted among what is assumed.

    Args:
        assumed: What is assumed of a checkpoint so far; changed.
        name: The option that says the value.
        said: What the option, the settings and the like say; None is nothing.
        default: What is assumed otherwise.
    """
    for value in said:
        if value is not None:
            return value
    assumed[name] = default
    return default


def prefixed(network: nn.Module, prefixes: Mapping[str, str]) -> dict[str, str]:
    """A table for networks whose tensors are named as in the file, but for a prefix.

    Args:
        network: The network whose tensors are named.
        prefixes: What the file puts before the names of a submodule, by the submodule's name.
    """
    return {
        f"{prefix}{name}": f"{part}.{name}"
        for part, prefix in prefixes.items()
        for name in network.get_submodule(part).state_dict()
        if not name.endswith(".num_batches_tracked")
    }


def sizes_json(image: Any, text: Any) -> dict[str, Any]:
    """The sizes of two networks, a dataclass each, as JSON values without what is at its default."""
    return json_values({"image": _given(image), "text": _given(text)})


def _given(sizes: Any) -> dict[str, Any]:
    defaults = {each.name: each.default for each in fields(sizes)}
    return {name: value for name, value in asdict(sizes).items() if getattr(sizes, name) != defaults[name]}


def image_grid(
    file: CheckpointFile,
    positions: int,
    size: tuple[int, int] | None,
    patch: tuple[int, int],
    aspects: tuple[int, ...],
    said_by: str = "--image-size HEIGHTxWIDTH",
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The image size in pixels and the grid of patches behind a count of positions.

    Args:
        file: The checkpoint, which an error names.
        positions: Of the grid's cells and the one token besides.
        size: (height, width) where somebody said it.
        patch: Pixels along a patch's side, and from one patch to the next.
        aspects: Height over width to try where nobody did; no two of them can fit the same count.
        said_by: The options that say the size.

    Raises:
        CheckpointError: The size and the count contradict each other, or no aspect fits.
    """
    side, stride = patch
    cells = positions - 1
    hint = f"Give what it was trained with: {said_by}, or its configs.yaml by --config."
    if size is not None:
        grid = (size[0] - side) // stride + 1, (size[1] - side) // stride + 1
        if min(grid) < 1 or grid[0] * grid[1] != cells:
            raise CheckpointError(
                f"{file.path} has {positions} positions, and pictures of {size[0]}x{size[1]} (height x width) with "
                f"patches of {side} every {stride} pixels make {max(grid[0] * grid[1], 0) + 1}.",
                hint,
            )
        return size, grid
    for aspect in aspects:
        columns = round((cells / aspect) ** 0.5)
        if cells and aspect * columns * columns == cells:
            grid = aspect * columns, columns
            return ((grid[0] - 1) * stride + side, (grid[1] - 1) * stride + side), grid
    raise CheckpointError(
        f"{file.path} has {positions} positions, which can be grids of several shapes.",
        hint,
    )


def check_setting(file: CheckpointFile, name: str, tensor: str, size: int) -> None:
    """Compare a number of the settings, where they have it, with what a tensor says. Raises CheckpointError."""
    said = file.settings.number(name)
    if said is not None and said != size:
        raise CheckpointError(
            f"{file.settings.source}: {name} is {said}, and {tensor} of {file.path.name} says {size}.",
            "Use the settings that the checkpoint was trained with.",
        )


def text_length(
    file: CheckpointFile, name: str, positions: int, options: LoadOptions, assumed: dict[str, Any]
) -> int:
    """Tokens per caption as the options or settings say, else as many as there are positions.

    Args:
        file: The checkpoint.
        name: Of the number in its settings.
        positions: As many as its tensors have.
        options: What the user says.
        assumed: What is assumed of the checkpoint so far; changed.

    Raises:
        CheckpointError: More are said than there are positions.
    """
    length = settle(assumed, "max_length", options.max_length, file.settings.number(name), default=positions)
    if not 3 <= length <= positions:
        said = "--max-length" if options.max_length is not None else f"{file.settings.source}: {name}"
        raise CheckpointError(
            f"{said} is {length}, and {file.path.name} has {positions} positions for text.",
            "Use the settings that the checkpoint was trained with.",
        )
    return int(length)
