"""Nodes of the main graph that are written as one operator of com.microsoft, which goes over the values once.

    Gelu           x (1 + Erf(x / sqrt 2)) / 2, five nodes in any order of its products
    FusedMatMul    a product of two values times a number, as attention has it

ONNX Runtime does the same at optimisation levels that are left out here, as some of their passes crash. Nothing else
may read what is between the nodes, and no layer may end there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from onnx import TensorProto, helper

from onnx_lsuv.graph.builder import Value
from onnx_lsuv.layers import Plan
from onnx_lsuv.operators import Attributes
from onnx_lsuv.program import Node, Program

_DOMAIN = "com.microsoft"
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
    fuse = _Fuse(plan, plan.program, values, free, seen | {value.name for value in body.outputs})
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
    program: Program
    values: Mapping[str, Value]
    free: Set[Node]
    seen: Set[str]

    def gelu(self, erf: Node) -> Fused:
        """Return what becomes of the nodes around an Erf."""
        before = self._maker(erf.inputs[0])
        if before is None or self._reader(erf.inputs[0]) is not erf or before.op not in ("Div", "Mul"):
            return {}
        found = self._times(before)
        plus = self._reader(erf.outputs[0])
        if found is None or plus is None or plus.op != "Add" or not _is(abs(found[1]), math.sqrt(0.5)):
            return {}
        x, one = found[0], next(name for name in (*plus.inputs, "") if name != erf.outputs[0])
        if found[1] < 0 or not _is(self.plan.number(one), 1) or not self._adds_no_axis(one, x):
            return {}
        members, last, halved, multiplied = [before, erf, plus], plus, False, False
        while not (halved and multiplied):
            reader = self._reader(last.outputs[0])
            if reader is None:
                return {}
            scaled, by = self._times(reader), self._other(reader, last.outputs[0])
            inner = self._maker(by or "")
            if not halved and scaled is not None and scaled[0] == last.outputs[0] and _is(scaled[1], 0.5):
                halved = True
            elif not multiplied and by == x:
                multiplied = True
            elif not (halved or multiplied) and inner and self._reader(by or "") is reader:
                if self._times(inner) != (x, 0.5):
                    return {}
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
        sizes = [value.dims for name in node.inputs if (value := self.values.get(name))]
        if reader is None or found is None or found[0] != node.outputs[0] or len(sizes) < 2:
            return {}
        if any(dims is None or len(dims) < 2 for dims in sizes):
            return {}
        alpha = helper.make_attribute("alpha", found[1])
        return self._as([node, reader], "FusedMatMul", node.inputs, Attributes({"alpha": alpha}))

    def _as(self, members: list[Node], op_type: str, inputs: tuple[str, ...], attributes: Attributes) -> Fused:
        """Return one operator in the place of the last of some nodes, if all of them are free and of float32."""
        *parts, last = members
        known = [self.values.get(name) for name in (*inputs, last.outputs[0])]
        if not all(each in self.free for each in members) or any(
            v is None or v.elem_type != TensorProto.FLOAT for v in known
        ):
            return {}
        made = replace(last, op_type=op_type, domain=_DOMAIN, inputs=inputs, attributes=attributes)
        return {**dict.fromkeys(parts), last: made}

    def _maker(self, name: str) -> Node | None:
        """Return the node that makes a value."""
        return self.program.producers[name][0] if name in self.program.producers else None

    def _reader(self, name: str) -> Node | None:
        """Return the one node that reads a value, once, where nothing else asks for that."""
        readers = self.program.consumers.get(name, ())
        return readers[0][0] if len(readers) == 1 and name not in self.seen else None

    def _other(self, node: Node, name: str) -> str | None:
        """Return what a product multiplies a value by."""
        if node.op != "Mul" or name not in node.inputs:
            return None
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def _times(self, node: Node) -> tuple[str, float] | None:
        """Return a value and the number that a node multiplies it by; None where it does something else."""
        for at in (1, 0) if node.op == "Mul" else (1,) if node.op == "Div" else ():
            found = self.plan.number(node.inputs[at])
            if found and math.isfinite(found) and self._adds_no_axis(node.inputs[at], node.inputs[1 - at]):
                return node.inputs[1 - at], found if node.op == "Mul" else 1 / found
        return None

    def _adds_no_axis(self, constant: str, name: str) -> bool:
        """Say whether a value with a constant of one element joined to it keeps its rank."""
        value = self.values.get(name)
        rank = len(self.program.constants[constant].dims)
        return rank == 0 or (value is not None and value.dims is not None and rank <= len(value.dims))


def _is(found: float | None, wanted: float) -> bool:
    return found is not None and math.isclose(found, wanted, rel_tol=_CLOSE)
