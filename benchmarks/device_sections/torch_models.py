"""The model in PyTorch on the device: parity, then eager, compiled and as a CUDA graph, in FP32, TF32, BF16 and FP16.

At two sizes: the checkpoint's own, and that of the reference model (ResNet-50 and BERT-base) with random weights,
which take the time that trained ones take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, clocked, skipped, timed
from tbps_infer.bundle import Bundle
from tbps_infer.errors import TbpsError
from tbps_infer.model_facts import BRANCHES, Branch
from tbps_infer.reference.config import base_config
from tbps_infer.reference.model import PartModel
from tbps_infer.runners import RunOptions, open_model
from tbps_infer.runners.torch_runner import TorchRunner
from tbps_infer.verification.golden import golden_cosine
from tbps_infer.verification.tolerances import GOLDEN_COSINE

__all__ = ["facts"]

_LENGTH = 32
_WAYS = (
    ("fp32", False, None),
    ("tf32", True, None),
    ("bf16", True, torch.bfloat16),
    ("fp16", True, torch.float16),
)
"""Name, whether products of float32 may be rounded to TF32, and what autocast computes in."""


def facts(context: SectionContext) -> Iterator[Fact]:
    """Golden vectors of the checkpoint, then the times of both sizes."""
    bundle, model = Bundle.open(context.bundle), open_model(context.checkpoint, RunOptions("torch"))
    assert not isinstance(model, Bundle)
    for branch in BRANCHES:
        with contextlib.closing(TorchRunner(model, branch, RunOptions("torch", str(context.device)))) as runner:
            cosine = golden_cosine(bundle.golden(), branch, runner)
            yield checked(f"{branch}: golden vectors", cosine >= GOLDEN_COSINE["fp32"], cosine=cosine)
    device, size = torch.device(str(context.device)), model.facts.preprocessing.image_size
    modules = {branch: model.branch(branch) for branch in BRANCHES}
    yield from _time_model("checkpoint", modules, size, device)
    if context.on_cpu:
        yield skipped("full size needs a GPU")
        return
    config = base_config()
    with torch.device(device):
        network = PartModel(config)
    whole: dict[Branch, Any] = {"image": network.encode_image, "text": network.encode_text}
    network.eval().to(device)
    yield from _time_model("full size", whole, config.preprocessing.image_size, device)


def _time_model(name: str, modules: dict[Branch, Any], size: tuple[int, int], device: torch.device) -> Iterator[Fact]:
    on_gpu = device.type == "cuda"
    for branch, module in modules.items():
        if isinstance(module, torch.nn.Module):
            module.eval().to(device)
        for batch in (1, 8, 32) if on_gpu else (1,):
            inputs = _inputs(branch, batch, size, device)
            for precision, tf32, half in _WAYS if on_gpu else _WAYS[:1]:
                what = f"{name} {branch}, batch {batch}, {precision}"
                with _arithmetic(device, tf32, half), torch.inference_mode():
                    # Compiling takes a quarter of a minute: once for each branch of the size that is deployed.
                    compiled = on_gpu and batch == 32 and name == "full size" and precision == "fp16"
                    yield from _time_ways(what, module, inputs, device, compile_too=compiled)


def _time_ways(what: str, module: Any, inputs: Any, device: torch.device, *, compile_too: bool) -> Iterator[Fact]:
    def waiting(run: Callable[[], object]) -> Callable[[], None]:
        def whole() -> None:
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return whole

    samples = 20 if device.type == "cuda" else 2
    yield timed(what, clocked(waiting(lambda: module(*inputs)), samples), way="eager")
    if device.type != "cuda":
        return
    try:
        graph = _captured(module, inputs)
        yield timed(what, clocked(waiting(lambda: graph.replay()), samples), way="CUDA graph")
    except (RuntimeError, TbpsError) as error:
        yield {"timed": what, "way": "CUDA graph", "error": str(error)[:300]}
    if compile_too:
        try:
            compiled: Any = torch.compile(module, dynamic=False)
            yield timed(what, clocked(waiting(lambda: compiled(*inputs)), samples), way="compiled")
        except Exception as error:  # the compiler's own exceptions have no common base
            yield {"timed": what, "way": "compiled", "error": str(error)[:300]}


def _captured(module: Any, inputs: Any) -> Any:
    """A run as a CUDA graph, after some on a stream of their own, as PyTorch wants it."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        module(*inputs)
    return graph


def _inputs(branch: Branch, batch: int, size: tuple[int, int], device: torch.device) -> tuple[torch.Tensor, ...]:
    if branch == "image":
        return (torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, device=device),)
    ids = torch.randint(1, 50, (batch, _LENGTH), dtype=torch.int32, device=device)
    return ids, torch.ones_like(ids)


@contextlib.contextmanager
def _arithmetic(device: torch.device, tf32: bool, half: torch.dtype | None) -> Iterator[None]:
    if device.type == "cpu":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = tf32
    try:
        with torch.autocast("cuda", half or torch.float16, enabled=half is not None):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
