"""Ask for the roles of all constants at once, and decide what happens to each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lsuv.program.program import Program
from onnx_lsuv.roles.absent import find_starts
from onnx_lsuv.roles.biases import Biases, find_biases
from onnx_lsuv.roles.fixed import weight_transform
from onnx_lsuv.roles.norms import Norm, changing, find_norms
from onnx_lsuv.roles.parameters import Parameter, Parameters, find_parameters
from onnx_lsuv.roles.products import Patterns, Product, Skipped
from onnx_lsuv.roles.reachability import find_reachability
from onnx_lsuv.roles.table import Role, role_of_each


@dataclass(frozen=True, slots=True)
class Roles:
    """What the constants of a program are."""

    table: Mapping[str, Role]  # of every constant
    biases: Biases
    norms: tuple[Norm, ...]  # whose statistics are calibrated
    stored: tuple[Norm, ...]  # whose statistics could be, and are kept
    kept_statistics: tuple[Skipped, ...]  # these, and those that could not
    parameters: Parameters


def find_roles(
    program: Program,
    products: Sequence[Product],
    left: Sequence[Product],
    skipped: Sequence[Skipped],
    patterns: Patterns,
    *,
    keep_bias: Collection[str],
    fresh: bool,
    recalibrate: bool,
) -> Roles:
    """Say what each constant is, by what reads it and, where that leaves a doubt, by its values.

    Args:
        program: all of it.
        products: those whose weights are drawn.
        left: those whose weights are left alone.
        skipped: nodes that are left alone.
        patterns: what a person chose by patterns.
        keep_bias: operators whose biases stay as they are, "*" for all.
        fresh: let the parameters beside the layers start anew, which reads their values.
        recalibrate: set all other statistics.
    """
    biases = find_biases(program, products, patterns.excluded, keep_bias=keep_bias)
    others = find_biases(program, left, patterns.excluded, keep_bias=keep_bias)
    asked = _asked(program, left, skipped, others, patterns)
    biases = replace(
        biases,
        zeroed=(*biases.zeroed, *sorted(asked)),
        forget=(*biases.forget, *(each for each in others.forget if asked.issuperset(each[0].constants))),
    )
    writable, stuck = find_norms(program)
    table = _of_products(products, "drawn") | dict.fromkeys(biases.zeroed, Role("bias", "sum", "zero"))
    handled = table.keys() | {name for norm in writable for name in (norm.mean, norm.var)}
    reachability = find_reachability(program, products, skipped)
    parameters = find_parameters(reachability, skipped, handled, patterns.wanted) if fresh else Parameters()
    table |= {each.constant: Role(each.role, each.evidence, "fresh") for each in parameters.fresh}
    # Patterns may name those too that cannot be written.
    for each in stuck:
        patterns.excluded(each.node.label, each.weight or "")
    norms, kept = changing(program, writable, table.keys(), patterns, recalibrate=recalibrate)
    table |= {name: Role("statistics", "norm", "calibrated") for norm in norms for name in (norm.mean, norm.var)}
    stored = tuple(norm for norm in writable if norm not in norms)
    if program.model.absent:
        starts = find_starts(reachability, skipped, table)
        parameters = replace(parameters, fresh=(*parameters.fresh, *starts))
        table |= {each.constant: Role(each.role, each.evidence, "fresh") for each in starts}
    # Where no data reach a norm, its statistics are those of a new one.
    pairs = [(name, start) for norm in norms for name, start in ((norm.mean, 0.0), (norm.var, 1.0))]
    new = [
        Parameter(name, "statistics", "norm", None, start)
        for name, start in dict(pairs).items()
        if fresh or program.is_absent(name)
    ]
    parameters = replace(parameters, fresh=(*parameters.fresh, *new))
    known = _of_products(left, "kept") | {
        product.source.constant: Role("fixed", what)
        for product in left
        if (what := weight_transform(program, product.source))
    }
    added = (name for found in (biases, others) for term in found.terms for name in term.constants)
    known |= dict.fromkeys((name for name in added if name not in known), Role("bias", "sum"))
    return Roles(role_of_each(reachability, known | table), biases, norms, stored, (*stuck, *kept), parameters)


def _of_products(products: Sequence[Product], fate: str) -> dict[str, Role]:
    """Return the roles of what makes weights, and of what is scaled with them."""
    table = {name: Role("weight", "product", fate) for product in products for name in product.source.touched}
    scaled = "scaled" if fate == "drawn" else fate
    for source in (product.source for product in products):
        if source.scaled_constant:
            table[source.scaled_constant] = Role("weight", "product", scaled)
        table |= {step.operand.constant: Role("step", "quantiser", scaled) for step in source.quantiser_steps}
    return table


def _asked(
    program: Program, left: Sequence[Product], skipped: Sequence[Skipped], biases: Biases, patterns: Patterns
) -> set[str]:
    """Return the biases that a pattern names although it names no weight of their layers, which are left alone."""
    unnamed = {each.node for each in skipped if each.reason == "excluded"}
    found = set[str]()
    for product, term in zip(left, biases.terms, strict=True):
        labels = (program.constants[name].label for name in product.source.constants)
        if product.node in unnamed and not patterns.excluded(product.node.label, *labels):
            names = (name for name in term.constants if name in biases.zeroed)
            found |= {name for name in names if patterns.named(term.end.label, program.constants[name].label)}
    return found
