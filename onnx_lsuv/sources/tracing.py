"""Where an operand's values come from: constants, seen through operators that only move values.

A weight reaches its layer from an initializer, a Constant or a ConstantOfShape, perhaps through Transpose,
Reshape, Slice, Split, Concat of slices and the like. Each of these is here a NumPy function that gives a *view* of
its input wherever NumPy can; the whole way composes into one function from the constants' arrays to the operand's.
New values are written back through that view, or, where NumPy had to copy, by running the same function over
`arange(size)` and scattering by the result. So no operator needs an inverse of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import numpy as np

from onnx_lsuv.model import read
from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import Constant, Node, Program, number
from onnx_lsuv.program.static_integers import known_integers
from onnx_lsuv.sources.degrees import degrees
from onnx_lsuv.sources.moves import MOVES, Array, FixedTerm, Source, Untraceable, extend, join, phantom
from onnx_lsuv.sources.quantisers import Follow, bounded, is_quantiser, rounded


@dataclass(frozen=True, slots=True, eq=False)
class _Trace:
    """Finds sources. (A function inside another one that calls itself would keep the model until it is collected.)"""

    program: Program
    found: dict[str, Source] = field(default_factory=dict)  # several ways may lead over one value

    def __call__(self, name: str) -> Source:
        """Return the source of a value; raises Untraceable."""
        if name not in self.found:
            try:
                self.found[name] = _follow(self.program, name, self)
            except (ValueError, IndexError, ZeroDivisionError, OverflowError) as error:
                # NumPy's words for a shape, axis or bound that the file gives.
                node, _ = self.program.producers[name]
                what = f"the weight's way through {node.op} {node.label!r} does not fit its shape"
                raise Untraceable("computed", what) from error
        return self.found[name]


def trace(program: Program, name: str, *, several: bool = False) -> Source | Untraceable:
    """Follow an operand back to its constant.

    Args:
        program: where the operand stands.
        name: of the operand.
        several: allow an operand joined from several constants.

    Returns:
        The source, or the reason why there is none.
    """
    try:
        source = _Trace(program)(name)
    except Untraceable as why:
        return why.with_traceback(None)
    except RecursionError:
        return Untraceable("computed", "the weight's way through the graph has too many operators to be followed")
    if len(source.constants) > 1 and not several:
        return Untraceable("computed", "the weight is joined from several constants")
    return _with_scaled_constant(program, name, source) if source.computed else source


def _with_scaled_constant(program: Program, name: str, source: Source) -> Source | Untraceable:
    """Find the constant that can carry the scale of a computed weight."""
    growth = degrees(program, name, source.rounding)
    if growth is None or len(source.constants) != 1:
        return Untraceable("computed", "the weight is a sum or another mixture of constants, which no factor scales")
    degree = growth.get(source.constant)
    if degree == 1.0:
        return source
    # Not of degree 1 itself, the weight is none of these.
    carriers = [
        c for c, d in growth.items() if d == 1.0 and (known := program.constants[c]).site is not None and known.size > 0
    ]
    if not carriers:
        return Untraceable("computed", "no constant that the weight is computed from is proportional to it: all stay")
    # Weight normalisation: of several factors the largest is the trained one, the others are plain numbers, as a 1 is.
    scaled_constant = max(carriers, key=lambda c: (program.constants[c].size, number(program.constants, c) != 1))
    late = [
        (degrees(program, c.value, source.rounding) or {}).get(scaled_constant, 0.0) for c in source.quantiser_steps
    ]
    if any(d not in (0.0, 1.0) for d in late):
        return Untraceable("computed", "what rounds the weight is not proportional to what carries its scale")
    quantiser_steps = tuple(replace(c, scaled=d == 1.0) for c, d in zip(source.quantiser_steps, late, strict=True))
    return replace(source, scaled_constant=scaled_constant, quantiser_steps=quantiser_steps)


def _follow(program: Program, name: str, follow: Follow) -> Source:
    """Follow an operand by one operator, and what that reads by `follow`."""
    if name in program.constants:
        return _start(program.constants[name])
    if name in program.sparse:
        raise Untraceable("sparse", "the weight is a sparse initializer: give the model with dense ones")
    if name not in program.producers:
        raise Untraceable("dynamic", "the weight is an input of its graph, known only at run time")
    node, output = program.producers[name]
    static = is_constant(program, node)
    if of(node).random:
        raise Untraceable("random", f"the weight is drawn at run time by {node.op}")
    if is_quantiser(node, "DequantizeLinear"):
        return rounded(program, node, follow)
    if "Quant" in node.op_type:
        raise Untraceable("quantised", f"the weight comes out of {node.op}: give the float model")
    if node.op == "Concat":
        return join(node, [follow(each) for each in node.inputs])
    if node.op in MOVES:
        return MOVES[node.op](program, node, output, follow(node.inputs[0]))
    if node.op == "SequenceAt" and node.inputs[0] in program.producers:
        return _from_sequence(program, node, follow)
    if static and node.op in _COMPUTED:
        return _COMPUTED[node.op](program, node, follow)
    if static:
        raise Untraceable("computed", f"the weight is computed from constants by {node.op}")
    raise Untraceable("dynamic", f"the weight is computed from the data by {node.op}")


def _start(constant: Constant) -> Source:
    """Return a constant as its own source."""
    name = constant.name
    if any(d < 0 for d in constant.dims):
        raise Untraceable("computed", f"the tensor {constant.label!r} has a negative dimension")
    try:
        phantom(constant.dims)
    except ValueError as error:
        raise Untraceable("computed", f"the tensor {constant.label!r} has dims that no array can have") from error
    return Source((name,), lambda arrays: arrays[name], (), constant.elem_type, constant.dims, partial=False)


def _product(program: Program, node: Node, follow: Follow) -> Source:
    """Follow the factor that is a weight: the largest that is no mask, if the product has its shape."""
    found: list[Source] = []
    aside: list[tuple[str, str, str]] = []  # constants that a factor is computed from which is no weight itself
    for name in node.inputs if node.op_type == "Mul" else node.inputs[:1]:
        try:
            found.append(follow(name))
        except Untraceable as stopped:
            # A plain number, or a mask that is no tensor of floats, multiplies without being a weight itself.
            growth = degrees(program, name)
            if growth is None:
                raise
            aside += [(stopped.reason, stopped.detail, each) for each in growth]
    single = [s for s in found if len(s.constants) == 1]
    weights = [s for s in single if not _is_mask(program, s.constant)] or single
    if not weights or len(single) < len(found):
        raise Untraceable("computed", f"the weight is computed from constants by {node.op}")
    best = max(weights, key=lambda s: s.size)
    # 1 / |v| is computed from the weight, exp(g) from something smaller; A B may be a weight that nothing can follow.
    for reason, detail, name in aside:
        if name != best.constant and program.constants[name].size >= best.size:
            raise Untraceable(reason, detail)
    if sum(s.size == best.size and s.constant != best.constant for s in weights) or any(
        np.broadcast_shapes(s.shape, best.shape) != best.shape for s in found
    ):
        raise Untraceable("computed", "the weight is a product of constants of which none has its shape alone")
    return extend(best, node, computed=True)


def _centred(program: Program, node: Node, follow: Follow) -> Source:
    """Follow W - mean(W), as weight standardisation begins: what is taken off depends on the weight alone."""
    source = follow(node.inputs[0])
    if set(degrees(program, node.inputs[1]) or ()) != set(source.constants):
        raise Untraceable("computed", f"the weight is computed from constants by {node.op}")
    return extend(source, node, computed=True)


def _from_sequence(program: Program, node: Node, follow: Follow) -> Source:
    """Follow one part of a weight that SplitToSequence cuts."""
    cut, _ = program.producers[node.inputs[0]]
    at, sizes = (
        known_integers(program, node.inputs[1]),
        known_integers(program, cut.inputs[1]) if len(cut.inputs) > 1 else None,
    )
    if cut.op != "SplitToSequence" or at is None or at[0] is None or sizes is None or None in sizes:
        raise Untraceable("computed", f"the weight is an element of a sequence that {cut.op} {cut.label!r} makes")
    source = follow(cut.inputs[0])
    axis = cut.attributes.integer("axis", 0)
    step = np.cumsum([0, *(s for s in sizes if s is not None)])
    cuts = range(int(step[1]), source.shape[axis], int(step[1])) if len(sizes) == 1 else step[1:-1]
    place = at[0]
    return extend(source, node, lambda a: np.split(a, cuts, axis)[place], partial=True)


def _is_mask(program: Program, name: str) -> bool:
    constant = program.constants[name]
    if constant.site is None or constant.node is not None or constant.size == 1:
        return False
    values = read(program.model, constant.site)
    return bool(np.isin(values, (0, 1)).all())


# How a weight is followed through what computes it from constants.
_COMPUTED: dict[str, Callable[[Program, Node, Follow], Source]] = {
    "Mul": _product,
    "Div": _product,
    "Sub": _centred,
    "LpNormalization": lambda program, node, follow: extend(follow(node.inputs[0]), node, computed=True),
    "Clip": bounded,
}


def is_constant(program: Program, node: Node) -> bool:
    """Say whether a node depends on constants alone."""
    return node in program.static


def trace_sum(program: Program, name: str) -> tuple[Source, FixedTerm] | None:
    """Follow an operand that is a sum of constants to the one term that is a tensor of its own.

    Returns:
        The source of that term as the operand sees it, and the rest; None where there is no such sum.
    """
    moves: list[Node] = []
    while name in program.producers and of(program.producers[name][0]).move in WHOLE:
        moves.insert(0, program.producers[name][0])
        name = moves[0].inputs[0]
    total = program.producers[name][0] if name in program.producers else None
    if total is None or total.op != "Add" or not is_constant(program, total):
        return None
    terms = [(i, s) for i, each in enumerate(total.inputs) if isinstance(s := trace(program, each), Source)]
    plain = [(i, s) for i, s in terms if not s.path and s.size > 1]
    if len(plain) != 1:
        return None
    ((drawn, source),) = plain
    try:
        for move in moves:
            source = MOVES[move.op](program, move, 0, source)
    except (Untraceable, ValueError, IndexError):
        return None
    return source, FixedTerm(total.inputs[drawn], total.inputs[1 - drawn], tuple(moves))


def region(source: Source, dims: Sequence[int]) -> str:
    """Return which values of its one constant the operand reads: "" for all, else a digest of the sorted positions.

    Two operands with equal regions are one weight, whatever the order in which they see it.
    """
    if len(source.constants) > 1:
        return "+".join(source.constants[1:])
    if not source.partial:
        return ""
    positions = np.unique(source.see(_index(dims)))
    if positions.size == math.prod(dims):
        return ""
    return f"{positions[0]}:{positions[-1] + 1}:" + sha256(positions.tobytes()).hexdigest()[:16]


def overlap(one: Source, other: Source, dims: Sequence[int]) -> bool:
    """Say whether two operands read some of the same values of their one constant."""
    index = _index(dims)
    marks = np.zeros(index.size, np.bool_)
    marks[one.see(index)] = True
    return bool(marks[other.see(index)].any())


def _index(dims: Sequence[int], start: int = 0) -> Array:
    """Return an array whose values are their own places."""
    return np.arange(start, start + math.prod(dims), dtype=np.int64).reshape(dims)


def scatter(bases: Mapping[str, Array], source: Source, values: Array) -> None:
    """Write an operand's new values into its constants' arrays, in place.

    Args:
        bases: the constants' arrays, writable and C-contiguous.
        source: the way from them to the operand.
        values: shape `source.shape`; cast to the arrays' type.
    """
    seen = source.view(bases)
    if len(source.constants) == 1 and np.may_share_memory(seen, bases[source.constant]):
        seen[...] = values
        return
    starts = np.cumsum([0, *(bases[name].size for name in source.constants)])
    numbered = dict(zip(source.constants, starts.tolist(), strict=False))
    place = source.view({name: _index(bases[name].shape, start) for name, start in numbered.items()})
    for name, start in numbered.items():
        base = bases[name].reshape(-1)
        here = (place >= start) & (place < start + base.size)
        base[place[here] - start] = values[here]
