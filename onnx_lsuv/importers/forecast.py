"""What trains where: how many of a model's weights each importer makes trainable, and what blocks the others.

The answer comes from one walk over the skeleton and the plan; no weight is read and no framework is needed. It holds
for the file that onnx-lsuv saves, in which weights that Constant nodes held are initializers. Whether the portable form
is better is seen by reading that form the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onnx import TensorProto, defs

from onnx_lsuv.importers.table import IMPORTERS, KINDS, Importer
from onnx_lsuv.importers.traits import Traits, counted, initializers, stored_nodes, traits
from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, walk
from onnx_lsuv.program.program import DEFAULT_DOMAINS


@dataclass(frozen=True, slots=True)
class Finding:
    """What stands in an importer's way, or is worth knowing."""

    kind: str  # a key of importers.KINDS
    detail: str
    effect: str  # "fails": nothing trains; "blocks": some weights stay constants; "note": no obstacle

    @property
    def text(self) -> str:
        """The sentence of its kind, and the detail."""
        return f"{KINDS[self.kind]}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How an importer takes one form of a file."""

    trainable: int  # of the layers' weights
    weights: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, with the sentence of each finding."""
        return {**asdict(self), "findings": [{**asdict(each), "text": each.text} for each in self.findings]}


@dataclass(frozen=True, slots=True)
class Trains:
    """What an importer makes of a file as it is, and in its portable form where that was asked for."""

    importer: str
    framework: str
    version: str
    date: str  # when this version was measured
    as_is: Reading
    portable: Reading | None

    @property
    def cured(self) -> bool:
        """Whether the portable form trains more of the weights."""
        return self.portable is not None and self.portable.trainable > self.as_is.trainable

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        forms = {"as_is": self.as_is, "portable": self.portable}
        return {**asdict(self), **{name: form and form.as_dict() for name, form in forms.items()}, "cured": self.cured}


def trains(plan: Plan, portable: Plan | None = None) -> tuple[Trains, ...]:
    """Say what trains where.

    Args:
        plan: of the model.
        portable: of its portable form, where that is to be compared.

    Returns:
        One answer for each importer of `importers.IMPORTERS`, in that order.
    """
    readings = [_read_all(each) for each in (plan, portable) if each is not None]
    return tuple(
        Trains(i.name, i.framework, i.version, i.date, readings[0][name], readings[1][name] if portable else None)
        for name, i in IMPORTERS.items()
    )


@dataclass(frozen=True, slots=True)
class _File:
    """What the importers are asked about, found once."""

    plan: Plan
    own: frozenset[str]  # the initializers of the saved main graph
    traits: Traits
    operators: Mapping[tuple[str, int], None]  # (name with its domain, since_version), in the file's order
    path: Mapping[str, None]  # operators between a weight and an output


def _read_all(plan: Plan) -> dict[str, Reading]:
    own = initializers(plan)
    file = _File(plan, own, traits(plan, own), _operators(plan, own), _path(plan))
    return {name: _read(file, importer) for name, importer in IMPORTERS.items()}


def _read(file: _File, importer: Importer) -> Reading:
    plan = file.plan
    findings = [*_window(file, importer), *_lacking(file, importer)]
    findings += [Finding(*file.traits[t], "fails") for t in file.traits if t in importer.refuses]
    reasons: dict[str, list[str]] = {}
    trainable = 0
    for weight in plan.weights.values():
        found = [_held(file, layer, importer) for layer in weight.layers]
        if None in found:
            trainable += 1
        elif found[0] is not None:
            reasons.setdefault(found[0][0], []).append(found[0][1])
    findings += [Finding(kind, counted(details), "blocks") for kind, details in reasons.items()]
    findings += [Finding(*file.traits[t], "note") for t in file.traits if t in importer.remarks]
    if any(f.effect == "fails" for f in findings):
        trainable = 0
    return Reading(trainable, len(plan.weights), tuple(findings))


def _window(file: _File, importer: Importer) -> Iterable[Finding]:
    model = file.plan.program.model.proto
    for kind, found, window in (
        ("opset", file.plan.program.opset, importer.opsets),
        ("ir", model.ir_version, importer.ir),
    ):
        if window is not None and not window[0] <= found <= window[1]:
            yield Finding(kind, f"{found}, expected {window[0]} to {window[1]}", "fails")
    if importer.domains is not None:
        known = importer.domains | DEFAULT_DOMAINS
        functions = {f.domain for f in model.functions}
        unknown = [o.domain for o in model.opset_import if o.domain not in known | functions]
        if unknown:
            yield Finding("domains", counted(unknown), "fails")


def _lacking(file: _File, importer: Importer) -> Iterable[Finding]:
    """Find the operators that an importer lacks, and those that it cannot train through."""
    lacking = []
    if importer.operators is not None:
        own = {f.name for f in file.plan.program.model.proto.functions}
        for name, version in file.operators:
            known = importer.operators.get(name.removeprefix("com.microsoft.") if importer.domains else name)
            if known is None and name.rpartition(".")[2] not in own:
                lacking.append(name)
            elif known is not None and importer.versions and version not in known:
                lacking.append(f"{name}-{version}")
    if lacking:
        yield Finding("operator", counted(lacking), "fails")
    stuck = [
        name
        for name in file.path
        if name in importer.impassable or (importer.gradients is not None and name not in importer.gradients)
    ]
    if stuck:
        yield Finding("gradient", counted(stuck), "fails")


def _held(file: _File, layer: Layer, importer: Importer) -> tuple[str, str] | None:
    """Return why a layer's weight does not become a parameter, as kind and detail; None where it does."""
    node, source, constants = layer.node, layer.source, file.plan.program.constants
    if not file.own.issuperset(source.constants):
        return "scope", constants[source.constant].scope
    if importer.parameters is None:
        return None
    if node.op not in importer.parameters:
        return "buffer", node.op
    if node.scope != "main":
        return "scope", node.scope
    between = [*source.path, *(["Add"] if layer.fixed_term is not None else [])]
    if between and (importer.direct or layer.fixed_term is not None or source.computed):
        return "path", f"{' '.join(between)} before {node.op}"
    if node.op == "Gemm" and importer.name == "onnx2torch":
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        if layer.position != 1 or node.int_attribute("transA", 0):
            return "operand", "Gemm with its weight on the left, or transA"
        if bias and (bias not in file.own or len(constants[bias].dims) != 1):
            return "operand", "Gemm with a bias that is no vector"
    if layer.position != 1 and node.op in ("Gemm", "MatMul"):
        return "operand", f"{node.op} with its weight on the left"
    return None


def _operators(plan: Plan, own: frozenset[str]) -> dict[tuple[str, int], None]:
    """Return the operators of the saved file with the version that its opset gives them."""
    program = plan.program
    gone = {c.label for name in own if (c := program.constants[name]).origin != "initializer"}
    found: dict[tuple[str, int], None] = {}
    for node in stored_nodes(program.model.proto.graph):
        if node.op_type in ("Constant", "ConstantOfShape") and node.output[0] in gone:
            continue
        if node.domain not in DEFAULT_DOMAINS:
            found[f"{node.domain}.{node.op_type}", 1] = None
            continue
        try:
            version = defs.get_schema(node.op_type, program.opset).since_version
        except defs.SchemaError:
            version = program.opset
        found[node.op_type, version] = None
    return found


def _path(plan: Plan) -> dict[str, None]:
    """Return the operators that training goes back through: those between a layer's weight and an output."""
    program = plan.program
    live = {name for layer in plan.layers for name in layer.source.constants}
    fed: list[Node] = []
    for node in program.body.nodes:
        if live & _reads(node):
            fed.append(node)
            if not of(node).no_gradient and not _to_integers(node):
                live.update(node.outputs)
    wanted = {v.name for v in program.body.outputs}
    found: dict[str, None] = {}
    for node in reversed(fed):
        if wanted & set(node.outputs) and not of(node).no_gradient and not _to_integers(node):
            wanted |= _reads(node)
            found[node.op.removeprefix("com.microsoft.")] = None
    return dict.fromkeys(reversed(found))


def _reads(node: Node) -> set[str]:
    inner: Sequence[Node] = [each for body in node.bodies.values() for each in walk(body)]
    return {name for each in (node, *inner) for name in each.inputs if name}


def _to_integers(node: Node) -> bool:
    return node.op == "Cast" and node.int_attribute("to", 0) not in (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
    )
