"""Norms: running statistics that can be written, and norms that exporters write out, with what scales and shifts them.

    x - mean(x) over the axes, divided by sqrt(mean of its squares + epsilon), * gamma, + beta     (PyTorch, LayerNorm)
    x * reciprocal(sqrt(mean(x^2) + epsilon)) * gamma                                              (RMSNorm)
    x * (rsqrt(var + epsilon) * gamma) + (beta - mean * (rsqrt(var + epsilon) * gamma))            (TensorFlow)

A norm operator without parameters of its own, as the InstanceNormalization that PyTorch writes for a GroupNorm, may be
followed by them too. Running statistics are written only where nothing else reads them, and only where what comes
before the norm changes: else those that are stored are right, or were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from onnx_lsuv.errors import ModelError
from onnx_lsuv.operators import WHOLE, of
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Node, Program, number
from onnx_lsuv.roles.biases import holders
from onnx_lsuv.roles.products import Patterns, Skipped, uses
from onnx_lsuv.roles.reachability import after
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace

_PASS = WHOLE | {"casts"}
_UP = 6  # operators between a mean of squares and its root: an epsilon, a Cast, a Clip, a division


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A BatchNormalization whose running statistics can be written."""

    node: Node
    mean: str  # constants
    var: str


def find_norms(program: Program) -> tuple[tuple[Norm, ...], tuple[Skipped, ...]]:
    """Return the BatchNormalizations whose statistics can be written, and those that keep the stored ones."""
    found: list[Norm] = []
    kept: list[Skipped] = []
    for node in program.walk():
        if node.op != "BatchNormalization":
            continue
        _check_channels(program, node)
        mean, var = (_whole(program, node.inputs[i]) for i in (3, 4))
        if node.attributes.integer("spatial", 1) == 0:
            kept.append(Skipped(node, None, None, "type", "statistics of each position (spatial=0) are not calibrated"))
        elif node in program.old_scans:
            kept.append(Skipped(node, None, None, "operator", "it stands in a Scan of opset 8"))
        elif mean is None or var is None or mean == var:
            kept.append(Skipped(node, None, None, "computed", "the statistics are not two constants of their own"))
        else:
            found.append(Norm(node, mean, var))
    norms = []
    for norm in found:
        mates = {(n.node, i) for n in found if (n.mean, n.var) == (norm.mean, norm.var) for i in (3, 4)}
        if all(use in mates for name in (norm.mean, norm.var) for use in uses(program, name)):
            norms.append(norm)
        else:
            label = program.constants[norm.mean].label
            detail = "something else reads the running mean or variance too, so the stored values stay"
            kept.append(Skipped(norm.node, label, None, "tied", detail))
    return tuple(norms), tuple(kept)


def changing(
    program: Program, norms: Sequence[Norm], changed: Set[str], patterns: Patterns, *, recalibrate: bool
) -> tuple[tuple[Norm, ...], tuple[Skipped, ...]]:
    """Return the norms whose statistics are to be calibrated, and why the others keep theirs.

    Norms that share their statistics are calibrated together or not at all.

    Args:
        program: all of it.
        norms: those whose statistics can be written.
        changed: the constants that change otherwise.
        patterns: norms that it names are calibrated, those that it excludes are not.
        recalibrate: calibrate also where nothing changes before a norm.
    """
    label = {name: program.constants[name].label for norm in norms for name in (norm.mean, norm.var)}
    # Each is asked, so that a pattern that names it has met what it means.
    names = {norm: (norm.node.label, label[norm.mean], label[norm.var]) for norm in norms}
    barred = {norm.mean for norm in norms if patterns.excluded(*names[norm])}
    free = [norm for norm in norms if norm.mean not in barred]
    # There is nothing that they could keep.
    absent = {norm.mean for norm in free if program.is_absent(norm.mean) or program.is_absent(norm.var)}
    written: set[str] = set()
    while True:
        values = after(program, changed | written)
        hit = [norm for norm in free if recalibrate or norm.node.inputs[0] in values or norm.mean in absent]
        found = {name for norm in hit for name in (norm.mean, norm.var)}
        # What one of several norms sets changes what comes after the others.
        if found <= written:
            break
        written = found
    # Who names one norm means this one, so that it changes nothing for those after it.
    written |= {norm.mean for norm in free if patterns.named(*names[norm])}
    kept = []
    for norm in norms:
        if norm.mean in barred:
            kept.append(Skipped(norm.node, label[norm.mean], None, "excluded", "excluded by the user"))
        elif norm.mean not in written:
            kept.append(Skipped(norm.node, label[norm.mean], None, "unchanged", "no changed weight lies before it"))
    return tuple(norm for norm in norms if norm.mean in written), tuple(kept)


def _check_channels(program: Program, node: Node) -> None:
    """Raise ModelError where the constants of a BatchNormalization differ in their number of channels."""
    constants = [program.constants[name] for name in node.inputs[1:] if name in program.constants]
    if len({constant.dims for constant in constants}) > 1:
        found = ", ".join(f"{constant.label!r} {list(constant.dims)}" for constant in constants)
        raise ModelError(
            f"The scale, bias, mean and variance of the BatchNormalization {node.label!r} should have the same dims, "
            f"but they are {found}: the model is broken; export it again."
        )


def _whole(program: Program, name: str) -> str | None:
    """Return the one constant that an operand is, wholly."""
    source = trace(program, name)
    if isinstance(source, Source) and not source.partial and not source.rounding and holders(program, name):
        return source.constant
    return None


def is_norm_scale(program: Program, mul: Node, position: int) -> bool:
    """Say whether an operand of a Mul scales something normalised, or what normalises."""
    other = _maker(program, mul.inputs[1 - position])
    return _is_normal(program, other) or _is_inverse_root(program, other)


def is_norm_bias(program: Program, node: Node, position: int) -> bool:
    """Say whether an operand of an Add or Sub is added to something normalised, scaled or not."""
    other = _maker(program, node.inputs[1 - position])
    factors = _operands(program, other, "Mul")
    if node.op_type == "Add":
        return _is_normal(program, other) or any(_is_normal(program, factor) for factor in factors)
    return position == 0 and any(_is_gain(program, factor) for factor in factors)


def _maker(program: Program, name: str) -> Node | None:
    """Return the node that makes a value, before operators that only move it."""
    return next((node for node in program.makers(name) if of(node).move not in _PASS), None)


def _operands(program: Program, node: Node | None, op: str) -> list[Node | None]:
    """Return what makes the operands of a node of this kind; none of any other node."""
    return [_maker(program, name) for name in node.inputs] if node is not None and node.op == op else []


def _is_normal(program: Program, node: Node | None) -> bool:
    """Say whether a node normalises: x / root, or x times one over it."""
    if node is None or of(node).norm:
        return node is not None
    if node.op == "Div":
        return node.inputs[0] not in program.constants and _is_root(program, _maker(program, node.inputs[1]))
    return any(_is_gain(program, factor) for factor in _operands(program, node, "Mul"))


def _is_gain(program: Program, node: Node | None) -> bool:
    """Say whether a node makes one over a root, perhaps times a constant."""
    if _is_inverse_root(program, node):
        return True
    scaled = node is not None and any(name in program.constants for name in node.inputs)
    return scaled and any(_is_inverse_root(program, factor) for factor in _operands(program, node, "Mul"))


def _is_inverse_root(program: Program, node: Node | None) -> bool:
    if node is None:
        return False
    if node.op == "Reciprocal" or (node.op == "Div" and node.inputs[0] in program.constants):
        return _is_root(program, _maker(program, node.inputs[-1]))
    return _is_power(program, node, -0.5) and _has_mean(program, node.inputs[0])


def _is_root(program: Program, node: Node | None) -> bool:
    root = node is not None and (node.op == "Sqrt" or _is_power(program, node, 0.5))
    return node is not None and root and _has_mean(program, node.inputs[0])


def _is_power(program: Program, node: Node, exponent: float) -> bool:
    return node.op == "Pow" and number(program.constants, node.inputs[1]) == exponent


def _has_mean(program: Program, name: str) -> bool:
    """Say whether a value comes from a reduction, a few operators back."""
    todo = [name]
    for _ in range(_UP):
        makers = [program.producers[each][0] for each in todo if each in program.producers]
        if any(node.domain in DEFAULT_DOMAINS and node.op_type.startswith("Reduce") for node in makers):
            return True
        todo = [each for node in makers for each in node.inputs]
    return False
