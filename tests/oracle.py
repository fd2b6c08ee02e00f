"""What the package claims, found out without it: nothing here imports `onnx_lsuv`.

measure          mean and variance of values of a file, by a plain ONNX Runtime session and NumPy
forward          a small network in NumPy, float64
changed_tensors  which tensors differ between two models, all else being equal
layer_values     the value that decides a layer's scale, by its node's name
orthonormal      how far matrices are from orthonormal up to a scale
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnxruntime
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]
ORT_IR = 13  # the newest that ONNX Runtime 1.31 reads


def loaded(source: str | Path | bytes | ModelProto) -> ModelProto:
    """Return a model of one's own, external data read."""
    if isinstance(source, ModelProto):
        copy = ModelProto()
        copy.CopyFrom(source)
        return copy
    if isinstance(source, bytes):
        return onnx.load_from_string(source)
    return onnx.load(str(source))


# ---------------------------------------------------------------------------------------------------------- measure


@dataclass(frozen=True)
class Moments:
    """Of one value over all batches."""

    count: int
    mean: float
    var: float


def pooled(parts: Sequence[Array]) -> Moments:
    """Return the moments of all parts together, in float64."""
    arrays = [np.asarray(part, np.float64).reshape(-1) for part in parts]
    count = sum(a.size for a in arrays)
    if count == 0:
        return Moments(0, math.nan, math.nan)
    mean = sum(float(a.sum()) for a in arrays) / count
    return Moments(count, mean, sum(float(((a - mean) ** 2).sum()) for a in arrays) / count)


def inlined(model: ModelProto) -> ModelProto:
    """Expand local functions; their bodies are read in the model's opset, as ONNX Runtime does."""
    if not model.functions:
        return model
    for function in model.functions:
        known = {o.domain: o.version for o in model.opset_import}
        for entry in function.opset_import:
            if entry.domain in known:
                entry.version = known[entry.domain]
            else:
                model.opset_import.add(domain=entry.domain, version=entry.version)
    return onnx.inliner.inline_local_functions(model)


def without_chance(graph: GraphProto) -> None:
    """Make Dropout an identity."""
    for node in graph.node:
        if node.op_type == "Dropout" and node.domain in ("", "ai.onnx"):
            node.op_type = "Identity"
            del node.input[1:], node.output[1:], node.attribute[:]
        for inner in graphs_of(node):
            without_chance(inner)


def _before_activations(graph: GraphProto) -> None:
    """Measure a convolution that ONNX Runtime fused with its activation before that: the plain node takes its name."""
    for node in [n for n in graph.node if n.op_type == "FusedConv"]:
        name = node.output[0]
        for other in graph.node:
            other.input[:] = [f"{n} fused" if n == name else n for n in other.input]
        node.output[0] = f"{name} fused"
        plain = graph.node.add()
        plain.CopyFrom(node)
        plain.op_type, plain.domain = "Conv", ""
        plain.output[0] = name
        kept = [a for a in plain.attribute if not a.name.startswith("activation")]
        del plain.attribute[:], plain.input[3:]
        plain.attribute.extend(kept)


def graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


def _expose(graph: GraphProto, name: str, salt: str) -> tuple[str, bool] | None:
    """Make a value of a graph or of one inside it visible in the graph; say whether it is one row an iteration."""
    if any(name in node.output for node in graph.node):
        return name, False
    for at, node in enumerate(graph.node):
        for attribute in node.attribute:
            if attribute.type != AttributeProto.GRAPH:
                continue
            found = _expose(attribute.g, name, salt)
            if found is None:
                continue
            inner, rows = found
            assert not rows, f"{name!r} lies in a loop inside a scope, which this oracle does not measure"
            new, flat = f"{salt}{len(node.output)}_{at}", f"{salt}flat_{at}"
            attribute.g.node.append(helper.make_node("Cast", [inner], [f"{flat}_d"], to=TensorProto.DOUBLE))
            shape = helper.make_node("Constant", [], [f"{flat}_s"], value=numpy_helper.from_array(np.array([-1])))
            attribute.g.node.append(shape)
            attribute.g.node.append(helper.make_node("Reshape", [f"{flat}_d", f"{flat}_s"], [flat]))
            attribute.g.output.append(ValueInfoProto(name=flat, type=_double()))
            if node.op_type == "If":
                for other in node.attribute:
                    if other.type == AttributeProto.GRAPH and other is not attribute and other.name != attribute.name:
                        empty = numpy_helper.from_array(np.zeros(0))
                        other.g.node.append(helper.make_node("Constant", [], [f"{flat}_e"], value=empty))
                        other.g.output.append(ValueInfoProto(name=f"{flat}_e", type=_double()))
            else:
                assert node.op_type in ("Loop", "Scan"), node.op_type
                for given in node.attribute:
                    if given.name in ("scan_output_axes", "scan_output_directions"):
                        given.ints.append(0)
                # Outputs that the node leaves out must be there to count by.
                while len(node.output) < len(attribute.g.output) - 1 - (node.op_type == "Loop"):
                    node.output.append("")
            node.output.append(new)
            return new, node.op_type != "If"
    return None


def _double() -> onnx.TypeProto:
    result = onnx.TypeProto()
    result.tensor_type.elem_type = TensorProto.DOUBLE
    return result


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """Open a model with nothing optimised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    for node in model.graph.node:
        node.name = ""  # ONNX Runtime wants them to differ, ONNX does not
    model.ir_version = min(model.ir_version, ORT_IR)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def values(
    source: str | Path | bytes | ModelProto, batches: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> dict[str, list[Array]]:
    """Return values of a model for each batch; of a loop body's value the first iteration that varies."""
    if not names:
        return {}
    model = inlined(loaded(source))
    without_chance(model.graph)
    _before_activations(model.graph)
    places: dict[str, tuple[str, bool]] = {}
    outputs: dict[str, None] = {}
    for i, name in enumerate(names):
        found = _expose(model.graph, name, f"oracle{i}_")
        assert found is not None, f"no node makes {name!r}"
        places[name] = found
        outputs[found[0]] = None
    del model.graph.output[:]
    model.graph.output.extend(ValueInfoProto(name=name) for name in outputs)
    run = session(model)
    result: dict[str, list[Array]] = {name: [] for name in names}
    for batch in batches:
        got = dict(zip(outputs, run.run(list(outputs), dict(batch)), strict=True))
        for name, (place, rows) in places.items():
            array = got[place]
            if rows:
                array = next((row for row in array if row.size and row.var() > 0), array[:1])
            result[name].append(array)
    return result


def measure(
    source: str | Path | bytes | ModelProto, batches: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> dict[str, Moments]:
    """Return the moments of values over all batches, by ONNX Runtime with nothing optimised and NumPy in float64."""
    return {name: pooled(parts) for name, parts in values(source, batches, names).items()}


def scopes(model: ModelProto) -> Iterator[tuple[GraphProto, str]]:
    """Yield every graph with the path of its name as reports write it: "node.then_branch/..."."""

    def inside(graph: GraphProto, prefix: str) -> Iterator[tuple[GraphProto, str]]:
        yield graph, prefix
        for i, node in enumerate(graph.node):
            made = next((name for name in node.output if name), f"{node.op_type}_{i}")
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH and node.op_type in ("If", "Loop", "Scan"):
                    yield from inside(attribute.g, f"{prefix}{node.name or made}.{attribute.name}/")

    yield from inside(model.graph, "")


def layer_values(model: ModelProto) -> dict[str, str]:
    """Return for every node of every graph the value that a layer there is measured at, by the node's reported name.

    That is the node's first output, or that of an Add of a constant vector which alone reads it.
    """
    result: dict[str, str] = {}
    outer: dict[str, tuple[int, ...]] = {}
    for graph, prefix in scopes(model):
        constants = {t.name: tuple(t.dims) for t in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                constants[node.output[0]] = tuple(node.attribute[0].t.dims)
            if node.op_type in ("Identity", "Reshape") and node.input[0] in constants:
                constants[node.output[0]] = constants[node.input[0]]
        outer |= constants
        readers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in _reads(node):
                readers.setdefault(name, []).append(node)
        leaving = {v.name for v in graph.output}
        for node in graph.node:
            made = next((name for name in node.output if name), None)
            if made is None:
                continue
            value = made
            then = readers.get(made, [])
            has_bias = len(node.input) > 2 and node.op_type != "MatMul"
            if len(then) == 1 and then[0].op_type == "Add" and made not in leaving and not has_bias:
                other = [name for name in then[0].input if name != made]
                dims = outer.get(other[0]) if other else None
                if dims is not None and sum(d != 1 for d in dims) <= 1:
                    value = then[0].output[0]
            label = node.name or made
            key = prefix + label
            if key in result:
                key = f"{prefix}{label}#{made}"
            result[key] = value
    return result


def _reads(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for graph in graphs_of(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (v.name for v in graph.output)


# ---------------------------------------------------------------------------------------------------------- forward


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def conv(x: Array, w: Array, b: Array | None, **given: Any) -> Array:
    """Convolve (N, C, ...) with (M, C/g, k...)."""
    n = w.ndim - 2
    groups = given.get("group", 1)
    strides, dilations = given.get("strides") or [1] * n, given.get("dilations") or [1] * n
    pads = given.get("pads") or [0] * 2 * n
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:n], pads[n:], strict=True)])
    size = [(x.shape[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1 for i in range(n)]
    m, c = w.shape[0] // groups, w.shape[1]
    out = np.zeros((x.shape[0], w.shape[0], *size))
    for g in range(groups):
        for tap in product(*(range(k) for k in w.shape[2:])):
            cut = tuple(
                slice(t * d, t * d + s * (length - 1) + 1, s)
                for t, d, s, length in zip(tap, dilations, strides, size, strict=True)
            )
            part = x[(slice(None), slice(g * c, (g + 1) * c), *cut)]
            kernel = w[(slice(g * m, (g + 1) * m), slice(None), *tap)]
            out[:, g * m : (g + 1) * m] += np.einsum("mc,nc...->nm...", kernel, part)
    return out if b is None else out + b.reshape(1, -1, *[1] * n)


def conv_transpose(x: Array, w: Array, b: Array | None, **given: Any) -> Array:
    """Spread (N, C, ...) by (C, M/g, k...)."""
    n = w.ndim - 2
    groups = given.get("group", 1)
    strides, dilations = given.get("strides") or [1] * n, given.get("dilations") or [1] * n
    pads, extra = given.get("pads") or [0] * 2 * n, given.get("output_padding") or [0] * n
    full = [(x.shape[2 + i] - 1) * strides[i] + dilations[i] * (w.shape[2 + i] - 1) + 1 + extra[i] for i in range(n)]
    c, m = w.shape[0] // groups, w.shape[1]
    out = np.zeros((x.shape[0], groups * m, *full))
    for g in range(groups):
        for tap in product(*(range(k) for k in w.shape[2:])):
            cut = tuple(
                slice(t * d, t * d + s * (length - 1) + 1, s)
                for t, d, s, length in zip(tap, dilations, strides, x.shape[2:], strict=True)
            )
            kernel = w[(slice(g * c, (g + 1) * c), slice(None), *tap)]
            out[(slice(None), slice(g * m, (g + 1) * m), *cut)] += np.einsum(
                "cm,nc...->nm...", kernel, x[:, g * c : (g + 1) * c]
            )
    out = out[(slice(None), slice(None), *(slice(p, f - q) for p, q, f in zip(pads[:n], pads[n:], full, strict=True)))]
    return out if b is None else out + b.reshape(1, -1, *[1] * n)


def _apply(node: NodeProto, x: list[Any]) -> Any:
    a = _attributes(node)
    match node.op_type:
        case "Conv":
            return conv(x[0], x[1], x[2] if len(x) > 2 else None, **a)
        case "ConvTranspose":
            return conv_transpose(x[0], x[1], x[2] if len(x) > 2 else None, **a)
        case "Gemm":
            left = x[0].T if a.get("transA") else x[0]
            right = x[1].T if a.get("transB") else x[1]
            product_ = a.get("alpha", 1.0) * (left @ right)
            return product_ + a.get("beta", 1.0) * x[2] if len(x) > 2 and x[2] is not None else product_
        case "MatMul":
            return np.matmul(x[0], x[1])
        case "BatchNormalization":
            scale, bias, mean, var = (v.reshape(1, -1, *[1] * (x[0].ndim - 2)) for v in x[1:5])
            return (x[0] - mean) / np.sqrt(var + a.get("epsilon", 1e-5)) * scale + bias
        case "Relu":
            return np.maximum(x[0], 0)
        case "Tanh":
            return np.tanh(x[0])
        case "Add":
            return x[0] + x[1]
        case "Mul":
            return x[0] * x[1]
        case "Identity" | "Dropout":
            return x[0]
        case "Cast":
            return np.asarray(x[0], np.float64)
        case "Flatten":
            axis = a.get("axis", 1)
            return x[0].reshape(math.prod(x[0].shape[:axis]), -1)
        case "GlobalAveragePool":
            return x[0].mean(axis=tuple(range(2, x[0].ndim)), keepdims=True)
        case "Transpose":
            return x[0].transpose(a.get("perm"))
        case "Reshape":
            shape = [int(v) for v in (x[1] if len(x) > 1 else a["shape"])]
            return x[0].reshape([x[0].shape[i] if d == 0 else d for i, d in enumerate(shape)])
    raise NotImplementedError(node.op_type)


def forward(model: ModelProto, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Return every value of a small network without scopes inside, in float64."""
    known: dict[str, Any] = {t.name: _wide(numpy_helper.to_array(t)) for t in model.graph.initializer}
    known |= {name: _wide(array) for name, array in batch.items()}
    waiting = list(model.graph.node)
    while waiting:
        ready = next((n for n in waiting if all(not name or name in known for name in n.input)), None)
        assert ready is not None, "a node reads what none makes"
        waiting.remove(ready)
        if ready.op_type == "Constant":
            known[ready.output[0]] = _wide(numpy_helper.to_array(ready.attribute[0].t))
        else:
            known[ready.output[0]] = _apply(ready, [known[name] if name else None for name in ready.input])
    return known


def _wide(array: Array) -> Array:
    return array if array.dtype.kind in "iub" else np.asarray(array, np.float64)


def forward_moments(
    model: ModelProto, batches: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> dict[str, Moments]:
    """Return the moments of values over all batches, by NumPy alone."""
    runs = [forward(model, batch) for batch in batches]
    return {name: pooled([run[name] for run in runs]) for name in names}


# ---------------------------------------------------------------------------------------------------------- changes


def changed_tensors(before: ModelProto, after: ModelProto, changes: Iterable[Any] = ()) -> set[str]:
    """Return the names of tensors whose values differ; everything else must be equal.

    A Constant or ConstantOfShape may have become an initializer of the same name (and below IR version 4 an input).
    What `changes`, those of a result, say of tensors that were parted is taken back before anything is compared.
    """
    one, two = loaded(before), loaded(after)
    parted = {each.tensor: each.parted_from for each in changes if each.parted_from is not None}
    _join(
        one, {each.tensor: parted[each.tensor] for each in changes if each.became_initializer and each.tensor in parted}
    )
    _join(two, parted)
    changed = set(parted)
    _same_graph(one.graph, two.graph, changed, one.ir_version)
    assert len(one.functions) == len(two.functions), "functions"
    for f, g in zip(one.functions, two.functions, strict=True):
        assert len(f.node) == len(g.node), f"nodes of function {f.name}"
        for n, m in zip(f.node, g.node, strict=True):
            _same_node(n, m, changed, one.ir_version)
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True), (
        "something beside tensor values changed"
    )
    return changed


def _join(model: ModelProto, parted: Mapping[str, str]) -> None:
    """Let tensors that are parted from others, by name, be those again, and Identity nodes that hand others on so."""
    scopes = [model.graph]
    for graph in scopes:
        scopes += [inner for node in graph.node for inner in graphs_of(node)]
        handing = [n for n in graph.node if n.output[0] in parted]
        assert all((n.op_type, list(n.input)) == ("Identity", [parted[n.output[0]]]) for n in handing)
        tensors = [t for t in graph.initializer if t.name in parted]
        listed = [value for value in graph.input if value.name in parted]
        assert len(listed) == (len(tensors) if model.ir_version < 4 else 0)
        for found, held in ((handing, graph.node), (tensors, graph.initializer), (listed, graph.input)):
            for each in found:
                held.remove(each)
        for node in graph.node:
            node.input[:] = [parted.get(name, name) for name in node.input]


def _same_graph(one: GraphProto, two: GraphProto, changed: set[str], ir: int) -> None:
    kept = {tuple(n.output) for n in two.node}
    gone = [n for n in one.node if tuple(n.output) not in kept]
    for node in gone:
        assert node.op_type in ("Constant", "ConstantOfShape"), f"{node.op_type} {node.name!r} is gone"
        (name,) = node.output
        tensor = [t for t in two.initializer if t.name == name]
        assert len(tensor) == 1, f"{name!r} did not become an initializer"
        assert not any(t.name == name for t in one.initializer)
        two.initializer.remove(tensor[0])
        listed = [v for v in two.input if v.name == name]
        assert len(listed) == (ir < 4), f"{name!r} among the inputs at IR {ir}"
        for value in listed:
            two.input.remove(value)
        one.node.remove(node)
        changed.add(name)
    assert [n.output for n in one.node] == [n.output for n in two.node], "order of nodes"
    assert [t.name for t in one.initializer] == [t.name for t in two.initializer], "initializers"
    for t, u in zip(one.initializer, two.initializer, strict=True):
        _same_tensor(t, u, t.name, changed)
    for n, m in zip(one.node, two.node, strict=True):
        _same_node(n, m, changed, ir)


_SCALARS = ("value_float", "value_floats")


def _same_node(one: NodeProto, two: NodeProto, changed: set[str], ir: int) -> None:
    assert len(one.attribute) == len(two.attribute), f"attributes of {one.name!r}"
    for a, b in zip(one.attribute, two.attribute, strict=True):
        if a.type == AttributeProto.GRAPH and b.type == AttributeProto.GRAPH:
            _same_graph(a.g, b.g, changed, ir)
        elif one.op_type == "Constant" and a.name == b.name == "value":
            _same_tensor(a.t, b.t, one.output[0], changed)
        elif one.op_type == "Constant" and a.name == b.name and a.name in _SCALARS and a != b:
            assert len(a.floats) == len(b.floats)
            changed.add(one.output[0])
            b.CopyFrom(a)


def _same_tensor(one: TensorProto, two: TensorProto, name: str, changed: set[str]) -> None:
    assert (one.name, one.dims, one.data_type) == (two.name, two.dims, two.data_type), name
    if one == two:
        return
    if one.data_type == TensorProto.STRING:
        assert one.string_data == two.string_data, name
    elif numpy_helper.to_array(one).tobytes() != numpy_helper.to_array(two).tobytes():
        changed.add(name)
    # Where the values stand within the tensor is the file's own business, but it stays in the same field.
    filled = [[d.name for d, _ in t.ListFields()] for t in (one, two)]
    assert filled[0] == filled[1], f"{name!r} is stored in other fields: {filled[0]} became {filled[1]}"
    two.CopyFrom(one)


# ------------------------------------------------------------------------------------------------------- orthonormal


def blocks_of(op: str, w: Array, *, group: int = 1, trans: bool = False, position: int = 1) -> Array:
    """Return a weight as (blocks, fan_out, fan_in), by the operators' own definitions.

    trans: of the weight's side of a Gemm; position: which operand of Gemm or MatMul it is.
    """
    w = np.asarray(w, np.float64)
    if op == "Conv":
        return np.stack([part.reshape(part.shape[0], -1) for part in np.split(w, group)])
    if op == "ConvTranspose":
        return np.stack([np.moveaxis(part, 1, 0).reshape(part.shape[1], -1) for part in np.split(w, group)])
    if op == "Gemm":
        # Y = A B: a column of B makes an output on the right, a row of A on the left.
        effective = w.T if trans else w
        return (effective.T if position == 1 else effective)[None]
    if w.ndim == 1:
        return w.reshape(1, 1, -1)
    flat = w.reshape(-1, *w.shape[-2:])
    return flat.transpose(0, 2, 1) if position == 1 else flat


def orthonormality(blocks: Array) -> float:
    """Return the largest deviation of any block from orthonormal rows, or columns, up to one scale for all blocks."""
    worst = 0.0
    scales = []
    for block in blocks:
        short = block if block.shape[0] <= block.shape[1] else block.T
        gram = short @ short.T
        scale = np.trace(gram) / len(gram)
        assert scale > 0, "a block of zeros"
        scales.append(scale)
        worst = max(worst, float(np.abs(gram / scale - np.eye(len(gram))).max()))
    return max(worst, max(scales) / min(scales) - 1)


# ------------------------------------------------------------------------------------------------------------ models


def parse(text: str, tensors: Mapping[str, Array] | None = None, **more: Array) -> ModelProto:
    """Read a model written as ONNX text and add initializers from arrays."""
    model = onnx.parser.parse_model(text)
    for name, array in {**(tensors or {}), **more}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return model


def tensor_of(model: ModelProto, name: str) -> Array:
    """Return an initializer's values."""
    (found,) = (t for t in model.graph.initializer if t.name == name)
    return numpy_helper.to_array(found)


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Return standard normal values."""
    return np.asarray(np.random.default_rng([seed, *shape]).standard_normal(shape)).astype(dtype)


def all_float_tensors(model: ModelProto) -> dict[str, Array]:
    """Return every floating-point initializer, and Constant, of the main graph."""
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return {
        name: np.asarray(numpy_helper.to_array(t), np.float64) for name, t in tensors.items() if t.data_type in floats
    }


LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "FusedConv", "FusedGemm", "FusedMatMul")


def values_of_layers(model: ModelProto, layers: Sequence[tuple[str, str]]) -> dict[int, str]:
    """Return for each reported layer (name, operator) the value it is measured at, once functions are inlined.

    A layer within a function has no node of its own in the file; there the order of execution tells which is which.
    """
    known = layer_values(model)
    found = {i: known[name] for i, (name, _) in enumerate(layers) if name in known}
    rest = [(i, op) for i, (name, op) in enumerate(layers) if name not in known]
    if rest:
        assert model.functions, f"no node has the name {layers[rest[0][0]][0]!r}"
        own = {name for graph, _ in scopes(model) for node in graph.node for name in node.output}
        flat = inlined(loaded(model))
        called = {output for graph, _ in scopes(model) for node in graph.node if node.domain for output in node.output}
        made = {value: name for name, value in layer_values(flat).items()}
        nodes = [
            node
            for graph, _ in scopes(flat)
            for node in graph.node
            if node.op_type in LINEAR and (node.output[0] not in own or node.output[0] in called)
        ]
        assert [node.op_type for node in nodes] == [op for _, op in rest], "layers within functions"
        flat_values = layer_values(flat)
        for (i, _), node in zip(rest, nodes, strict=True):
            label = node.name or node.output[0]
            found[i] = flat_values.get(f"{label}#{node.output[0]}", flat_values.get(label, node.output[0]))
            assert found[i] in made
    return found


def operand_blocks(model: ModelProto) -> dict[str, Array]:
    """Return the weights, as blocks of matrices, of nodes of the main graph that read an initializer, by node name."""
    tensors = {t.name: t for t in model.graph.initializer}
    result: dict[str, Array] = {}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv"):
            continue
        position = 1 if len(node.input) > 1 and node.input[1] in tensors else 0
        if node.input[position] not in tensors:
            continue
        a = _attributes(node)
        op = "Conv" if node.op_type == "FusedConv" else node.op_type
        w = numpy_helper.to_array(tensors[node.input[position]])
        trans = bool(a.get("transB" if position == 1 else "transA", 0))
        if w.size and (op != "Gemm" or w.ndim == 2):
            blocks = blocks_of(op, w, group=a.get("group", 1), trans=trans, position=position)
            result[node.name or node.output[0]] = blocks
    return result
