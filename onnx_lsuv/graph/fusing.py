"""Nodes of the main graph that are written as one operator of com.microsoft, which goes over the values once.

    Gelu           x (1 + Erf(x / sqrt 2)) / 2, five nodes in any order of its products
    FusedMatMul    a product of two values times a number, as attention has it

ONNX Runtime does the same at optimisation levels that are left out here, as some of their passes crash. Nothing else
may read what is between the nodes, and no layer may end there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace

from onnx import TensorProto, helper

from onnx_lsuv.graph.builder import Value
from onnx_lsuv.layers import Plan
from onnx_lsuv.operators import MICROSOFT, Attributes
from onnx_lsuv.program import Node

_CLOSE = 1e-6  # exporters round sqrt 2 to float32
Fused = dict[Node, Node | None]


def fused(plan: Plan, values: Mapping[str, Value], apart: Set[Node], seen: Set[str]) -> Fused:
    """Return what is written in the place of a node: another, or nothing for those that became a part of it.

    Args:
        plan: of the program, whose main graph is looked at.
        values: what inference found.
        apart: nodes that stay by themselves.
        seen: values that are asked for.
    """
    body = plan.program.body
    # An attribute that an operator does not have is an error, which is ONNX Runtime's to find.
    free = {node for node in body.nodes if not node.attributes} - apart
    fuse = _Fuse(plan, values, free, seen | {value.name for value in body.outputs})
    found: Fused = {}
    for node in body.nodes:
        if node.op == "Erf":
            found |= fuse.gelu(node)
        elif node.op == "MatMul":
            found |= fuse.product(node)
    return found


@dataclass(frozen=True, slots=True)
class _Fuse:
    plan: Plan
    values: Mapping[str, Value]
    free: Set[Node]
    seen: Set[str]

    def gelu(self, erf: Node) -> Fused:
        """Return what becomes of the nodes around an Erf."""
        before, plus = self._maker(erf.inputs[0]), self._reader(erf.outputs[0])
        if before is None or self._reader(erf.inputs[0]) is not erf or plus is None or plus.op != "Add":
            return {}
        x, root = self._times(before) or ("", 0.0)
        one = next(name for name in (*plus.inputs, "") if name != erf.outputs[0])
        if not (_is(root, math.sqrt(0.5)) and _is(self.plan.number(one), 1) and self._adds_no_axis(one, x)):
            return {}
        members, last, halved, multiplied = [before, erf, plus], plus, False, False
        while not (halved and multiplied):
            reader = self._reader(last.outputs[0])
            if reader is None:
                return {}
            scaled, by = self._times(reader), self._other(reader, last.outputs[0])
            inner = self._maker(by)
            if not halved and scaled is not None and scaled[0] == last.outputs[0] and _is(scaled[1], 0.5):
                halved = True
            elif not multiplied and by == x:
                multiplied = True
            elif not (halved or multiplied) and inner and self._times(inner) == (x, 0.5) and self._reader(by) is reader:
                members.append(inner)
                halved = multiplied = True
            else:
                return {}
            members.append(reader)
            last = reader
        return self._as(members, "Gelu", (x,), Attributes())

    def product(self, node: Node) -> Fused:
        """Return what becomes of a product of two values and of the number behind it."""
        reader = self._reader(node.outputs[0])
        found = self._times(reader) if reader is not None else None
        if reader is None or found is None or found[0] != node.outputs[0]:
            return {}
        if any(
            value is None or value.dims is None or len(value.dims) < 2 for value in map(self.values.get, node.inputs)
        ):
            return {}
        alpha = helper.make_attribute("alpha", found[1])
        return self._as([node, reader], "FusedMatMul", node.inputs, Attributes({"alpha": alpha}))

    def _as(self, members: list[Node], op_type: str, inputs: tuple[str, ...], attributes: Attributes) -> Fused:
        """Return one operator in the place of the last of some nodes, if all of them are free and of float32."""
        *parts, last = members
        known = map(self.values.get, (*inputs, last.outputs[0]))
        if not self.free >= set(members) or any(v is None or v.elem_type != TensorProto.FLOAT for v in known):
            return {}
        made = replace(last, op_type=op_type, domain=MICROSOFT, inputs=inputs, attributes=attributes)
        return {**dict.fromkeys(parts), last: made}

    def _maker(self, name: str) -> Node | None:
        """Return the node that makes a value."""
        made = self.plan.program.producers.get(name)
        return made and made[0]

    def _reader(self, name: str) -> Node | None:
        """Return the one node that reads a value, once, where nothing else asks for that."""
        readers = self.plan.program.consumers.get(name, ())
        return readers[0][0] if len(readers) == 1 and name not in self.seen else None

    def _other(self, node: Node, name: str) -> str:
        """Return what a product multiplies a value by, "" where there is none."""
        if node.op != "Mul" or name not in node.inputs:
            return ""
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def _times(self, node: Node) -> tuple[str, float] | None:
        """Return a value and the number that a node multiplies it by; None where it does something else."""
        found = multiplied(node, self.plan.number)
        return next(((name, by) for name, constant, by in found if self._adds_no_axis(constant, name)), None)

    def _adds_no_axis(self, constant: str, name: str) -> bool:
        """Say whether a value with a constant of one element joined to it keeps its rank."""
        value = self.values.get(name)
        rank = len(self.plan.program.constants[constant].dims)
        return rank == 0 or (value is not None and value.dims is not None and rank <= len(value.dims))


def multiplied(node: Node, number: Callable[[str], float | None]) -> Iterator[tuple[str, str, float]]:
    """Yield each value that a node multiplies by a finite number but 0, the constant that holds it, and the number."""
    for at in (1, 0) if node.op == "Mul" else (1,) if node.op == "Div" else ():
        found = number(node.inputs[at])
        if found and math.isfinite(found):
            yield node.inputs[1 - at], node.inputs[at], found if node.op == "Mul" else 1 / found


def _is(found: float | None, wanted: float) -> bool:
    return found is not None and math.isclose(found, wanted, rel_tol=_CLOSE)
