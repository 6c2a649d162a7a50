"""What a plan was really built of: read from the plan's text, or from the engine on the device that built it."""

from __future__ import annotations

from tbps_infer.errors import BackendError
from tbps_infer.export.engines.options import BuildContext
from tbps_infer.tensorrt.device_memory import DeviceMemory
from tbps_infer.tensorrt.inspection import inspect_engine
from tbps_infer.tensorrt.kernels import Kernel, inspected_kernels, rtx_programs
from tbps_infer.tensorrt.plan_spec import PlanSpec

__all__ = ["read_back"]


def read_back(
    context: BuildContext, memory: DeviceMemory | None, plan: memoryview, spec: PlanSpec, name: str
) -> tuple[list[tuple[Kernel, ...]], int]:
    """The kernels of each of a plan's profiles, and the bytes of device memory that its activations need.

    Args:
        context: Of the build.
        memory: Of the device that the engine was built on; None for TensorRT for RTX.
        plan: The plan.
        spec: What it was built for.
        name: What to call it in a message.

    Raises:
        BackendError: It cannot be read, or was built for something else.
    """
    if memory is None:
        programs = rtx_programs(plan)
        target = context.options.settings.target
        for program in programs:
            if program.tf32 or program.forward_compatible is (target is not None):
                raise BackendError(f"{name} was not built as asked for: {program.target}, TF32 {program.tf32}.")
            if target and program.target != target:
                raise BackendError(f"{name} was built for {program.target}, and {target} was asked for.")
        if len(programs) != len(spec.profiles):
            raise BackendError(f"{name} shows {len(programs)} programs for its {len(spec.profiles)} profiles.")
        return [program.kernels for program in programs], max(program.activation_bytes for program in programs)
    library = context.library
    engine = library.deserialize(library.create_runtime(), plan, name)
    usual = [{each: shapes.optimum for each, shapes in profile.items()} for profile in spec.profiles]
    texts = inspect_engine(library, engine, usual, memory)
    return [inspected_kernels(text) for text in texts], int(engine.device_memory_size_v2)
