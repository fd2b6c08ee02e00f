"""Ask for the roles of all constants at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnx_lsuv.program.program import Program
from onnx_lsuv.roles.biases import Biases, find_biases
from onnx_lsuv.roles.norms import Norm, find_norms
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
    norms: tuple[Norm, ...]
    kept_statistics: tuple[Skipped, ...]
    parameters: Parameters


def find_roles(
    program: Program,
    products: Sequence[Product],
    skipped: Sequence[Skipped],
    *,
    keep_bias: bool,
    wanted: Callable[..., bool] | None,
) -> Roles:
    """Say what each constant is, by what reads it, and, where `wanted` is given, by its values.

    Args:
        program: all of it.
        products: those whose weights are drawn.
        skipped: nodes that are left alone.
        keep_bias: leave biases as they are.
        wanted: which parameters beside the layers to look for, see `find_parameters`; None: none, and no value is read.
    """
    biases = find_biases(program, products, keep_bias=keep_bias)
    norms, kept_statistics = find_norms(program)
    table = {name: Role("weight", "product") for product in products for name in product.source.touched}
    table |= {name: Role("statistics", "norm") for norm in norms for name in (norm.mean, norm.var)}
    table |= dict.fromkeys(biases.zeroed, Role("bias", "sum"))
    steps = (step for product in products for step in product.source.quantiser_steps)
    table |= {step.operand.constant: Role("step", "quantiser") for step in steps}
    parameters = Parameters() if wanted is None else find_parameters(program, products, skipped, table.keys(), wanted)
    table |= {each.constant: Role(each.role, each.evidence) for each in parameters.fresh}
    return Roles(table, biases, norms, kept_statistics, parameters)
