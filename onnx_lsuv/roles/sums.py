"""Constants that are added to a product: at once, or after operators that move it, and in whichever scope.

A bias is a function of the channel alone. So the axis along which a product's channels lie is followed through the
moves, as far as shapes are known before any data: a constant that has one value a channel along it is a bias for sure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import FLOAT_TYPES, Body, Node, Program
from onnx_lsuv.program.static_integers import axes_of, known_integers, shape_of
from onnx_lsuv.roles.products import Product
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace

_MOVES = WHOLE | {"casts"}
_Dims = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class _Channels:
    """Where the channels of a product are in a value that holds all of it."""

    axes: tuple[int, ...]  # from the end, the slowest first: a Reshape may part them, as for heads
    lengths: tuple[int, ...]
    rank: int | None  # of the value, where it is known

    @property
    def number(self) -> int:
        """How many there are."""
        return math.prod(self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class ConstantSum:
    """An Add of a constant to a product, moved or not: of one value a channel, or with one axis longer than 1."""

    add: Node
    position: int  # the operand that is the constant
    constants: tuple[str, ...]  # that it is made of
    clear: bool  # it has one value a channel
    direct: bool  # nothing moves the product
    number: bool  # it is a single one


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What is added to a product."""

    found: tuple[ConstantSum, ...]
    alone: bool  # there is one way from the product, in its own body and type, and an Add of a constant ends it


def leaving(program: Program) -> dict[str, tuple[str, ...]]:
    """Return what the outputs of branches are called outside, by their names inside."""
    found: dict[str, tuple[str, ...]] = {}
    for node in program.walk():
        for body in node.bodies.values() if node.op_type == "If" else ():
            for inner, outer in zip(body.outputs, node.outputs, strict=False):
                found[inner.name] = (*found.get(inner.name, ()), outer)
    return found


def find_sums(program: Program, product: Product, outside: Mapping[str, tuple[str, ...]]) -> Sums:
    """Find the constants that are added to a product.

    Args:
        program: all of it.
        product: what they are added to.
        outside: see `leaving`.
    """
    found: list[ConstantSum] = []
    alone = True
    # None: what comes out of an If, where the other branch may give something else.
    todo: list[tuple[str, tuple[Node, ...] | None]] = [(product.node.outputs[0], ())]
    while todo:
        name, way = todo.pop()
        readers = [(node, at) for node, at in program.consumers.get(name, ()) if not of(node).reads_shape]
        alone = alone and len(readers) == 1 and name not in program.exits
        todo += ((outer, None) for outer in outside.get(name, ()) if outer)
        for node, position in readers:
            moves = of(node).move in _MOVES and position == 0
            if moves:
                todo.append((node.outputs[0], None if way is None else (*way, node)))
            elif total := _sum(program, product, way, node, position):
                found.append(total)
            alone = alone and (moves or bool(found)) and _runs_along(program, product, node)
    if not alone:
        # A number that is added to one of several uses is an activation's, as of x * clip(x + 3, 0, 6) / 6. Where there
        # is one channel, it may be a bias as well.
        found = [replace(each, clear=each.clear and not each.number) for each in found if each.clear or not each.number]
    return Sums(tuple(found), alone)


def _runs_along(program: Program, product: Product, node: Node) -> bool:
    """Say whether a node runs together with a product, in its type."""
    if node.op_type == "Cast" and node.attributes.integer("to", 0) != product.source.elem_type:
        return False
    return node.scope == product.node.scope or _together(program.body, product.node, node)


def _together(body: Body, one: Node, other: Node) -> bool:
    """Say whether two nodes run together: in one body, be it through different function calls."""
    if one in body.nodes or other in body.nodes:
        return one in body.nodes and other in body.nodes
    return any(_together(inner, one, other) for node in body.nodes for inner in node.bodies.values())


def _sum(
    program: Program, product: Product, way: tuple[Node, ...] | None, add: Node, position: int
) -> ConstantSum | None:
    """Return what a node adds to a product that it reads after some moves, if it is an Add of a constant."""
    if add.op != "Add" or len(add.inputs) != 2:
        return None
    source = trace(program, add.inputs[1 - position], several=True)
    if not isinstance(source, Source) or source.elem_type not in FLOAT_TYPES:
        return None
    channels = None if way is None else _channels(product)
    for node in way or ():
        channels = _moved(program, node, channels)
    clear = _along(source.shape, channels)
    if not clear and sum(d != 1 for d in source.shape) > 1:
        return None
    return ConstantSum(add, 1 - position, source.constants, clear, direct=way == (), number=source.size == 1)


# --------------------------------------------------------------------------------------------------------- the channels


def _channels(product: Product) -> _Channels | None:
    """Return where the channels of a product's output are."""
    axis, rank, matrix = of(product.node).channels, len(product.source.shape), product.matrix
    if axis is None or rank < 2:
        return None
    if axis == 1:
        return _Channels((1 - rank,), (matrix.blocks * matrix.fan_out,), rank)
    known = 2 if product.node.op_type == "Gemm" else None
    axis = -1 if product.position == 1 else -2
    return _Channels((axis,), (matrix.fan_out * matrix.side_by_side,), known)


def _along(shape: tuple[int, ...], channels: _Channels | None) -> bool:
    """Say whether a constant of this shape has one value a channel, and adds no axis to the product."""
    if channels is None or len(shape) > max(-min(channels.axes), channels.rank or 0):
        return False
    lengths = {at - len(shape): length for at, length in enumerate(shape) if length != 1}
    wanted = {axis: length for axis, length in zip(channels.axes, channels.lengths, strict=True) if length != 1}
    # In their order: what centres them is written so.
    return lengths == wanted and sorted(channels.axes) == list(channels.axes)


def _moved(program: Program, node: Node, channels: _Channels | None) -> _Channels | None:
    """Return where the channels are behind a node that moves them; None where that is not clear."""
    if channels is None or of(node).move in ("keeps", "casts"):
        return channels
    dims = shape_of(program, node.inputs[0])
    rank = channels.rank if dims is None else len(dims)
    if of(node).move == "permutes":
        order = node.attributes.integers("perm") or range(rank or 0)[::-1]
        places: list[int | None] = [at - len(order) for at in order]
    elif (ones := _unit_axes(program, node)) and rank:
        places = _places(rank, ones, added=node.op_type == "Unsqueeze")
    else:
        return _reshaped(channels, dims, _lengths(program, node))
    if not places or not set(places).issuperset(channels.axes):
        return None
    axes = tuple(places.index(axis) - len(places) for axis in channels.axes)
    return replace(channels, axes=axes, rank=len(places))


def _unit_axes(program: Program, node: Node) -> tuple[int, ...]:
    """Return the axes of length 1 that a node adds or takes away, where it says so."""
    if node.op_type not in ("Squeeze", "Unsqueeze"):
        return ()
    given = axes_of(program, node)
    return tuple(axis for axis in given or () if axis is not None) if given and None not in given else ()


def _places(rank: int, ones: tuple[int, ...], *, added: bool) -> list[int | None]:
    """Return which axis of a value, from the end, each axis is of what has some of length 1 more, or less."""
    total = rank + len(ones) if added else rank
    gone = {axis % total for axis in ones}
    old: list[int | None] = list(range(-rank, 0))
    if not added:
        return [axis for at, axis in enumerate(old) if at not in gone]
    rest = iter(old)
    return [None if at in gone else next(rest, None) for at in range(total)]


def _reshaped(channels: _Channels, dims: _Dims | None, lengths: _Dims) -> _Channels | None:
    """Return where the channels are in another shape: as many values lie behind them as before."""
    last = channels.axes[-1]
    if channels.axes != tuple(range(last - len(channels.axes) + 1, last + 1)):
        return None
    behind = passed = 1
    for length in dims[last:][1:] if dims is not None else (None,) * (-1 - last):
        if length is None:
            return None
        behind *= length
    found: dict[int, int] = {}
    for axis, length in zip(range(-1, -len(lengths) - 1, -1), reversed(lengths), strict=True):
        if length is None:
            return None
        if passed >= behind and (length != 1 or channels.number == 1):
            found[axis] = length
        passed *= length
        if found and passed >= behind * channels.number:
            break
    if not found or math.prod(found.values()) != channels.number or passed != behind * channels.number:
        return None
    # Axes of length 1 between them do not part them.
    axes = tuple(range(min(found), max(found) + 1))
    return _Channels(axes, tuple(found.get(axis, 1) for axis in axes), len(lengths))


def _lengths(program: Program, node: Node) -> _Dims:
    """Return the shape that a node gives its output, as far as it is known."""
    made = shape_of(program, node.outputs[0]) or ()
    if node.op_type != "Reshape" or (made and None not in made):
        return made
    asked = known_integers(program, node.inputs[1]) if len(node.inputs) > 1 else node.attributes.integers("shape")
    asked = tuple(length if length and length > 0 else None for length in asked or ())
    if len(made) != len(asked):
        return made or asked
    return tuple(one if one is not None else other for one, other in zip(made, asked, strict=True))


def moves_by_data(program: Program, product: Product, add: Node, position: int) -> Iterator[Node]:
    """Yield the nodes between a product and an Add whose way of moving is known only at run time."""
    for node in program.makers(add.inputs[1 - position]):
        if node is product.node:
            return
        if any(each and each not in program.constants for each in node.inputs[1:]):
            yield node
