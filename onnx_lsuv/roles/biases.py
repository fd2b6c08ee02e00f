"""What is added to a layer's product: its bias, which becomes zero where all that reads it uses it as a bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_lsuv.operators import bias_position, of
from onnx_lsuv.program.program import FLOAT_TYPES, Body, Node, Program
from onnx_lsuv.roles.products import Product, uses, writable
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace


@dataclass(frozen=True, slots=True, eq=False)
class Addend:
    """A term that stays added to a layer's output."""

    node: Node  # the layer's own node, or the Add after it
    position: int  # the operand that holds the term


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """Where a layer ends, and what is added to its product on the way there."""

    end: Node  # the node whose first output is measured: the layer's, or the Add of a constant vector after it
    addend: Addend | None  # None where nothing is added, or what is becomes zero
    constants: tuple[str, ...]  # those that hold the term, where they can be written


@dataclass(frozen=True, slots=True, eq=False)
class Biases:
    """What becomes of the biases of some products."""

    terms: tuple[Term, ...]  # of each product
    zeroed: tuple[str, ...]  # constants that become zero
    forget: tuple[tuple[Source, int], ...]  # an LSTM's bias operand and hidden size: its forget gate's bias becomes 1


def find_biases(program: Program, products: Sequence[Product], *, keep_bias: bool) -> Biases:
    """Find where products end, and decide which biases become zero."""
    found = [_term(program, product) for product in products]
    places = {(term.addend.node, term.addend.position) for term in found if term.addend}
    terms = []
    zeroed: dict[str, None] = {}
    forget: dict[Node, tuple[Source, int]] = {}
    for node, term in zip((product.node for product in products), found, strict=True):
        free = bool(term.constants) and all(use in places for name in term.constants for use in uses(program, name))
        if keep_bias or not free:
            terms.append(term)
            continue
        terms.append(replace(term, addend=None))
        zeroed |= dict.fromkeys(term.constants)
        if node.op_type == "LSTM" and term.addend is not None:
            operand = trace(program, node.inputs[term.addend.position], several=True)
            # A bias of 1 that is rounded would need a step of its own.
            if isinstance(operand, Source) and not operand.rounding and _has_gates(operand):
                forget[node] = operand, operand.shape[1] // 8
    return Biases(tuple(terms), tuple(zeroed), tuple(forget.values()))


def _has_gates(bias: Source) -> bool:
    return len(bias.shape) == 2 and not bias.shape[1] % 8


def _term(program: Program, product: Product) -> Term:
    node = product.node
    bare, bias = Term(node, None, ()), bias_position(node, product.position)
    if bias is not None:
        if node.op_type == "Gemm" and node.attributes.real("beta", 1.0) == 0.0:
            return bare
        return Term(node, Addend(node, bias), holders(program, node.inputs[bias]))
    readers = program.consumers.get(node.outputs[0], ()) if not of(node).unscaled else ()
    # Two terms that stay, of two nodes, are one too many: a weight with a term of its own ends before the Add.
    if len(readers) != 1 or node.outputs[0] in program.exits or product.fixed_term:
        return bare
    after, position = readers[0]
    if after.op != "Add" or (after.scope != node.scope and not _together(program.body, node, after)):
        return bare
    other = after.inputs[1 - position]
    source = trace(program, other, several=True)
    if not isinstance(source, Source) or sum(d != 1 for d in source.shape) > 1:
        return bare
    return Term(after, Addend(after, 1 - position), holders(program, other))


def _together(body: Body, one: Node, other: Node) -> bool:
    """Say whether two nodes run together: in one body, be it through different function calls."""
    if one in body.nodes or other in body.nodes:
        return one in body.nodes and other in body.nodes
    return any(_together(inner, one, other) for node in body.nodes for inner in node.bodies.values())


def holders(program: Program, name: str) -> tuple[str, ...]:
    """Return the constants that an operand is made of by moving alone, if all can be written; else none."""
    source = trace(program, name, several=True)
    # What rounds a term, or bounds it, leaves zero as it is.
    if not isinstance(source, Source) or source.computed or source.elem_type not in FLOAT_TYPES:
        return ()
    constants = [program.constants[each] for each in source.constants]
    fit = all(writable(constant) and constant.elem_type in FLOAT_TYPES for constant in constants)
    return source.constants if fit else ()
