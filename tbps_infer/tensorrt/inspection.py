"""What TensorRT's engine inspector says of an engine, asked so that it tells the types of dynamic shapes too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tbps_infer.tensorrt.device_memory import DeviceMemory
from tbps_infer.tensorrt.library import Library

__all__ = ["inspect_engine"]


def inspect_engine(
    library: Library, engine: Any, profiles: Sequence[Mapping[str, tuple[int, ...]]], memory: DeviceMemory
) -> list[str]:
    """The inspector's JSON, once for each optimization profile.

    Without an execution context whose shapes are set, TensorRT 10 gives no types of tensors with dynamic shapes.

    Args:
        library: What loaded the engine.
        engine: A deserialized engine.
        profiles: A shape of each input, within each profile.
        memory: Of the device that the engine was loaded on.

    Raises:
        BackendError: A context cannot be made, or refuses the shapes.
    """
    trt = library.module
    library.begin()
    inspector = library.made(engine.create_engine_inspector(), "make an engine inspector")
    stream = memory.make_stream()
    try:
        texts = []
        for number, shapes in enumerate(profiles):
            # User managed, and never given any memory: nothing runs.
            strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = library.made(engine.create_execution_context(strategy), "make an execution context")
            library.made(context.set_optimization_profile_async(number, stream), f"choose the profile {number}")
            for name, shape in shapes.items():
                library.made(context.set_input_shape(name, shape), f"set {name} to {list(shape)}")
            inspector.execution_context = context
            texts.append(str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))
            memory.synchronize(stream)
        return texts
    finally:
        memory.free_stream(stream)
