"""What a file still holds of what it learned, after a full restart: every tensor, whatever reads it.

All that is stored in floating point, or quantised, may have been learned, but for what got new values, what evidence
says to be fixed or a setting (`roles`), and values that are all alike or computed. Where that leaves a doubt, the
tensor counts as remaining.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Set
from functools import partial

import numpy as np
from onnx import FunctionProto, NodeProto, SparseTensorProto, TensorProto, TrainingInfoProto

from onnx_lsuv.errors import ModelError
from onnx_lsuv.layers import REASONS, Plan
from onnx_lsuv.lsuv.result import Remaining
from onnx_lsuv.lsuv.settings import Settings
from onnx_lsuv.model import Array, Model, Site, message, nodes, read, tensors
from onnx_lsuv.program import Constant, Node, Program, stored
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES
from onnx_lsuv.roles import Role, is_alike, is_computed

_WIDE = FLOAT_TYPES | {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
# What stands for numbers in steps; shapes, axes and indices are wider.
_CODES = frozenset(
    number
    for name, number in TensorProto.DataType.items()
    if name.startswith(("FLOAT4", "FLOAT6", "FLOAT8")) or name.removeprefix("U") in ("INT2", "INT4", "INT8", "INT16")
)
_BLOB = 1024  # bytes of text
DOUBT = "their use does not tell whether they are trained or belong to the architecture"


def remaining(plan: Plan, settings: Settings, new: Collection[str]) -> tuple[Remaining, ...]:
    """Return the tensors that keep what they may have learned; their values are read.

    Args:
        plan: of the model, with its parameters.
        settings: by which.
        new: constants that get new values.
    """
    program = plan.program
    parts = [program.constants[name] for name in _parts(plan) if name in new]
    found = [Remaining(each.label, each.scope, "a part of it is no layer's") for each in parts]
    coded = {each.node for each in plan.skipped if each.reason in ("quantised", "type")}
    causes = _causes(plan)
    for constant in program.constants.values():
        # An argument of a call is among the tensors below.
        stays = constant.name not in new and constant.site is not None and not _is_settled(plan.roles[constant.name])
        if stays and _may_learn(program, constant, coded):
            cause = causes.get(constant.name) or causes.get(constant.label) or _cause(constant, settings)
            used = constant.name in program.consumers or constant.name in program.exits
            found.append(Remaining(constant.label, constant.scope, cause if used else "nothing reads it"))
    return (*found, *_beside(program))


def _is_settled(role: Role) -> bool:
    """Say whether a role tells that nothing was learned; integers may be codes, and what prepares the input trained."""
    return (role.role == "fixed" and role.evidence != "place") or (role.role == "setting" and role.evidence != "type")


def _causes(plan: Plan) -> dict[str, str]:
    """Return why constants stay, by their names or labels."""
    found = {each.weight: each.detail for each in plan.skipped if each.weight}
    for each in plan.kept_statistics:
        cure = "; --recalibrate sets it from the data" if each.reason == "unchanged" else ""
        found |= dict.fromkeys(each.node.inputs[3:5], each.detail + cure)
    return found | dict.fromkeys(plan.parameters.kept, DOUBT)


def _cause(constant: Constant, settings: Settings) -> str:
    if constant.elem_type not in _WIDE:
        return REASONS["quantised"]
    return REASONS["excluded"] if settings.include or settings.exclude else "nothing gives it a new value"


def _may_learn(program: Program, constant: Constant, coded: Set[Node]) -> bool:
    """Say whether a constant that keeps its values may hold what was learned; some nodes have a weight in codes."""

    def passes(node: Node, position: int) -> bool:
        return position == 0 and node in program.static and node.op_type != "DequantizeLinear"

    codes = constant.elem_type in _CODES or any(
        node in coded or (node is not None and node.op_type == "DequantizeLinear" and at == 0)
        for node, at in (() if constant.elem_type in _WIDE else program.readers(constant.name, passes))
    )
    if not (codes or constant.elem_type in _WIDE) or constant.size <= codes:
        return False
    return _tell(lambda: stored(program, constant.name))


def _tell(values: Callable[[], Array]) -> bool:
    """Say whether values differ from each other and are not computed; those that cannot be read may."""
    try:
        return _differ(values())
    except ModelError:
        return True


def _differ(values: Array) -> bool:
    """Say whether values are not all alike, and not computed."""
    if values.dtype.kind in "fV" and values.dtype.itemsize > 1:
        return not is_computed(values)
    return not is_alike(values)


def _parts(plan: Plan) -> set[str]:
    """Return the constants of which layers use a part only, all of them together."""
    used: dict[str, Array] = {}
    for layer in plan.layers:
        source = layer.source
        if source.partial and not source.computed and len(source.constants) == 1:
            dims = plan.program.constants[source.constant].dims
            size = plan.program.constants[source.constant].size
            places = source.see(np.arange(size).reshape(dims))
            used.setdefault(source.constant, np.zeros(size, np.bool_))[places] = True
    return {name for name, marks in used.items() if not marks.all()}


def tensors_beside(program: Program) -> Iterator[tuple[Site, TensorProto]]:
    """Yield the tensors of several numbers that are no constants of the program: nothing runs them as they stand."""
    known = program.by_site
    found = tensors(program.model.proto)
    return (each for each in found if each[0] not in known and math.prod(each[1].dims) > 1)


def foreign_nodes(model: Model) -> Iterator[tuple[Site, NodeProto]]:
    """Yield the nodes of which only some runtime knows what their attributes hold."""
    return ((site, node) for site, node in nodes(model.proto) if node.domain not in DEFAULT_DOMAINS)


def _beside(program: Program) -> Iterator[Remaining]:
    """Yield the tensors at other sites, and what attributes hold, that may have been learned."""
    model = program.model
    for site, tensor in tensors_beside(program):
        if tensor.data_type in _WIDE | _CODES and _tell(partial(read, model, site)):
            yield _unread(model, site, tensor.name)
    for site, node in foreign_nodes(model):
        for attribute in node.attribute:
            # A blob may be weights in a form that one runtime alone reads.
            if len(attribute.s) > _BLOB or _differ(np.array(attribute.floats or [0], np.float32)):
                yield _unread(model, site, "")


def _unread(model: Model, site: Site, name: str) -> Remaining:
    """Return what is said of values that no node reads as its operand."""
    around = [message(model, site[:length]) for length in range(len(site), 0, -1)]
    holder = next((each for each in around if isinstance(each, NodeProto)), None)
    function = next((each for each in around if isinstance(each, FunctionProto)), None)
    if any(isinstance(each, TrainingInfoProto) for each in around):
        scope, cause = "training_info", "it belongs to the file's own training graphs"
    elif function is not None:
        scope, cause = f"function:{function.name}", "nothing calls its function with it"
    else:
        sparse = any(isinstance(each, SparseTensorProto) for each in around)
        scope, cause = "main", REASONS["sparse" if sparse else "attribute"]
    made = (holder.name or next(iter(holder.output), "")) if holder is not None else ""
    return Remaining(name or made or "(no name)", scope, cause)
