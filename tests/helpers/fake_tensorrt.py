"""A TensorRT module that has everything and does nothing, for what is tested without one."""

from __future__ import annotations

from types import ModuleType

from tbps_infer.tensorrt.flavours import FLAVOURS
from tbps_infer.tensorrt.library import OPTIONAL_API, REQUIRED_API, Library

__all__ = ["fake_library"]


def fake_library(version: str = "10.3.0", flavour: str = "tensorrt") -> Library:
    """A library whose members are their own names; that of TensorRT for RTX has the optional ones too."""
    module = ModuleType(FLAVOURS[flavour].module)
    vars(module)["__version__"] = version
    owners = dict(REQUIRED_API)
    if flavour == "tensorrt-rtx":
        for owner, members in OPTIONAL_API.items():
            owners[owner] = (*owners.get(owner, ()), *members)
    for owner, members in owners.items():
        vars(module)[owner] = type(owner, (), {member: member for member in members})
    return Library(module, FLAVOURS[flavour])
