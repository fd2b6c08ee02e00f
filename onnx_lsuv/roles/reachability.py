"""What stands before and after the layers of a network, and where a value goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from onnx_lsuv.operators import Matrix, of
from onnx_lsuv.program.program import FLOAT_TYPES, Body, Node, Program, walk
from onnx_lsuv.roles.products import Product, Skipped

# On the way from a norm to the Add of a residual connection.
_ON_BRANCH = frozenset({"Identity", "Dropout", "Cast", "Reshape", "Transpose", "Mul", "Add"})
_FAR = 200  # nodes to look at


@dataclass(frozen=True, slots=True)
class Reachability:
    """Values by their place among the layers, in all scopes."""

    program: Program
    learned: Set[str]  # they depend on a layer or on a table that is looked up
    leading: Set[str]  # a layer depends on them
    linear: Set[Node]  # nodes with a constant weight, whether it is drawn or left alone
    matrices: Mapping[Node, Matrix]  # of those whose weight is drawn

    def leads_to_width(self, name: str, dims: Sequence[int]) -> bool:
        """Say whether a value reaches a layer of as many inputs as its last axis is long, with that as it is."""
        last = len(dims) - 1
        todo, seen = [name], set[Node]()
        while todo and len(seen) < _FAR:
            at = todo.pop(0)
            for node, _ in self.program.consumers.get(at, ()):
                if node in seen:
                    continue
                seen.add(node)
                if node in self.matrices:
                    if self.matrices[node].fan_in == dims[-1]:
                        return True
                elif _keeps_width(node, last):
                    todo += [output for output in node.outputs if output]
        return False


def _keeps_width(node: Node, last: int) -> bool:
    """Say whether the last axis of what a node makes means what that of its operand does; `last` is its index."""
    if node.op == "Split":
        return node.attributes.integer("axis", 0) not in (-1, last)
    if node.op == "Transpose":
        perm = node.attributes.integers("perm") or (0,)
        return perm[-1] == len(perm) - 1
    return of(node).keeps_width


def find_reachability(program: Program, products: Sequence[Product], skipped: Sequence[Skipped]) -> Reachability:
    """Return which values come after a layer, and which before one."""
    nodes = {product.node for product in products}
    nodes |= {each.node for each in skipped if of(each.node).weights and each.reason not in ("dynamic", "constant")}
    tables = {
        node
        for node in program.walk()
        if (node.op == "Gather" and node not in program.static and _is_float(program, node.inputs[0]))
        or "embedding" in of(node).roles.values()
    }
    made = {name for node in nodes | tables for name in node.outputs if name}
    # Of a recurrent layer's two weights the first reads the data.
    matrices = {product.node: product.matrix for product in reversed(products)}
    return Reachability(program, after(program, made), before(program, nodes), nodes, matrices)


def after(program: Program, values: Set[str]) -> Set[str]:
    """Return these values, or constants, and those that depend on them, where only their shapes are read left out."""
    found, size = set(values), -1
    # What a loop carries comes back.
    while len(found) > size:
        size = len(found)
        _spread(program.body, found)
    return found


def _spread(body: Body, found: set[str]) -> None:
    """Add what the nodes of a scope make of values that were found."""
    for node in body.nodes:
        if not of(node).reads_shape and not node.bodies and any(name in found for name in node.inputs):
            found.update(filter(None, node.outputs))
        for inner in node.bodies.values():
            steering, given, formals, made, carried = _wires(node, inner)
            steered = any(name in found for name in steering)
            for i, formal in enumerate(formals):
                if steered or given[i] in found or (i < carried and made[i] in found):
                    found.add(formal)
            _spread(inner, found)
            for i, (name, result) in enumerate(zip(node.outputs, made, strict=False)):
                if name and (steered or result in found or (i < carried and given[i] in found)):
                    found.add(name)


def _wires(node: Node, inner: Body) -> tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str], int]:
    """Return how a scope is bound to its node.

    Returns:
        What decides whether and how often it runs; what it is given, and what it calls that; what of its own becomes
        the node's outputs; and how many of what it is given it carries on.
    """
    formals, made = [value.name for value in inner.inputs], [value.name for value in inner.outputs]
    if node.op == "If":
        return node.inputs, (), (), made, 0
    if node.op == "Loop":
        given = node.inputs[2:]
        return (*node.inputs[:2], *made[:1]), given, formals[2:], made[1:], len(given)
    if node.op == "Scan":
        # Opset 8 has the lengths of the sequences before them.
        lengths, given = node.inputs[: -len(formals)], node.inputs[-len(formals) :]
        return lengths, given, formals, made, len(given) - node.attributes.integer("num_scan_inputs", 0)
    return (*node.inputs, *made), formals, formals, made * len(node.outputs), 0


def before(program: Program, nodes: Set[Node]) -> Set[str]:
    """Return the values that nodes depend on."""
    found: set[str] = set()
    _backward(program.body, found, nodes)
    return found


def _is_float(program: Program, name: str) -> bool:
    return name in program.constants and program.constants[name].elem_type in FLOAT_TYPES


def _backward(body: Body, leading: set[str], marks: Set[Node]) -> None:
    for node in reversed(body.nodes):
        hit = node in marks or any(name in leading for name in node.outputs)
        for inner in node.bodies.values():
            if hit or any(each in marks for each in walk(inner)):
                hit = True
                leading.update(value.name for value in inner.outputs)
            _backward(inner, leading, marks)
        if hit:
            leading.update(name for name in node.inputs if name)


def leads_to_add(program: Program, name: str) -> bool:
    """Say whether a value goes into the Add of a residual connection, and nowhere else."""
    while True:
        readers = program.consumers.get(name, ())
        if len(readers) != 1 or name in program.exits:
            return False
        node, position = readers[0]
        if node.op not in _ON_BRANCH:
            return False
        if node.op_type == "Add" and node.inputs[1 - position] not in program.constants:
            return True
        name = node.outputs[0]
