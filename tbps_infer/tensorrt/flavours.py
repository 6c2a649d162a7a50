"""The two products that share one API, and what each of them cannot be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tbps_infer.errors import UsageError

__all__ = ["FLAVOURS", "Flavour", "FlavourName"]

FlavourName = Literal["tensorrt", "tensorrt-rtx"]


@dataclass(frozen=True)
class Flavour:
    """One product.

    Attributes:
        name: As the user writes it, and as engine folders begin.
        module: What Python imports.
        install: How to get it.
        needs_gpu_to_build: Whether kernels are chosen by timing them on the GPU; otherwise it builds for a target,
            anywhere.
        several_profiles_from: The first version whose engines give right numbers with several optimization profiles.
        ignored: Options of a build that its builder accepts and does nothing with, each with the reason in words.
    """

    name: FlavourName
    module: str
    install: str
    needs_gpu_to_build: bool
    several_profiles_from: tuple[int, int]
    ignored: Mapping[str, str]

    def refuse_ignored(self, options: Mapping[str, object]) -> None:
        """Refuse options that mean nothing here.

        Args:
            options: By name; those that are None were not given.

        Raises:
            UsageError: One of them was given.
        """
        for name, value in options.items():
            if value is not None and name in self.ignored:
                raise UsageError(
                    f"The option {name.replace('_', ' ')} does not apply to {self.name}: {self.ignored[name]}.",
                    "Leave it out.",
                )


_TENSORRT = Flavour(
    name="tensorrt",
    module="tensorrt",
    install=(
        "On Jetson it comes with JetPack (make the environment with --system-site-packages); on a server install "
        "NVIDIA's tensorrt package."
    ),
    needs_gpu_to_build=True,
    several_profiles_from=(10, 8),  # NVIDIA/TensorRT#4250
    ignored=MappingProxyType({"target": "an engine is built for the GPU of the machine that builds it"}),
)

_RTX = Flavour(
    name="tensorrt-rtx",
    module="tensorrt_rtx",
    install='Install it: pip install "tbps-infer[rtx]" (x86 only).',
    needs_gpu_to_build=False,
    several_profiles_from=(1, 0),
    ignored=MappingProxyType(
        {
            "optimization_level": "it has one way of building",
            "timing_cache": "it times no kernels while building, so nothing would be cached",
        }
    ),
)

FLAVOURS: Mapping[str, Flavour] = MappingProxyType({flavour.name: flavour for flavour in (_TENSORRT, _RTX)})
