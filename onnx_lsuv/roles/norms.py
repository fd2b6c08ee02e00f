"""The running statistics of norms: they are written only where nothing else reads them."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_lsuv.errors import ModelError
from onnx_lsuv.program.program import Node, Program
from onnx_lsuv.roles.biases import holders
from onnx_lsuv.roles.products import Skipped, uses
from onnx_lsuv.sources.moves import Source
from onnx_lsuv.sources.tracing import trace


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
        if node.int_attribute("spatial", 1) == 0:
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
