"""The std that a table of embeddings starts with, by what it is added to or joined with.

    a table alone, or with tables          1
    ... one of which is a layer's weight   1/sqrt(d), d being its width, for all of them: else the others drown it
    a table beside what a layer makes      0.02: a position beside patches, which have a std of about 1

What multiplies a table before the sum, as the sqrt(d) of the first Transformer, its std is divided by. What comes from
a table through layers, as the branches of a residual stream, stands beside it later and does not count.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import Constant, Node, number
from onnx_lsuv.roles.reachability import Reachability, after

BESIDE = 0.02
GATHERS = ("Gather", "GatherND")
_MOVES = WHOLE | {"casts", "drops", "takes", "picks", "repeats", "resizes"}


@dataclass(frozen=True, slots=True)
class _Operand:
    """Where an operand of a sum comes from: a table, an earlier sum, or neither."""

    origin: str | Node = ""
    factor: float = 1.0
    picked: bool = False  # the data say which rows


def table_stds(reachability: Reachability, tables: Mapping[str, Constant], tied: Collection[str]) -> dict[str, float]:
    """Return the std that each table starts with.

    Args:
        reachability: of the program.
        tables: the constants, by name.
        tied: those of them that are a layer's weight too.
    """
    stds: dict[str, float] = {}
    factors, groups = _groups(reachability, tables)
    for names, others in groups:
        whole = [factors[name] / math.sqrt(tables[name].dims[-1]) for name in names if name in tied]
        std = min(whole, default=BESIDE if _beside(reachability, names, others) else 1.0)
        stds |= {name: std / factors[name] for name in names}
    return stds


def _groups(
    reachability: Reachability, tables: Mapping[str, Constant]
) -> tuple[dict[str, float], list[tuple[list[str], list[str]]]]:
    """Return what each table is multiplied by; and tables that are added to each other, with what else is."""
    factors = dict.fromkeys(tables, 0.0)
    heads: dict[str | Node, str | Node] = {}
    others: dict[Node, list[str]] = {}

    def head(of_it: str | Node) -> str | Node:
        while (up := heads.setdefault(of_it, of_it)) != of_it:
            of_it = up
        return of_it

    for node in reachability.program.walk():
        scales = node.op in ("Mul", "Div")
        masked = node.op == "Where"
        if not (scales or masked or of(node).sums or "embedding" in of(node).roles.values()):
            continue
        operands = [_operand(reachability, tables, name) for name in (node.outputs[:1] if scales else node.inputs)]
        for operand in operands:
            if operand.origin in factors:
                factors[str(operand.origin)] = max(factors[str(operand.origin)], operand.factor)
            if operand.origin and not scales:
                heads[head(operand.origin)] = head(node)
        # Words that stand in a row with a picture are of their own size.
        if (masked or of(node).sums) and not (node.op == "Concat" and any(each.picked for each in operands)):
            others[node] = [name for name, each in zip(node.inputs, operands, strict=True) if not each.origin]
    groups: dict[str | Node, tuple[list[str], list[str]]] = {}
    for name in tables:
        groups.setdefault(head(name), ([], []))[0].append(name)
    for node, names in others.items():
        if head(node) in groups:
            groups[head(node)][1].extend(names)
    return {name: factor or 1.0 for name, factor in factors.items()}, list(groups.values())


def _operand(reachability: Reachability, tables: Mapping[str, Constant], name: str) -> _Operand:
    """Say where an operand comes from, through what moves or multiplies all of it."""
    program = reachability.program
    factor, picked = 1.0, False
    while name not in tables:
        if name not in program.producers:
            return _Operand()
        node, _ = program.producers[name]
        if of(node).sums:
            return _Operand(node)
        numbers = [number(program.constants, each) for each in node.inputs]
        if of(node).move in _MOVES or node.op in GATHERS:
            picked = picked or (node.op in GATHERS and node not in program.static)
            name = node.inputs[0]
        elif node.op == "Mul" and (given := [each for each in numbers if each]):
            factor, name = factor * given[0], node.inputs[numbers.index(None) if None in numbers else 0]
        elif node.op == "Div" and numbers[1]:
            factor, name = factor / numbers[1], node.inputs[0]
        else:
            return _Operand()
    return _Operand(name, abs(factor), picked)


def _beside(reachability: Reachability, tables: Collection[str], others: Collection[str]) -> bool:
    """Say whether something learned is added to tables that does not itself come from them."""
    made = [name for name in others if name in reachability.learned]
    return not set(made) <= after(reachability.program, set(tables))
