"""Decides for every node of an FP32 graph whether it computes in FP16 or stays in FP32.

The rules, in this order:

1. Forced nodes (named by the user, or near FP16's limit by measurement) and operators that FP16 does not suit stay.
2. What is computed from the graph's inputs before any weight is met stays: pixels are normalised in FP32 and rounded
   once, and so is the attention mask. These tensors are small.
3. The tail stays: arithmetic on means, norms and powers, up to the next product, and what is summed, such as the
   squares of an L2 norm.
4. Operators that round nothing follow their neighbours, so that no number is cast twice.
5. What lies between FP32 nodes alone joins them: two casts would cost more than FP16 saves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tbps_infer.export.fp16.operators import ELEMENTWISE, FOLLOWERS, FP16_OPERATORS, PRODUCTS, SUMMING
from tbps_infer.export.graph_view import GraphView

__all__ = ["assign_fp16"]


def assign_fp16(view: GraphView, forced: Iterable[int]) -> frozenset[int]:
    """The numbers of the nodes that compute in FP16.

    Args:
        view: The FP32 graph.
        forced: Numbers of nodes that stay in FP32 whatever the rules say.
    """
    work = _Assignment(view, set(forced))
    work.keep_preamble()
    work.keep_tail()
    work.settle()
    return frozenset(number for number in range(len(view.nodes)) if number not in work.fp32)


@dataclass
class _Assignment:
    view: GraphView
    fixed: set[int]
    """FP32 for good."""
    fp32: set[int] = field(init=False)
    """FP32 as things stand."""

    def __post_init__(self) -> None:
        for number, node in enumerate(self.view.nodes):
            if node.op_type not in FP16_OPERATORS | FOLLOWERS:
                self.fixed.add(number)
        self.fp32 = set(self.fixed)

    def keep_preamble(self) -> None:
        """Rule 2."""
        preamble: set[int] = set()
        for number, node in enumerate(self.view.nodes):
            inputs = self.view.computed_inputs(number)
            sources = [self.view.producers.get(name) for name in inputs]
            from_input = node.op_type == "Cast" and not inputs
            arithmetic = node.op_type in ELEMENTWISE or node.op_type in FOLLOWERS
            if from_input or (arithmetic and sources and all(s is None or s in preamble for s in sources)):
                preamble.add(number)
        self._fix(preamble)

    def keep_tail(self) -> None:
        """Rule 3."""
        operators = [node.op_type for node in self.view.nodes]
        tail: set[int] = set()
        for number, operator in enumerate(operators):
            grown = operator in ELEMENTWISE or operator in FOLLOWERS
            sources = (self.view.producers.get(name) for name in self.view.computed_inputs(number))
            if operator in SUMMING or (grown and any(source in tail for source in sources)):
                tail.add(number)
        for number in reversed(range(len(operators))):
            consumers = self.view.consumers(number)
            if (
                operators[number] in ELEMENTWISE
                and all(reader in tail for reader in consumers)
                and any(operators[reader] in SUMMING for reader in consumers)
            ):
                tail.add(number)
        self._fix(tail)

    def settle(self) -> None:
        """Rules 4 and 5, repeated until nothing changes."""
        for _ in range(len(self.view.nodes)):
            before = set(self.fp32)
            for number in range(len(self.view.nodes)):
                self._follow(number)
            for number in reversed(range(len(self.view.nodes))):
                self._lead(number)
            self._join_neighbours()
            if before == self.fp32:
                return

    def _follow(self, number: int) -> None:
        """A follower takes FP32 when any of its inputs comes in it."""
        if self._free_follower(number):
            inputs = self.view.computed_inputs(number)
            if any(self._in_fp32(name) for name in inputs):
                self.fp32.add(number)
            elif inputs or not self._only_fp32_consumers(number):
                self.fp32.discard(number)
            else:  # it moves stored numbers alone
                self.fp32.add(number)

    def _lead(self, number: int) -> None:
        """A follower whose readers all want FP16 is cast before it moves its numbers, not after."""
        consumers = self.view.consumers(number)
        if (
            number in self.fp32
            and self._free_follower(number)
            and consumers
            and not self.view.gives_output(number)
            and not any(reader in self.fp32 for reader in consumers)
        ):
            self.fp32.discard(number)

    def _join_neighbours(self) -> None:
        """The largest set of FP16 nodes, products left out, that is given and gives FP32 alone becomes FP32."""
        joined = {
            number
            for number, node in enumerate(self.view.nodes)
            if number not in self.fp32 and node.op_type not in PRODUCTS and self.view.computed_inputs(number)
        }
        before: set[int] = set()
        while before != joined:
            before = set(joined)
            inside = joined | self.fp32
            joined = {
                number
                for number in joined
                if all(self.view.producers.get(name) in {None, *inside} for name in self.view.computed_inputs(number))
                and all(reader in inside for reader in self.view.consumers(number))
            }
        self._fix(joined)

    def _free_follower(self, number: int) -> bool:
        return number not in self.fixed and self.view.nodes[number].op_type in FOLLOWERS

    def _only_fp32_consumers(self, number: int) -> bool:
        return all(reader in self.fp32 for reader in self.view.consumers(number))

    def _in_fp32(self, name: str) -> bool:
        producer = self.view.producers.get(name)
        return producer is None or producer in self.fp32

    def _fix(self, numbers: set[int]) -> None:
        self.fixed |= numbers
        self.fp32 |= numbers
