"""The model as ONNX Runtime will execute it: functions expanded, names unique, constants in one table.

ONNX nests graphs in nodes (If, Loop, Scan) and calls model-local functions; the same name may stand for
different values in sibling scopes, and constants hide in initializers, in Constant nodes and behind
ConstantOfShape. A `Program` says the same with one flat name space: every value name is unique over all
scopes, every function call is replaced by its body, and every constant tensor stands in `constants`, with the
place in the file (`Site`) it came from. What looks for layers and what inserts statistics can then treat the
main graph, a branch, a loop body and a function body alike.

A function's body is read in the *model's* opset, as ONNX Runtime 1.31 does, whatever the function imports.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, TypeProto, ValueInfoProto, helper
from onnx.numpy_helper import to_array

from onnx_lsuv.model import Model, Site, fill, is_hollow, read
from onnx_lsuv.operators import Attributes, of

DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})
FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant tensor and where the file keeps it."""

    name: str  # unique in the program
    label: str  # the name in the file
    scope: str  # "main", "main/cond.then_branch", "function:Dense", ...
    origin: str  # "initializer", "Constant" or "ConstantOfShape"
    elem_type: int
    dims: tuple[int, ...]
    site: Site | None  # None: no place of its own that could take a new value
    tensor: TensorProto | None  # the skeleton's tensor, hollow when large; None for ConstantOfShape and external values
    node: NodeProto | None = None  # the ConstantOfShape node, inputs renamed

    @property
    def identity(self) -> str:
        """The scope path and name that a draw is seeded with."""
        return f"{self.scope}/{self.label}"

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's type for the values, or that of ml_dtypes."""
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.elem_type))


@dataclass(frozen=True, slots=True, eq=False)
class Body:
    """The nodes of one scope, with its formal inputs and its outputs."""

    nodes: tuple[Node, ...]
    inputs: tuple[ValueInfoProto, ...]
    outputs: tuple[ValueInfoProto, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node with unique value names; its graph attributes are `bodies`."""

    label: str
    scope: str
    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes
    bodies: Mapping[str, Body]

    @property
    def op(self) -> str:
        """The operator's name, with its domain unless it is ONNX's own."""
        return self.op_type if self.domain in DEFAULT_DOMAINS else f"{self.domain}.{self.op_type}"

    def beside(self, op_type: str, inputs: tuple[str, ...], output: str, **attributes: float) -> Node:
        """Return a node of ONNX's own in the same scope."""
        return replace(
            self,
            label=f"{self.label}.{op_type}",
            op_type=op_type,
            domain="",
            inputs=inputs,
            outputs=(output,),
            attributes=Attributes((name, helper.make_attribute(name, value)) for name, value in attributes.items()),
            bodies={},
        )


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A model with one flat name space."""

    model: Model
    body: Body
    constants: Mapping[str, Constant]
    opsets: Mapping[str, int]
    sparse: frozenset[str]  # names whose value is a sparse tensor
    producers: Mapping[str, tuple[Node, int]]
    consumers: Mapping[str, tuple[tuple[Node, int], ...]]  # readers in any scope
    exits: frozenset[str]  # values that leave a scope as one of its outputs
    static: frozenset[Node]  # nodes that depend on constants alone
    old_scans: frozenset[Node]  # nodes inside a Scan of opset 8
    declared: Mapping[str, tuple[int | None, ...]]  # shapes that the file itself gives
    names: Mapping[str, str]  # what values of the main graph are called here, by their names in the file
    doubled: tuple[tuple[str, str], ...]  # "node" or "initializer", and a name that several of one graph have
    # What is known of values before any data, and the shapes that were inferred; both are filled when asked for.
    folded: dict[str, NDArray[Any] | None] = field(default_factory=dict)
    inferred: dict[str, tuple[int | None, ...]] = field(default_factory=dict)

    @property
    def opset(self) -> int:
        """The version of ONNX's own operator set."""
        return self.opsets[""]

    def is_absent(self, name: str) -> bool:
        """Say whether a constant waits for values: the file has none of it."""
        return name in self.constants and self.constants[name].site in self.model.absent

    def walk(self) -> Iterator[Node]:
        """Yield every node of every scope in the order of execution."""
        return walk(self.body)

    @property
    def by_site(self) -> dict[Site, Constant]:
        """The constants by their places in the file; those that have none are left out."""
        return {each.site: each for each in self.constants.values() if each.site is not None}

    def makers(self, name: str) -> Iterator[Node]:
        """Yield the node that makes a value, then the one that makes that node's first operand, and so on."""
        while name in self.producers:
            node, _ = self.producers[name]
            yield node
            name = node.inputs[0] if node.inputs else ""

    def readers(self, name: str, passes: Callable[[Node, int], bool]) -> Iterator[tuple[Node | None, int]]:
        """Yield who reads a value, and as which operand, in the end: through nodes that hand it on.

        None stands for an output of an inner scope. What leaves the main graph is no reader, nor what reads the
        shape, or the type, alone.

        Args:
            name: of the value.
            passes: says of a node that reads it, as an operand, whether the node's outputs are followed instead.
        """
        todo: list[str | tuple[Node | None, int]] = [name]
        seen: set[str] = set()
        outputs = {value.name for value in self.body.outputs}
        while todo:
            at = todo.pop()
            if not isinstance(at, str):
                yield at
            elif at not in seen:
                seen.add(at)
                below: list[str | tuple[Node | None, int]] = []
                if at in self.exits and at not in outputs:
                    below.append((None, 0))
                for node, position in self.consumers.get(at, ()):
                    if of(node).reads_shape or (position and of(node).move == "likens"):
                        continue
                    below += filter(None, node.outputs) if passes(node, position) else [(node, position)]
                todo += reversed(below)


def walk(body: Body, order: Mapping[Body, Sequence[Node]] = MappingProxyType({})) -> Iterator[Node]:
    """Yield the nodes of a scope and of the scopes inside it, each node after those inside it.

    Args:
        body: the scope.
        order: of the nodes of scopes, where it is not that of the file.
    """
    for node in order.get(body, body.nodes):
        for inner in node.bodies.values():
            yield from walk(inner, order)
        yield node


def stored(program: Program, name: str) -> NDArray[Any]:
    """Return the values of a constant that the file holds, or, where they were replaced, the new ones."""
    constant = program.constants[name]
    if constant.site is None:
        assert constant.tensor is not None
        return to_array(constant.tensor)
    if constant.origin == "ConstantOfShape" and constant.site not in program.model.values:
        return np.full(constant.dims, fill(program.model, constant.site))
    return read(program.model, constant.site)


def known(constants: Mapping[str, Constant], name: str) -> NDArray[Any] | None:
    """Return the values of a small constant, or None where it is not one."""
    constant = constants.get(name)
    if constant is None or constant.tensor is None or is_hollow(constant.tensor):
        return None
    return to_array(constant.tensor)


def number(constants: Mapping[str, Constant], name: str) -> float | None:
    """Return the value of a constant of one element, or None where it is not one."""
    values = known(constants, name)
    return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None


def integers(constants: Mapping[str, Constant], name: str) -> tuple[int, ...] | None:
    """Return the values of a small integer constant, or None where it is not one."""
    if name not in constants or constants[name].elem_type not in (TensorProto.INT64, TensorProto.INT32):
        return None
    values = known(constants, name)
    return None if values is None else tuple(int(v) for v in values.reshape(-1))


def tensor_type(elem_type: int, dims: Sequence[int | str | None] | None) -> TypeProto:
    """Return a tensor type; a dim of None is open, dims of None leave the rank open."""
    return helper.make_tensor_type_proto(elem_type, dims)
