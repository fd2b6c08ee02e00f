"""Ask for the roles of all constants at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lsuv.program.program import Program
from onnx_lsuv.roles.absent import find_starts
from onnx_lsuv.roles.biases import Biases, find_biases
from onnx_lsuv.roles.norms import Norm, changing, find_norms
from onnx_lsuv.roles.parameters import Parameters, find_parameters
from onnx_lsuv.roles.products import Product, Skipped


@dataclass(frozen=True, slots=True)
class Role:
    """What a constant is, and what tells."""

    role: str  # "weight", "step", "bias", "statistics", or that of a `Parameter`
    evidence: str  # what reads it: a "product", "quantiser", "sum" or "norm"; of a parameter see `Parameter`


@dataclass(frozen=True, slots=True)
class Roles:
    """What the constants of a program are."""

    table: Mapping[str, Role]  # of the constants that change
    biases: Biases
    norms: tuple[Norm, ...]  # whose statistics are calibrated
    stored: tuple[Norm, ...]  # whose statistics could be, and are kept
    kept_statistics: tuple[Skipped, ...]  # these, and those that could not
    parameters: Parameters


def find_roles(
    program: Program,
    products: Sequence[Product],
    skipped: Sequence[Skipped],
    *,
    keep_bias: bool,
    wanted: Callable[..., bool] | None,
    excluded: Callable[..., bool],
    recalibrate: bool,
) -> Roles:
    """Say what each constant is, by what reads it, and, where `wanted` is given, by its values.

    Args:
        program: all of it.
        products: those whose weights are drawn.
        skipped: nodes that are left alone.
        keep_bias: leave biases as they are.
        wanted: which parameters beside the layers to look for, see `find_parameters`; None: none, and no value is read.
        excluded: which norms are to keep their statistics, see `changing`.
        recalibrate: set all other statistics.
    """
    biases = find_biases(program, products, keep_bias=keep_bias)
    writable, stuck = find_norms(program)
    table = {name: Role("weight", "product") for product in products for name in product.source.touched}
    table |= dict.fromkeys(biases.zeroed, Role("bias", "sum"))
    steps = (step for product in products for step in product.source.quantiser_steps)
    table |= {step.operand.constant: Role("step", "quantiser") for step in steps}
    handled = table.keys() | {name for norm in writable for name in (norm.mean, norm.var)}
    parameters = Parameters() if wanted is None else find_parameters(program, products, skipped, handled, wanted)
    table |= {each.constant: Role(each.role, each.evidence) for each in parameters.fresh}
    # Patterns may name those too that cannot be written.
    for each in stuck:
        excluded(each.node.label, each.weight or "")
    norms, kept = changing(program, writable, table.keys(), excluded, recalibrate=recalibrate)
    table |= {name: Role("statistics", "norm") for norm in norms for name in (norm.mean, norm.var)}
    stored = tuple(norm for norm in writable if norm not in norms)
    if program.model.absent:
        starts = find_starts(program, products, skipped, norms, table)
        parameters = replace(parameters, fresh=(*parameters.fresh, *starts))
        table |= {each.constant: Role(each.role, each.evidence) for each in starts}
    return Roles(table, biases, norms, stored, (*stuck, *kept), parameters)
