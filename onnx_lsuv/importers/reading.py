"""What trains where: how many of a model's weights each importer makes trainable, and what blocks the others.

The answer comes from the skeleton and the plan; no framework is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnx.numpy_helper import to_array

from onnx_lsuv.architecture import complete
from onnx_lsuv.importers.expected import as_expected
from onnx_lsuv.importers.exporting import other_export
from onnx_lsuv.importers.forms import Form, as_saved, has_vector_bias
from onnx_lsuv.importers.shapes import shapes_of
from onnx_lsuv.importers.table import KINDS, Importer, chosen
from onnx_lsuv.importers.traits import Traits, counted, traits
from onnx_lsuv.layers import Layer, Plan, find_layers
from onnx_lsuv.lsuv import Result
from onnx_lsuv.model import Model, is_hollow
from onnx_lsuv.operators import of
from onnx_lsuv.program import Node, expand, walk
from onnx_lsuv.program.program import DEFAULT_DOMAINS, FLOAT_TYPES


@dataclass(frozen=True, slots=True)
class Finding:
    """What stands in an importer's way, or is worth knowing.

    Attributes:
        kind: a key of `KINDS`, whose sentence `text` begins with.
        detail: where, or of what.
        effect: "fails": nothing trains; "blocks": some weights stay constants; "note": no obstacle.
    """

    kind: str
    detail: str
    effect: str

    @property
    def text(self) -> str:
        """The sentence of its kind, and the detail."""
        return f"{KINDS[self.kind]}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Reading:
    """How an importer takes one form of a file.

    Attributes:
        trainable: how many of the layers' weights become trainable parameters.
        weights: how many there are.
        findings: what blocks the others, and what is worth knowing; each a `Finding`.
    """

    trainable: int
    weights: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, with the sentence of each finding."""
        return {**asdict(self), "findings": [{**asdict(each), "text": each.text} for each in self.findings]}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What an importer makes of a file as it is, and in its portable form.

    Attributes:
        importer: its name.
        framework: what trains then.
        version: of the importer, as it was measured.
        date: when that was.
        as_is: the file as it is; a `Reading`.
        portable: the file in its portable form.
        expected: whether that form was not made: then it trains at least so many.
        export: where that form does not train, arguments of PyTorch's exporter that take off what stops it; else "".
    """

    importer: str
    framework: str
    version: str
    date: str
    as_is: Reading
    portable: Reading
    expected: bool
    export: str

    @property
    def cured(self) -> bool:
        """Whether the portable form trains more of the weights."""
        return self.portable.trainable > self.as_is.trainable

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        forms = {"as_is": self.as_is.as_dict(), "portable": self.portable.as_dict()}
        return {**asdict(self), **forms, "cured": self.cured}


def forecast(
    model: Model | Result | Plan, portable: Model | Result | Plan | None = None, *, importer: str | Iterable[str] = ()
) -> tuple[Forecast, ...]:
    """Say what trains where, from the file alone; nothing is rewritten, and a sample of each weight is read.

    Args:
        model: from `load` or `from_proto`; or a result, of which all layers are meant, or the plan in one.
        portable: the same in its portable form, where that was made; else what it would be is expected.
        importer: the names of those to ask about; all where none is named.

    Returns:
        One answer for each importer, in the order of `IMPORTERS`.

    Raises:
        UsageError: there is no importer of a name.
    """
    rows = chosen(importer)
    saved = _saved(model)
    form = as_expected(saved) if portable is None else _saved(portable)
    as_is, after, found = _read_all(saved, rows), _read_all(form, rows), traits(form)
    exports = {
        name: other_export(
            form, row, {f.kind for f in after[name].findings if f.effect == "fails"}, row.refuses & found.keys()
        )
        for name, row in rows.items()
    }
    return tuple(
        Forecast(name, row.framework, row.version, row.date, as_is[name], after[name], portable is None, exports[name])
        for name, row in rows.items()
    )


def _saved(model: Model | Result | Plan) -> Form:
    model = model.whole_plan if isinstance(model, Result) else model
    plan = model if isinstance(model, Plan) else find_layers(expand(complete(model)))
    few = shapes_of(plan.program.model.proto, lambda tensor: None if is_hollow(tensor) else to_array(tensor))
    names = plan.program.names
    return as_saved(plan, {names[name]: shape for name, shape in few.items() if name in names})


def _read_all(form: Form, rows: Mapping[str, Importer]) -> dict[str, Reading]:
    found, path = traits(form), _path(form.plan)
    return {name: _read(form, found, path, importer) for name, importer in rows.items()}


def _read(form: Form, found: Traits, path: Iterable[str], importer: Importer) -> Reading:
    findings = [*_window(form, importer), *_lacking(form, path, importer)]
    findings += [Finding(*found[t], "fails") for t in found if t in importer.refuses]
    blocked: dict[str, list[str]] = {}
    weights = form.plan.weights.values()
    for weight in weights:
        reasons = [_blocked(form, layer, importer) for layer in weight.layers]
        if reasons[0] is not None and None not in reasons:
            blocked.setdefault(reasons[0][0], []).append(reasons[0][1])
    findings += [Finding(kind, counted(details), "blocks") for kind, details in blocked.items()]
    findings += [Finding(*found[t], "note") for t in found if t in importer.remarks]
    fails = any(each.effect == "fails" for each in findings)
    trainable = 0 if fails else len(weights) - sum(map(len, blocked.values()))
    return Reading(trainable, len(weights), tuple(findings))


def _window(form: Form, importer: Importer) -> Iterable[Finding]:
    for kind, found, window in (("opset", form.plan.program.opset, importer.opsets), ("ir", form.ir, importer.ir)):
        if window is not None and not window[0] <= found <= window[1]:
            yield Finding(kind, f"{found}, expected {window[0]} to {window[1]}", "fails")
    if importer.domains is not None:
        unknown = [domain for domain in form.domains if domain not in importer.domains | DEFAULT_DOMAINS]
        if unknown:
            yield Finding("domains", counted(unknown), "fails")


def _lacking(form: Form, path: Iterable[str], importer: Importer) -> Iterable[Finding]:
    """Find the operators that an importer lacks, and those that it cannot train through."""
    lacking = []
    if importer.operators is not None:
        own = {f.name for f in form.plan.program.model.proto.functions}
        for name, version in form.operators:
            known = importer.operators.get(name.removeprefix("com.microsoft.") if importer.domains else name)
            if known is None and name.rpartition(".")[2] not in own:
                lacking.append(name)
            elif known is not None and importer.versions and version not in known:
                lacking.append(f"{name}-{version}")
    if lacking:
        yield Finding("operator", counted(lacking), "fails")
    stuck = [
        name
        for name in path
        if name in importer.impassable or (importer.gradients is not None and name not in importer.gradients)
    ]
    if stuck:
        yield Finding("gradient", counted(stuck), "fails")


def _blocked(form: Form, layer: Layer, importer: Importer) -> tuple[str, str] | None:
    """Return why a layer's weight does not become a parameter, as kind and detail; None where it does."""
    node, source, program = layer.node, layer.source, form.plan.program
    op = "Gemm" if node in form.gemms else node.op
    if not form.stored.keys() >= set(source.constants):
        return "scope", program.constants[source.constant].scope
    if importer.parameters is None:
        return None
    if op not in importer.parameters:
        return "buffer", op
    if node not in form.main:
        return "scope", node.scope
    if op != node.op:
        return None
    path = () if form.portable and node.inputs[layer.position] in form.stored else source.path
    between = [*path, *(["Add"] if layer.fixed_term is not None else [])]
    if between and (importer.direct or layer.fixed_term is not None or source.computed):
        return "path", f"{' '.join(between)} before {op}"
    if op == "Gemm" and importer.gemm_operands:
        if layer.position != 1 or node.attributes.integer("transA", 0):
            return "operand", "Gemm with its weight on the left, or transA"
        bias = node.inputs[2] if len(node.inputs) > 2 else ""
        if bias and (bias not in form.stored or not has_vector_bias(form, node)):
            return "operand", "Gemm with a bias that is no vector"
    if layer.position != 1 and op in ("Gemm", "MatMul"):
        return "operand", f"{op} with its weight on the left"
    return None


def _path(plan: Plan) -> Iterable[str]:
    """Return the operators that training goes back through: those between a layer's weight and an output."""
    program = plan.program
    live = {name for layer in plan.layers for name in layer.source.constants}
    fed: list[Node] = []
    for node in program.body.nodes:
        if live & _reads(node):
            fed.append(node)
            if _has_gradient(node):
                live.update(node.outputs)
    wanted = {v.name for v in program.body.outputs}
    found: dict[str, None] = {}
    for node in reversed(fed):
        if wanted & set(node.outputs) and _has_gradient(node):
            wanted |= _reads(node)
            found[node.op.removeprefix("com.microsoft.")] = None
    return list(reversed(found))


def _reads(node: Node) -> set[str]:
    inner = [each for body in node.bodies.values() for each in walk(body)]
    return {name for each in (node, *inner) for name in each.inputs if name}


def _has_gradient(node: Node) -> bool:
    return not of(node).no_gradient and (node.op != "Cast" or node.attributes.integer("to", 0) in FLOAT_TYPES)
