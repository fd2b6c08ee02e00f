"""What is added to a layer's product: its bias, which becomes zero where all that reads it uses it as a bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lsuv.operators import bias_position, of
from onnx_lsuv.program.program import FLOAT_TYPES, Node, Program
from onnx_lsuv.roles.products import Product, uses, writable
from onnx_lsuv.roles.sums import ConstantSum, find_sums, leaving, moves_by_data
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

    end: Node  # the node whose first output is measured: the layer's, or the Add of a constant after it
    addend: Addend | None  # None where nothing is added, or what is becomes zero
    constants: tuple[str, ...]  # those that hold the term, where they can be written
    later: tuple[ConstantSum, ...] = ()  # what is added behind the end, to the product among other things


@dataclass(frozen=True, slots=True, eq=False)
class Biases:
    """What becomes of the biases of some products."""

    terms: tuple[Term, ...]  # of each product
    zeroed: tuple[str, ...]  # constants that become zero
    forget: tuple[tuple[Source, int], ...]  # an LSTM's bias operand and hidden size: its forget gate's bias becomes 1
    left: Mapping[str, Node]  # constants that are added behind the end of a layer, and stay: the layer


def find_biases(
    program: Program, products: Sequence[Product], excluded: Callable[..., bool], *, keep_bias: Collection[str]
) -> Biases:
    """Find where products end, and decide which biases become zero.

    Args:
        program: all of it.
        products: what biases are added to.
        excluded: called with the labels of the node that adds, and of a constant that it adds; True keeps this.
        keep_bias: keep those of these operators, "*" for all.
    """
    users, outside = Counter(product.source.constant for product in products), leaving(program)
    found = [_term(program, each, outside, several=users[each.source.constant] > 1) for each in products]
    places = {(term.addend.node, term.addend.position) for term in found if term.addend}
    places |= {(each.add, each.position) for term in found for each in term.later if each.clear}

    sums = [(term.addend.node, name) for term in found if term.addend for name in term.constants]
    sums += [(each.add, name) for term in found for each in term.later for name in each.constants]
    barred = {name for add, name in sums if excluded(add.label, program.constants[name].label)}

    def free(constants: Collection[str]) -> bool:
        own = bool(constants) and barred.isdisjoint(constants)
        return own and all(use in places for name in constants for use in uses(program, name))

    def keeps(node: Node, constants: Collection[str]) -> bool:
        # Where it is not said of every layer, what has no values starts as ever.
        named = node.op in keep_bias and not all(map(program.is_absent, constants))
        return "*" in keep_bias or named

    terms = []
    zeroed: dict[str, None] = {}
    left: dict[str, Node] = {}
    forget: dict[Node, tuple[Source, int]] = {}
    for node, term in zip((product.node for product in products), found, strict=True):
        held = dict.fromkeys(term.constants)
        for each in term.later:
            constants = holders(program, each.add.inputs[each.position])
            if not keeps(node, constants) and each.clear and free(constants):
                held |= dict.fromkeys(constants)
            else:
                left |= dict.fromkeys(each.constants, node)
        if keeps(node, held) or not free(held):
            terms.append(term)
            continue
        terms.append(replace(term, addend=None, constants=tuple(held)))
        zeroed |= held
        if node.op_type == "LSTM" and term.addend is not None:
            operand = trace(program, node.inputs[term.addend.position], several=True)
            # A bias of 1 that is rounded would need a step of its own.
            if isinstance(operand, Source) and not operand.rounding and _has_gates(operand):
                forget[node] = operand, operand.shape[1] // 8
    return Biases(tuple(terms), tuple(zeroed), tuple(forget.values()), left)


def _has_gates(bias: Source) -> bool:
    return len(bias.shape) == 2 and not bias.shape[1] % 8


def _term(program: Program, product: Product, outside: Mapping[str, tuple[str, ...]], *, several: bool) -> Term:
    node = product.node
    bare, bias = Term(node, None, ()), bias_position(node, product.position)
    if bias is not None:
        if node.op_type == "Gemm" and node.attributes.real("beta", 1.0) == 0.0:
            return bare
        return Term(node, Addend(node, bias), holders(program, node.inputs[bias]))
    if of(node).unscaled:
        return bare
    sums = find_sums(program, product, outside)
    # Two terms that stay, of two nodes, are one too many: a weight with a term of its own ends before the Add.
    if not sums.alone or product.fixed_term:
        return replace(bare, later=sums.found)
    (total,) = sums.found
    # The first use of a weight ends before others begin, which might be what a shape between is computed from.
    late = several and any(moves_by_data(program, product, total.add, total.position))
    if late or not (total.direct or total.clear):
        return replace(bare, later=sums.found)
    term = total.add.inputs[total.position]
    return Term(total.add, Addend(total.add, total.position), holders(program, term))


def holders(program: Program, name: str) -> tuple[str, ...]:
    """Return the constants that an operand is made of by moving alone, if all can be written; else none."""
    source = trace(program, name, several=True)
    # What rounds a term, or bounds it, leaves zero as it is.
    if not isinstance(source, Source) or source.computed or source.elem_type not in FLOAT_TYPES:
        return ()
    constants = [program.constants[each] for each in source.constants]
    fit = all(writable(constant) and constant.elem_type in FLOAT_TYPES for constant in constants)
    return source.constants if fit else ()
