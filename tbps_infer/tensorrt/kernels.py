"""What an engine was really built of: its kernels, read back from the engine itself.

TensorRT tells it through the engine inspector, which needs a GPU. TensorRT for RTX keeps its compiled program as text
in the plan: every kernel with its operands, their types, and the ONNX nodes that went into it. That text is not
documented by NVIDIA; when it is not as known, reading it is an error and not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tbps_infer.errors import BackendError
from tbps_infer.formats.json_files import parse_json

__all__ = ["Kernel", "RtxProgram", "inspected_kernels", "rtx_programs"]

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Kernel:
    """One launch, or one layer where several ways of launching it are left open.

    Attributes:
        name: As the engine calls it.
        nodes: The ONNX nodes that went into it.
        dtypes: The types of what it reads and writes, in the engine's words in lower case: ``half``, ``float``.
        int8_inputs: How many INT8 tensors it reads.
        unknown: Whether the engine leaves open a type that may be another than `dtypes`.
    """

    name: str
    nodes: tuple[str, ...]
    dtypes: frozenset[str]
    int8_inputs: int = 0
    unknown: bool = False

    @property
    def fp16(self) -> bool:
        """Whether it reads or writes FP16."""
        return "half" in self.dtypes

    @property
    def fused_attention(self) -> bool:
        """Whether it computes scores, softmax and weighted values in one."""
        return "_mha" in self.name or "fmha" in self.name


@dataclass(frozen=True)
class RtxProgram:
    """The program inside a plan of TensorRT for RTX.

    Attributes:
        target: What it was compiled for: ``sm86``.
        forward_compatible: Whether later GPUs run it too.
        tf32: Whether FP32 products may be rounded to TF32.
        activation_bytes: Device memory of its intermediate results at the profile's greatest shapes.
        kernels: In order.
    """

    target: str
    forward_compatible: bool
    tf32: bool
    activation_bytes: int
    kernels: tuple[Kernel, ...]


_PROGRAM = re.compile(rb"header \{\n  version = 5\n[^\0]*")
_TARGET = re.compile(r"\n  accelerators=\{(sm\d+) \}")
_REGION = re.compile(r"\n  region = \{ name=\w+ size=(\d+) alignment=\d+ instance=\d+ type=user place=accelerator ")
_TENSOR = re.compile(r'\n  (?:sub_)?tensor=\{[^\n]* name="([^"]+)"[^\n]* type=(\w+) \}')
_STATEMENT = re.compile(r'\n  (\w+)=\{([^\n]*) layers="([^"\n]*)"')
_NAME = re.compile(r'\bname="?([^\s"]+)')
_OPERANDS = re.compile(r"\b(in|out)put(?:_args)?=\{([^}]*)\}")
_NO_KERNELS = frozenset({"shape_call", "signal", "wait"})


def rtx_programs(plan: bytes | memoryview) -> tuple[RtxProgram, ...]:
    """Read the programs of a plan of TensorRT for RTX: one for each optimization profile, in order.

    Raises:
        BackendError: The plan does not hold them as this version of TensorRT for RTX (1.7) is known to.
    """
    texts = (match[0].decode("latin-1") for match in _PROGRAM.finditer(plan))
    programs = tuple(program for program in map(_program, texts) if program is not None)
    if not programs:
        raise BackendError(
            "The plan does not show its kernels as TensorRT for RTX 1.7 does, so its precision is not proven.",
            "Build with TensorRT for RTX 1.7: pip install tensorrt-rtx==1.7.*",
        )
    return programs


def _program(text: str) -> RtxProgram | None:
    """One program; None for those for any accelerator ({*}), which are the insides of single kernels."""
    target = _TARGET.search(text)
    if target is None or "\nmain {" not in text:
        return None
    head, body = text.split("\nmain {", 1)
    types = dict(_TENSOR.findall(head))
    kernels = tuple(_statements(body.split("\nshape_main {", 1)[0], types))
    if not types or not kernels:
        return None
    return RtxProgram(
        target=target[1],
        forward_compatible="\n  hardware_forward_compatibility=1\n" in head,
        tf32="\n  tf32=0\n" not in head,
        activation_bytes=sum(map(int, _REGION.findall(head))),
        kernels=kernels,
    )


def _statements(body: str, types: dict[str, str]) -> Iterator[Kernel]:
    for kind, values, layers in _STATEMENT.findall(body):
        if kind in _NO_KERNELS:
            continue
        name = _NAME.search(values)
        operands: dict[str, set[str]] = {"in": set(), "out": set()}
        for way, listed in _OPERANDS.findall(values):
            operands[way].update(operand for operand in re.findall(r'"([^"]+)"', listed) if operand in types)
        yield Kernel(
            name=name[1] if name else kind,
            nodes=tuple(_ONNX_NODE.findall(layers)),
            dtypes=frozenset(types[operand] for operand in operands["in"] | operands["out"]),
            int8_inputs=sum(types[operand] == "int8" for operand in operands["in"]),
        )


def inspected_kernels(information: str) -> tuple[Kernel, ...]:
    """Read what the engine inspector says as JSON, with detailed verbosity.

    Raises:
        BackendError: It is not such JSON, for one because the engine was built without detailed verbosity.
    """
    try:
        layers = parse_json(information)["Layers"]
        return tuple(_inspected(layer) for layer in layers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BackendError(
            f"The engine inspector gives no layers with their types ({error!r}), so the precision cannot be proven.",
            "Build the engine with tbps build, which keeps the details in it.",
        ) from error


_KINDS = {
    "half": re.compile(r"\b(?:half|fp16|float16)\b", re.IGNORECASE),
    "float": re.compile(r"\b(?:float|fp32|float32)\b", re.IGNORECASE),
    "int8": re.compile(r"\bint8\b", re.IGNORECASE),
}
_NOT_TOLD = re.compile(r"\bN/A\b")
# Tactics name the types of their factors first, as sm80_xmma_gemm_f16f16_f16f32_f32 does, or by the instruction that
# multiplies, as ampere_h16816gemm and maxwell_sgemm do; opaque ones (__myl_…) name nothing.
_TACTICS = {
    "int8": re.compile(r"(?:^|_)i8(?:i8|f32|f16|i32)_|imma|(?:^|_)int8"),
    "half": re.compile(r"(?:^|_)f16f(?:16|32)_|(?:^|_)h\d{3,}|hmma|hgemm|(?:^|_)fp16"),
    "float": re.compile(r"(?:^|_)f32f32_|sgemm|scudnn|ffma|(?:^|_)fp32"),
}


def _inspected(layer: dict[str, Any]) -> Kernel:
    read, written = ([_type_words(tensor) for tensor in layer[way]] for way in ("Inputs", "Outputs"))
    dtypes = {kind for kind, pattern in _KINDS.items() if pattern.search(" ".join(read + written))}
    int8_inputs = sum(_KINDS["int8"].search(words) is not None for words in read)
    open_ones = any(_NOT_TOLD.search(words) for words in read + written)
    factor = _factor_type(layer) if open_ones else None
    if factor is not None:
        dtypes.add(factor)
        int8_inputs = max(int8_inputs, int(factor == "int8"))
    return Kernel(
        name=f"{layer['Name']} {layer.get('TacticName', '')}".strip(),
        nodes=tuple(_ONNX_NODE.findall(str(layer.get("Metadata", "")))),
        dtypes=frozenset(dtypes),
        int8_inputs=int8_inputs,
        unknown=open_ones and factor is None,
    )


def _factor_type(layer: dict[str, Any]) -> str | None:
    """What a layer multiplies, by its tactic and else by its weights; None where neither tells.

    The tactic comes first: weights stored in INT8 may be multiplied in FP16.
    """
    tactic = str(layer.get("TacticName", ""))
    weights = layer.get("Weights")
    stored = str(weights.get("Type", "")) if isinstance(weights, dict) else ""
    found = [kind for kind, pattern in _TACTICS.items() if pattern.search(tactic)]
    found += [kind for kind, pattern in _KINDS.items() if pattern.search(stored)]
    return found[0] if found else None


def _type_words(tensor: dict[str, Any]) -> str:
    """What is said of a tensor's type: "Format/Datatype" in 10, "DataType" beside "Format" in 11.

    In 10 it is "N/A due to dynamic shapes" where the inspector has no execution context with shapes.
    """
    return " ".join(str(value) for key, value in tensor.items() if "type" in key.lower())
