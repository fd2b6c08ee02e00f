"""Each step of `--portable` on a small model, judged by onnx's checker and a plain ONNX Runtime session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnx_lsuv
from onnx_lsuv import ModelError, batches
from onnx_lsuv.importers.table import IMPORTERS
from onnx_lsuv.lsuv.prepare import checked
from onnx_lsuv.lsuv.scratch import Scratch
from onnx_lsuv.model import to_bytes
from onnx_lsuv.portable import Portable, make_portable, same_outputs

Array = NDArray[Any]
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def model_of(text: str, values: Mapping[str, Array] | None = None, seed: int = 0) -> ModelProto:
    """Parse a model; float inputs named as `w...`, `b...` or in `values` become initializers, drawn or as given."""
    proto = onnx.parser.parse_model(text)
    generator = np.random.default_rng(seed)
    for value in list(proto.graph.input):
        if value.name[0] not in "wb" and value.name not in (values or {}):
            continue
        kind = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        array = generator.standard_normal([d.dim_value for d in kind.shape.dim]).astype(dtype)
        tensor = numpy_helper.from_array(np.asarray((values or {}).get(value.name, array), dtype), value.name)
        proto.graph.initializer.append(tensor)
        if proto.ir_version >= 4:
            proto.graph.input.remove(value)
    return proto


def outputs(proto: ModelProto | bytes | Path, batch: Mapping[str, Array]) -> dict[str, Array]:
    """Run a model by a plain session."""
    data = proto.SerializeToString() if isinstance(proto, ModelProto) else proto
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # What the optimiser folds depends on where initializers are listed, and changes the order of sums.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        str(data) if isinstance(data, Path) else data, options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name: value.type for value in session.get_inputs()}
    types = {"tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(float)": np.float32}
    given = {n: a.astype(types[wanted[n]]) if wanted[n] in types else a for n, a in batch.items()}
    return dict(zip(names, session.run(None, given), strict=True))


def apart(one: Array, other: Array) -> float:
    """Return the largest difference over the largest magnitude, in float64."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(a).max())


def data(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rewrite(
    proto: ModelProto, batch: Mapping[str, Array], within: float = 1e-5, runnable: ModelProto | None = None
) -> tuple[ModelProto, Portable]:
    """Make a model portable; it must check, and give what it gave, or what `runnable` gives."""
    model = onnx_lsuv.from_proto(proto)
    portable = make_portable(model)
    after = onnx.load_from_string(to_bytes(portable.model))
    onnx.checker.check_model(after, full_check=True)
    before, now = outputs(runnable or proto, batch), outputs(after, batch)
    assert before.keys() == now.keys()
    for name, array in before.items():
        assert apart(array, now[name]) <= within, name
    found = same_outputs(model, portable.model, [batch])
    assert found.differences.keys() == before.keys()
    assert not found.notes
    again = make_portable(portable.model)
    assert again.steps == (), "a portable model is not portable yet"
    assert to_bytes(again.model) == to_bytes(portable.model)
    return after, portable


def node(proto: ModelProto, op_type: str) -> NodeProto:
    """Return the one node of an operator."""
    (found,) = (each for each in proto.graph.node if each.op_type == op_type)
    return found


def tensors(proto: ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def attributes(one: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in one.attribute}


def test_nothing_to_do() -> None:
    proto = model_of(HEAD + "g (float[N,4] x, float[3,4] w, float[3] b) => (float[N,3] y) {"
                     "y = Gemm <alpha=1.0, beta=1.0, transB=1> (x, w, b) }")  # fmt: skip
    proto.graph.doc_string = "kept"
    proto.metadata_props.add(key="author", value="me")
    after, portable = rewrite(proto, {"x": data(5, 4)})
    assert portable.steps == ()
    assert portable.notes == ()
    assert after == proto


# ---------------------------------------------------------------------------------------------------------- header


def test_listed_inputs_and_ir_3() -> None:
    text = "g (float[N,4] x, float[3,4] w, float[3] b) => (float[N,3] y) { y = Gemm<transB=1>(x, w, b) }"
    proto = model_of('<ir_version: 3, opset_import: ["" : 9]>' + text)
    assert len(proto.graph.input) == 3
    after, portable = rewrite(proto, {"x": data(5, 4)})
    assert [value.name for value in after.graph.input] == ["x"]
    assert after.ir_version == 4
    assert after.opset_import == proto.opset_import
    assert [step.where for step in portable.steps] == ["ir_version", "b", "w"]


@pytest.mark.parametrize(("version", "newer", "result"), [(10, False, 10), (13, False, 10), (13, True, 13)])
def test_ir_version(version: int, newer: bool, result: int) -> None:
    proto = model_of(HEAD + "g (float[N,4] x, float[3,4] w) => (float[N,3] y) { y = Gemm<transB=1>(x, w) }")
    proto.ir_version = version
    if newer:
        proto.configuration.add(name="two devices", num_devices=2)
    after, portable = rewrite(proto, {"x": data(5, 4)})
    assert after.ir_version == result
    assert bool(portable.notes) == newer
    assert len(portable.steps) == (result != version)


def test_domains_and_names() -> None:
    proto = model_of(HEAD + "g (float[N,4] x) => (float[N,4] y) { a = Relu(x) b_ = Neg(a) c = Neg(b_) y = Relu(c) }")
    runnable = ModelProto.FromString(proto.SerializeToString())
    for each, name in zip(proto.graph.node, ("one", "one", "one_2", ""), strict=True):
        each.name, each.domain = name, "ai.onnx"
    proto.opset_import[0].domain = "ai.onnx"
    proto.opset_import.add(domain="ai.onnx.preview", version=1)
    after, _ = rewrite(proto, {"x": data(5, 4)}, runnable=runnable)
    assert [each.name for each in after.graph.node] == ["one", "one_3", "one_2", ""]
    assert {each.domain for each in after.graph.node} == {""}
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 17)]


def test_both_spellings_of_the_domain() -> None:
    proto = model_of(HEAD + "g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    proto.opset_import.add(domain="ai.onnx", version=17)
    after, _ = rewrite(proto, {"x": data(5, 4)})
    assert [(entry.domain, entry.version) for entry in after.opset_import] == [("", 17)]


@pytest.mark.parametrize("turned", [0, 1])
def test_training_graphs_are_left(turned: int) -> None:
    proto = model_of(HEAD + f"g (float[N,4] x, float[4,4] w) => (float[N,4] y) {{ y = Gemm<transB={turned}>(x, w) }}")
    proto.training_info.add().algorithm.CopyFrom(onnx.parser.parse_graph("a () => (float[4,4] n) { n = Neg (w) }"))
    portable = make_portable(onnx_lsuv.from_proto(proto))
    assert onnx.load_from_string(to_bytes(portable.model)).training_info == proto.training_info
    assert ["training_info" in note for note in portable.notes] == [True] * len(portable.steps)
    assert len(portable.steps) == 1 - turned


# ------------------------------------------------------------------------------------------------------- functions

FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
g (float[N,6] x, float[6,6] w) => (float[N,6] y)
{
  a = f.Twice (x, w)
  y = f.Twice <slope: float = 0.5> (a, w)
}
<domain: "f", opset_import: ["" : 13, "f" : 1]>
Twice <slope: float = 0.1> (x, w) => (y)
{
  c = f.Shared (x)
  d = f.Shared (c)
  e = MatMul (d, w)
  y = LeakyRelu <alpha: float = @slope> (e)
}
<domain: "f", opset_import: ["" : 13]>
Shared (x) => (y)
{
  k = Constant <value: tensor = float[6,6] {
    1.5, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 2, 2, 1, 1, 0, 0, 0, 0, 1, 1, 2, 2}> ()
  h = MatMul (x, k)
  y = Tanh (h)
}
"""


def test_functions() -> None:
    proto = model_of(FUNCTIONS)
    after, portable = rewrite(proto, {"x": data(5, 6)})
    assert not after.functions
    assert [entry.domain for entry in after.opset_import] == [""]
    assert [each.op_type for each in after.graph.node].count("Gemm") == 6
    # Four calls of one function have one constant; the argument that two calls pass is one too.
    assert len(after.graph.initializer) == 2
    slopes = [attributes(each)["alpha"] for each in after.graph.node if each.op_type == "LeakyRelu"]
    assert slopes == pytest.approx([0.1, 0.5])
    assert {step.where for step in portable.steps if "function" in step.what} >= {"f.Twice", "f.Shared"}


def test_function_called_in_branches() -> None:
    proto = model_of(
        """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
        g (float[N,6] x, bool c) => (float[N,6] y)
        {
          y = If (c) <
            then_branch = t () => (float[N,6] p) { p = f.Shared (x) },
            else_branch = e () => (float[N,6] q) { r = f.Shared (x) q = Neg (r) }>
        }"""
        + FUNCTIONS[FUNCTIONS.rindex("<domain") :]
    )
    for truth in (True, False):
        after, _ = rewrite(proto, {"x": data(5, 6), "c": np.array(truth)})
    assert len(after.graph.initializer) == 1
    assert not [n for a in node(after, "If").attribute for n in a.g.node if n.op_type == "Constant"]


# ------------------------------------------------------------------------------------------------------- constants


def test_constants_become_initializers() -> None:
    proto = model_of(HEAD + """g (float[2,6] x, float[4] w_scale) => (float[2,4] y, float[1] z) {
        w = Constant <value = float[6,4] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24}> ()
        shape = Constant <value_ints = [2, 6]> ()
        slope = Constant <value_floats = [0.25]> ()
        half = Constant <value_float = 0.5> ()
        z = Constant <value_floats = [7.0]> ()
        a = Reshape (x, shape)
        h = MatMul (a, w)
        p = PRelu (h, slope)
        y = Mul (p, half)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(2, 6)})
    assert {name: array.shape for name, array in tensors(after).items()} == {
        "w_scale": (4,),
        "w": (4, 6),  # for Gemm
        "shape": (2,),
        "slope": (1,),
    }
    # A plain number is no parameter, and what leaves the graph is made by a node.
    assert [each.output[0] for each in after.graph.node if each.op_type == "Constant"] == ["half", "z"]


def test_constant_of_shape_as_parameter() -> None:
    proto = model_of(HEAD + """g (float[N,3,4,4] x, float[3,3,1,1] w) => (float[N,3,4,4] y) {
        three = Constant <value_ints = [3]> ()
        one = ConstantOfShape <value = float[1] {1.5}> (three)
        zero = ConstantOfShape (three)
        h = Conv (x, w)
        y = BatchNormalization (h, one, zero, zero, one)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(2, 3, 4, 4)})
    norm = node(after, "BatchNormalization")
    assert len(set(norm.input)) == 5
    values = tensors(after)
    assert [values[name].tolist() for name in norm.input[1:]] == [[1.5] * 3, [0.0] * 3, [0.0] * 3, [1.5] * 3]


def test_sparse_initializer() -> None:
    proto = model_of(HEAD + "g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul (x, w) }")
    dense = np.zeros((4, 3), np.float32)
    dense[[0, 1, 3], [2, 0, 1]] = [1.5, -2, 3]
    for indices in (np.array([2, 3, 10]), np.array([[0, 2], [1, 0], [3, 1]])):
        sparse = ModelProto.FromString(proto.SerializeToString())
        del sparse.graph.initializer[:]
        entry = sparse.graph.sparse_initializer.add(dims=[4, 3])
        entry.values.CopyFrom(numpy_helper.from_array(np.array([1.5, -2, 3], np.float32), "w"))
        entry.indices.CopyFrom(numpy_helper.from_array(indices, "w_indices"))
        after, _ = rewrite(sparse, {"x": data(5, 4)})
        assert not after.graph.sparse_initializer
        assert np.array_equal(tensors(after)["w"].T, dense)


@pytest.mark.parametrize(("indices", "size"), [([2, 3, 12], 3), ([2, 3, 10], 10**9)])
def test_sparse_initializer_that_cannot_be_dense(indices: list[int], size: int) -> None:
    proto = model_of(HEAD + "g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }")
    entry = proto.graph.sparse_initializer.add(dims=[4 if size == 3 else size, size])
    entry.values.CopyFrom(numpy_helper.from_array(np.array([1.5, -2, 3], np.float32), "w"))
    entry.indices.CopyFrom(numpy_helper.from_array(np.array(indices), "w_indices"))
    with pytest.raises(ModelError, match="sparse tensor 'w'"):
        make_portable(onnx_lsuv.from_proto(proto))


def test_large_constant_in_a_branch() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, bool c) => (float[N,300] y) {
          y = If (c) <
            then_branch = t () => (float[N,300] p) { k = Constant <value = float[4,300] {0}> () p = MatMul (x, k) },
            else_branch = e () => (float[1,300] q) { q = Constant <value = float[1,300] {0}> () }>
    }""")  # fmt: skip
    for attribute, shape in zip(node(proto, "If").attribute, ((4, 300), (1, 300)), strict=True):
        attribute.g.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(data(*shape)))
    for truth in (True, False):
        after, _ = rewrite(proto, {"x": data(5, 4), "c": np.array(truth)})
    then, other = (attribute.g for attribute in node(after, "If").attribute)
    assert [tensor.name for tensor in then.initializer] == ["k"]
    assert [each.op_type for each in other.node] == ["Constant"], "a branch must make what it returns"


# --------------------------------------------------------------------------------------------------------- sharing


def test_identity_bypassed_and_merged_bias_copied_under_its_old_name() -> None:
    # As TorchScript writes a network whose biases were equal.
    proto = model_of(HEAD + """g (float[N,4] x, float[4,4] w1, float[4,4] w2, float[4] bias_of_1) => (float[N,4] y) {
        bias_of_2 = Identity (bias_of_1)
        h = Gemm <transB=1> (x, w1, bias_of_1)
        y = Gemm <transB=1> (h, w2, bias_of_2)
    }""", {"bias_of_1": np.zeros(4)})  # fmt: skip
    after, portable = rewrite(proto, {"x": data(5, 4)})
    assert [list(each.input) for each in after.graph.node] == [["x", "w1", "bias_of_1"], ["h", "w2", "bias_of_2"]]
    assert [(step.what, step.where) for step in portable.steps] == [
        ("Identity bypassed", "bias_of_2"),
        ("merged vector copied", "bias_of_2 (of bias_of_1)"),
    ]


def test_merged_vectors_of_norms() -> None:
    proto = model_of(HEAD + """g (float[N,4,3,3] x, float[4,4,1,1] conv1.weight, float[4,4,1,1] conv2.weight,
                        float[4] zeros, float[4] ones) => (float[N,4,3,3] y) {
        a = Conv (x, conv1.weight, zeros)
        b_ = BatchNormalization (a, ones, zeros, zeros, ones)
        c = Conv (b_, conv2.weight, zeros)
        y = BatchNormalization (c, ones, zeros, zeros, ones)
    }""".replace("conv1.weight", "c1").replace("conv2.weight", "c2"),
        {"c1": data(4, 4, 1, 1), "c2": data(4, 4, 1, 1, seed=2), "zeros": np.zeros(4), "ones": np.ones(4)},
    )  # fmt: skip
    for each in proto.graph.initializer[:2]:
        each.name = {"c1": "conv1.weight", "c2": "conv2.weight"}[each.name]
    for each in proto.graph.node:
        each.input[:] = [{"c1": "conv1.weight", "c2": "conv2.weight"}.get(name, name) for name in each.input]
    after, _ = rewrite(proto, {"x": data(2, 4, 3, 3)})
    read = [name for each in after.graph.node for name in each.input[1:]]
    assert len(set(read)) == len(read) == 12
    assert "conv2.bias" in read
    assert [name for name in read if name in ("zeros", "ones")] == ["zeros", "ones"]


def test_tied_layers_stay_tied() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[N,4] z, float[4,4] w, float[4] b) => (float[N,4] y) {
        w_again = Identity (w)
        one = Gemm <transB=1> (x, w, b)
        two = Gemm <transB=1> (z, w_again, b)
        y = Sub (one, two)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4), "z": data(5, 4, seed=2)})
    assert [list(each.input[1:]) for each in after.graph.node[:2]] == [["w", "b"]] * 2


def test_shared_table_is_no_parameter() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[4] b, float[4] zeros) => (float[N,4] y) {
        c = Mul (x, b)
        d = Tanh (c)
        e = Mul (d, b)
        f = Add (e, zeros)
        h = Tanh (f)
        y = Add (h, zeros)
    }""", {"zeros": np.zeros(4)})  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4)})
    assert [each.input[1] for each in after.graph.node if len(each.input) > 1] == ["b", "b", "zeros", "zeros_2"]


def test_a_body_keeps_the_tensor_that_it_reads() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, bool c, float[4,4] w1, float[4,4] w2, float[4] b) => (float[N,4] y) {
        id = Identity (b)
        h = Gemm <transB=1> (x, w1, id)
        i = If (c) <
            then_branch = t () => (float[N,4] p) { p = Add (h, id) },
            else_branch = e () => (float[N,4] q) { q = Sub (h, b) }>
        y = Gemm <transB=1> (i, w2, b)
    }""")  # fmt: skip
    for truth in (True, False):
        after, _ = rewrite(proto, {"x": data(5, 4), "c": np.array(truth)})
    first, second = (each for each in after.graph.node if each.op_type == "Gemm")
    assert len({first.input[2], second.input[2], "b"}) == 3
    assert node(after, "Identity").output[0] == "id"


def test_transpose_folded() -> None:
    proto = model_of(HEAD + """g (float[N,T,4] x, float[3,4] w, float[3,4] w_two, float[3] b) => (float[N,T,3] y) {
        t = Transpose <perm=[1,0]> (w)
        u = Transpose (w_two)
        m = MatMul (x, t)
        h = Add (m, b)
        k = MatMul (x, u)
        s = Shape (w_two)
        z = Cast <to=1> (s)
        r = ReduceMax <keepdims=0> (z)
        v = Mul (k, r)
        y = Add (h, v)
    }""")  # fmt: skip
    after, portable = rewrite(proto, {"x": data(2, 5, 4)})
    values = tensors(proto), tensors(after)
    assert np.array_equal(values[1]["w"], values[0]["w"].T)
    assert np.array_equal(values[1]["w_two"], values[0]["w_two"]), "its shape is read too"
    assert [step.where for step in portable.steps] == ["w"]


# ------------------------------------------------------------------------------------------------------------ Gemm


@pytest.mark.parametrize("term", ["float[3]", "float[1,3]", "float[1]", "float[1,1]", "float"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_matmul_and_add(term: str, turned: bool, first: bool) -> None:
    weight = "float[3,4] w" if turned else "float[4,3] w"
    proto = model_of(HEAD + f"""g (float[N,2,2] x, {weight}, {term} b) => (float[N,3] y) {{
        flat = Flatten (x)
        {"t = Transpose <perm=[1,0]> (w)" if turned else "t = Identity (w)"}
        [product] m = MatMul (flat, t)
        [sum] h = {"Add (b, m)" if first else "Add (m, b)"}
        y = Tanh (h)
    }}""")  # fmt: skip
    after, portable = rewrite(proto, {"x": data(5, 2, 2)})
    gemm = node(after, "Gemm")
    assert [each.op_type for each in after.graph.node] == ["Flatten", "Gemm", "Tanh"]
    assert gemm.name == "product"
    assert list(gemm.output) == ["h"]
    assert list(gemm.input) == ["flat", "w", "b"]
    assert attributes(gemm) == {"alpha": 1.0, "beta": 1.0, "transB": 1}
    values = tensors(after)
    assert values["w"].shape == (3, 4)
    assert values["b"].shape == (3,)
    assert "MatMul and Add became a Gemm" in {step.what for step in portable.steps}


@pytest.mark.parametrize(
    ("x", "body"),
    [
        ("float[N,T,4] x", "m = MatMul (x, w) y = Add (m, b)"),  # two open lengths
        ("float[4] x", "m = MatMul (x, w) y = Add (m, b)"),
        ("float[N,4] x", "m = MatMul (x, w) t = Transpose (w) o = MatMul (m, t) y = Add (o, b4)"),
    ],
)
def test_matmul_that_stays(x: str, body: str) -> None:
    shape = "[N,T,3]" if "T" in x else "[3]" if "N" not in x else "[N,4]"
    proto = model_of(HEAD + f"g ({x}, float[4,3] w, float[3] b, float[4] b4) => (float{shape} y) {{ {body} }}")
    given = {"float[N,T,4] x": (5, 2, 4), "float[4] x": (4,), "float[N,4] x": (5, 4)}[x]
    after, portable = rewrite(proto, {"x": data(*given)})
    assert "MatMul" in {each.op_type for each in after.graph.node}
    assert [note for note in portable.notes if note.startswith("MatMul stays for m: more than one")] == list(
        portable.notes
    )
    assert bool(portable.notes) == ("T" in x)
    assert np.array_equal(tensors(after)["w"], tensors(proto)["w"])


def test_rank_that_is_only_claimed() -> None:
    # The declared shape of a value in between is not trusted.
    proto = model_of(HEAD + """g (float[N,4] x, int64[K] s, float[4,3] w, float[3] b) => (float y) {
        r = Reshape (x, s)
        m = MatMul (r, w)
        h = Add (m, b)
        y = ReduceSum <keepdims=0> (h)
    }""")  # fmt: skip
    claim = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 4])
    proto.graph.value_info.append(claim)
    after = onnx.load_from_string(to_bytes(make_portable(onnx_lsuv.from_proto(proto)).model))
    assert [each.op_type for each in after.graph.node] == ["Reshape", "MatMul", "Add", "ReduceSum"]
    assert np.array_equal(tensors(after)["w"], tensors(proto)["w"])


def test_product_read_twice_keeps_its_add() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[4,3] w, float[3] b) => (float[N,3] y, float[N,3] m) {
        m = MatMul (x, w)
        y = Add (m, b)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4)})
    assert [each.op_type for each in after.graph.node] == ["Gemm", "Add"]


def test_product_without_bias_at_opset_9() -> None:
    text = '<ir_version: 4, opset_import: ["" : 9]> g (float[N,4] x, float[4,3] w) => (float[N,3] y) {y = MatMul(x, w)}'
    after, _ = rewrite(model_of(text), {"x": data(5, 4)})
    assert [each.op_type for each in after.graph.node] == ["MatMul"], "its Gemm has no room for a missing bias"


def test_one_step_makes_room_for_another() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[3,4] w, float[3] b) => (float[N,3] y) {
        t = Transpose (w)
        i = Identity (t)
        u = Transpose (i)
        v = Transpose <perm=[1,0]> (u)
        m = MatMul (x, v)
        c = Identity (b)
        d = Transpose (c)
        y = Add (m, d)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4)})
    assert [each.op_type for each in after.graph.node] == ["Gemm"]
    assert np.array_equal(tensors(after)["w"], tensors(proto)["w"])


def test_shared_weight_in_two_products() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[N,4] z, float[4,3] w, float[3] b) => (float[N,3] y) {
        m = MatMul (x, w)
        k = MatMul (z, w)
        h = Add (m, b)
        i = Add (k, b)
        y = Mul (h, i)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4), "z": data(5, 4, seed=2)})
    gemms = [each for each in after.graph.node if each.op_type == "Gemm"]
    assert [list(each.input[1:]) for each in gemms] == [["w", "b"]] * 2


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 1.0), (1.0, 2.0), (0.3, 0.0), (1.0, 1.0), (-2.0, 3.0)])
@pytest.mark.parametrize("bias", ["float[3]", "float[1,3]", "float[1]", "float[5,3]"])
def test_gemm_normalised(turned: int, alpha: float, beta: float, bias: str) -> None:
    proto = model_of(HEAD + f"""g (float[5,4] x, float[{"3,4" if turned else "4,3"}] w, {bias} b) => (float[5,3] y) {{
        y = Gemm <alpha={alpha}, beta={beta}, transB={turned}> (x, w, b)
    }}""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4)})
    assert attributes(node(after, "Gemm")) == {"alpha": 1.0, "beta": 1.0, "transB": 1}
    assert tensors(after)["b"].shape == ((5, 3) if bias == "float[5,3]" else (3,))
    assert tensors(after)["w"].shape == (3, 4)


@pytest.mark.parametrize("factor", ["alpha", "beta"])
def test_gemm_of_an_infinite_factor(factor: str) -> None:
    """Infinity by 0 is no number, in the file as in the node."""
    proto = model_of(HEAD + """g (float[5,4] x, float[3,4] w, float[3] b) => (float[5,3] y) {
        y = Gemm <transB=1> (x, w, b)
    }""")  # fmt: skip
    name = "w" if factor == "alpha" else "b"
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(np.zeros(tensor.dims, np.float32), name))
    proto.graph.node[0].attribute.append(helper.make_attribute(factor, float("inf")))
    after = make_portable(onnx_lsuv.from_proto(proto)).model.proto
    assert attributes(node(after, "Gemm"))[factor] == 1
    assert np.isnan(tensors(after)[name]).all()


def test_gemm_of_shared_tensors() -> None:
    proto = model_of(HEAD + """g (float[N,3] x, float[3,3] w, float[3,3] w2, float[3] b) => (float[N,3] y) {
        h = Gemm <alpha=0.5, transB=1> (x, w, b)
        i = Gemm <alpha=0.25, transB=1> (h, w, b)
        y = Gemm <beta=2.0, transB=1> (i, w2, b)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 3)})
    first, second, third = after.graph.node
    assert (first.input[1], second.input[1]) == ("w", "w"), "two factors for one weight cannot go into it"
    assert attributes(first)["alpha"] == 0.5
    assert np.array_equal(tensors(after)[third.input[2]], 2 * tensors(proto)["b"])


@pytest.mark.parametrize("gemm", ["alpha=0.5, transB=1", "beta=3.0, transB=1", "transB=1"])
def test_biases_of_two_axes_are_no_longer_one(gemm: str) -> None:
    proto = model_of(HEAD + f"""g (float[N,3] x, float[3,3] w, float[3,3] w2, float[1,3] b) => (float[N,3] y) {{
        h = Gemm <{gemm}> (x, w, b)
        i = Gemm <{gemm}> (h, w, b)
        y = Gemm <{gemm}> (i, w2, b)
    }}""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 3)})
    # Layers that share their weight share their bias too; nothing is left that nobody reads.
    first, second, third = (each.input[2] for each in after.graph.node)
    assert first == second == "b"
    assert {name: array.shape for name, array in tensors(after).items()} == {
        "w": (3, 3),
        "w2": (3, 3),
        "b": (3,),
        third: (3,),
    }


def test_bias_of_one_number_where_a_weight_stands_both_ways() -> None:
    proto = model_of(HEAD + """g (float[N,3] x, float[4,3] w, float[1] b) => (float[N,3] y) {
        h = Gemm <transB=1> (x, w, b)
        y = Gemm (h, w, b)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 3)})
    values = tensors(after)
    assert [values[each.input[2]].shape for each in after.graph.node] == [(4,), (3,)]


def test_weight_that_is_the_bias_too() -> None:
    proto = model_of(HEAD + """g (float[3,3] x, float[3,3] w) => (float[3,3] y) {
        y = Gemm <alpha=0.5, beta=2.0> (x, w, w)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(3, 3)})
    assert attributes(node(after, "Gemm")) == {"alpha": 1.0, "beta": 1.0, "transB": 1}


# -------------------------------------------------------------------------------------- Gemm on more than two axes


@pytest.mark.parametrize("term", ["float[3]", "float[1,3]", "float[1,1,3]", "float[1]", "float[1,1]", "float"])
@pytest.mark.parametrize("turned", [False, True])
def test_product_of_three_axes(term: str, turned: bool) -> None:
    weight = "float[3,4] w" if turned else "float[4,3] w"
    proto = model_of(HEAD + f"""g (float[N,2,4] x, {weight}, {term} b) => (float[N,2,3] y) {{
        {"t = Transpose <perm=[1,0]> (w)" if turned else "t = Identity (w)"}
        [product] m = MatMul (x, t)
        [sum] h = Add (m, b)
        y = Tanh (h)
    }}""")  # fmt: skip
    after, portable = rewrite(proto, {"x": data(5, 2, 4)})
    join, gemm, part, _ = after.graph.node
    assert [each.op_type for each in after.graph.node] == ["Reshape", "Gemm", "Reshape", "Tanh"]
    assert [each.name for each in (join, gemm, part)] == ["product_join", "product", "product_part"]
    assert list(gemm.input) == [join.output[0], "w", "b"]
    assert (join.input[0], part.input[0], part.output[0]) == ("x", gemm.output[0], "h")
    assert attributes(gemm) == {"alpha": 1.0, "beta": 1.0, "transB": 1}
    assert attributes(join) == attributes(part) == {}
    old, new = tensors(proto), tensors(after)
    assert np.array_equal(new["w"], old["w"] if turned else old["w"].T)
    assert new["b"].shape == (3,)
    assert new[join.input[1]].tolist() == [-1, 4]
    assert new[part.input[1]].tolist() == [-1, 2, 3]
    assert new[part.input[1]].dtype == np.int64
    assert "MatMul and Add became a Gemm between two Reshapes" in {step.what for step in portable.steps}
    assert not portable.notes


@pytest.mark.parametrize(
    ("shape", "given", "parted"),
    [
        ("2,3,4", (2, 3, 4), [-1, 3, 5]),  # the first axis may be another one in training
        ("3,N,4", (3, 7, 4), [3, -1, 5]),
        ("N,1,4", (7, 1, 4), [-1, 1, 5]),
        ("2,3,N,2,4", (2, 3, 7, 2, 4), [2, 3, -1, 2, 5]),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_lengths_of_rows(shape: str, given: tuple[int, ...], parted: list[int], bias: bool) -> None:
    proto = model_of(HEAD + f"""g (float[{shape}] x, float[4,5] w, float[5] b) => (float[{shape[:-1]}5] y) {{
        {"m = MatMul (x, w) y = Add (m, b)" if bias else "y = MatMul (x, w)"}
    }}""")  # fmt: skip
    if not bias:
        del proto.graph.initializer[1]
    after, _ = rewrite(proto, {"x": data(*given)})
    _, gemm, part = after.graph.node
    assert len(gemm.input) == 2 + bias
    assert tensors(after)[part.input[1]].tolist() == parted
    assert part.output[0] == "y"


def test_three_products_of_the_same_data() -> None:
    proto = model_of(HEAD + """g (float[N,3,4] x, float[4,4] w1, float[4,4] w2, float[4,6] w3, float[4] b)
        => (float[N,3,4] y, float[N,3,6] z, float[N,3,4] m) {
        m = MatMul (x, w1)
        k = MatMul (x, w2)
        z = MatMul (x, w3)
        l = Add (k, b)
        y = Mul (m, l)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 3, 4)})
    assert [each.op_type for each in after.graph.node] == ["Reshape"] + ["Gemm", "Reshape"] * 3 + ["Mul"]
    assert len(after.graph.initializer) == 4 + 3, "shapes that are alike are one tensor"


def test_names_that_are_taken() -> None:
    proto = model_of(HEAD + """g (float[N,3,4] x, bool c, float[4,4] w, float[4] b) => (float[N,3,4] x_rows) {
        [one] m = MatMul (x, w)
        [one_join] y = Add (m, b)
        [one_part] shape_n_4 = Relu (y)
        x_rows = If (c) <
            then_branch = t () => (float[N,3,4] y_rows) { y_rows = Add (shape_n_4, b) },
            else_branch = e () => (float[N,3,4] shape_n_3_4) { shape_n_3_4 = Mul (y, b) }>
    }""")  # fmt: skip
    for truth in (True, False):
        after, _ = rewrite(proto, {"x": data(5, 3, 4), "c": np.array(truth)})
    made = [name for each in after.graph.node for name in each.output] + list(tensors(after))
    assert len(set(made)) == len(made)
    names = [each.name for each in after.graph.node if each.name]
    assert len(set(names)) == len(names)
    assert "Gemm" in {each.op_type for each in after.graph.node}


def test_product_that_a_body_reads_as_well() -> None:
    proto = model_of(HEAD + """g (float[N,3,4] x, bool c, float[4,4] w, float[4,4] w2, float[4] b) => (float[N,3,4] y) {
        m = MatMul (x, w)
        h = Add (m, b)
        k = MatMul (h, w2)
        y = If (c) <
            then_branch = t () => (float[N,3,4] p) { p = Sub (k, m) },
            else_branch = e () => (float[N,3,4] q) { q = MatMul (k, w2) }>
    }""")  # fmt: skip
    for truth in (True, False):
        after, _ = rewrite(proto, {"x": data(5, 3, 4), "c": np.array(truth)})
    assert [each.op_type for each in after.graph.node] == ["Reshape", "Gemm", "Reshape", "Add", "MatMul", "If"]


def test_weight_of_which_not_every_product_can_be_a_gemm() -> None:
    body = "m = MatMul (x, {0}) y = Add (m, b) z = MatMul (v, {0})"
    head = "g (float[N,3,4] x, float[N,T,4] v, float[{}] w, float[{}] b) => (float[N,3,5] y, float[N,T,5] z) {{"
    given = {"x": data(5, 3, 4), "v": data(5, 2, 4)}
    after, portable = rewrite(model_of(HEAD + head.format("4,5", 5) + body.format("w") + "}"), given)
    assert [each.op_type for each in after.graph.node] == ["MatMul", "Add", "MatMul"]
    assert portable.steps == ()
    assert "MatMul stays for z:" in portable.notes[0]
    # Behind a Transpose the one reads what is stored, the other what the Transpose makes.
    turned = head.format("5,4", 5) + "t = Transpose <perm=[1,0]> (w)" + body.format("t") + "}"
    after, _ = rewrite(model_of(HEAD + turned), given)
    assert [each.op_type for each in after.graph.node] == ["Transpose", "Reshape", "Gemm", "Reshape", "MatMul"]


def test_who_does_not_read_the_reshape_around_a_gemm_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    new = replace(IMPORTERS["onnx2torch"], name="new", operators={"Reshape": frozenset({5, 13})})
    monkeypatch.setitem(IMPORTERS, "new", new)  # type: ignore[arg-type]
    proto = model_of(
        HEAD.replace("17", "21") + "g (float[N,3,4] x, float[4,5] w) => (float[N,3,5] y) { y = MatMul (x, w) }"
    )
    (note,) = make_portable(onnx_lsuv.from_proto(proto)).notes
    assert "is not read by onnx2torch, new; export the model with opset 13 or lower" in note


@pytest.mark.parametrize(
    ("term", "made", "gemm"),
    [
        ("float[5] b", "c = Neg (b)", False),  # computed
        ("float[3,1] b", "c = Identity (b)", False),  # along another axis
        ("float[1,1,1,5] b", "c = Identity (b)", False),  # one axis more than the data
        ("float[3,5] b", "c = Identity (b)", True),  # a table, as of positions, is no part of the layer
        ("float[3,5] b", "c = Neg (b)", True),
    ],
)
def test_what_is_added_behind_a_product_stays_behind_it(term: str, made: str, gemm: bool) -> None:
    shape = "1,2,3,5" if "1,1,1" in term else "2,3,5"
    proto = model_of(HEAD + f"""g (float[2,3,4] x, float[4,5] w, {term}) => (float[{shape}] y) {{
        {made}
        m = MatMul (x, w)
        y = Add (c, m)
    }}""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(2, 3, 4)})
    made_by = {name: each.op_type for each in after.graph.node for name in each.output}
    add = node(after, "Add")
    assert made_by["m"] == ("Reshape" if gemm else "MatMul")
    assert "m" in add.input


def test_embedding_that_is_the_output_layer_too() -> None:
    proto = model_of(HEAD + """g (int64[N,3] i, float[7,4] w, float[7] b) => (float[N,3,7] y) {
        e = Gather (w, i)
        t = Transpose <perm=[1,0]> (w)
        m = MatMul (e, t)
        y = Add (m, b)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"i": np.array([[0, 1, 2], [6, 4, 5]])})
    assert [each.op_type for each in after.graph.node] == ["Gather", "Reshape", "Gemm", "Reshape"]
    assert np.array_equal(tensors(after)["w"], tensors(proto)["w"])


def test_merged_bias_of_products_under_its_old_name() -> None:
    proto = model_of(HEAD + """g (float[N,3,4] x, float[4,4] w1, float[4,4] w2, float[4] second) => (float[N,3,4] y) {
        first = Identity (second)
        m = MatMul (x, w1)
        h = Add (m, first)
        n = MatMul (h, w2)
        y = Add (n, second)
    }""", {"second": np.zeros(4)})  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 3, 4)})
    gemms = [list(each.input[1:]) for each in after.graph.node if each.op_type == "Gemm"]
    assert gemms == [["w1", "first"], ["w2", "second"]]


@pytest.mark.parametrize(
    ("opset", "ir", "gemm"), [(7, 3, True), (9, 4, True), (13, 7, True), (18, 8, True), (19, 9, False), (21, 10, False)]
)
def test_opsets_of_reshape(opset: int, ir: int, gemm: bool) -> None:
    head = f'<ir_version: {ir}, opset_import: ["" : {opset}]>'
    proto = model_of(head + """g (float[N,3,4] x, float[4,5] w, float[5] b) => (float[N,3,5] y) {
        m = MatMul (x, w)
        y = Add (m, b)
    }""")  # fmt: skip
    after, portable = rewrite(proto, {"x": data(5, 3, 4)})
    assert ("Gemm" in {each.op_type for each in after.graph.node}) == gemm
    assert [f"Reshape of opset {opset}" in note for note in portable.notes] == [True] * (not gemm)


def test_another_batch_than_declared_and_an_empty_one() -> None:
    proto = model_of(HEAD + """g (float[N,3,4] x, float[4,5] w, float[5] b) => (float[N,3,5] y) {
        m = MatMul (x, w)
        y = Add (m, b)
    }""")  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 3, 4)})
    for length in (0, 1, 11):
        x = data(length, 3, 4)
        expected, found = outputs(proto, {"x": x})["y"], outputs(after, {"x": x})["y"]
        assert found.shape == expected.shape == (length, 3, 5)
        assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------------------- inference


def test_norm_with_attribute_and_dropout_with_mask() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[4] b1, float[4] b2, float[4] b3, float[4] b4) => (float[N,4] y) {
        h = BatchNormalization <training_mode=0> (x, b1, b2, b3, b4)
        ratio = Constant <value_float = 0.5> ()
        off = Constant <value = bool {0}> ()
        y, mask = Dropout (h, ratio, off)
    }""", {"b4": np.ones(4)})  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4)})
    assert attributes(node(after, "BatchNormalization")) == {}
    assert list(node(after, "Dropout").output) == ["y"]
    assert list(node(after, "Dropout").input) == ["h", "ratio"]


def test_training_form() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[4] b1, float[4] b2, float[4] b3, float[4] b4) => (float[N,4] y) {
        h, m, v = BatchNormalization <training_mode=1> (x, b1, b2, b3, b4)
        ratio = Constant <value_float = 0.5> ()
        on = Constant <value = bool {1}> ()
        y = Dropout (h, ratio, on)
    }""", {"b4": np.ones(4)})  # fmt: skip
    model = onnx_lsuv.from_proto(proto)
    portable = make_portable(model)
    after = onnx.load_from_string(to_bytes(portable.model))
    onnx.checker.check_model(after, full_check=True)
    x, values = data(5, 4), tensors(after)
    norm = node(after, "BatchNormalization")
    assert list(norm.output) == ["h"]
    scale, bias, mean, var = (values[name] for name in norm.input[1:])
    expected = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    assert apart(expected, outputs(after, {"x": x})["y"]) < 1e-5
    found = same_outputs(model, portable.model, {"x": x})
    assert found.differences == {}
    assert "BatchNormalization, Dropout" in found.notes[0]


@pytest.mark.parametrize("opset", [13, 17])
def test_outputs_that_are_left_out_are_not_read(opset: int) -> None:
    """An empty name stands for an output that is not there, and is no name that the empty input of a Clip reads."""
    proto = model_of(f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N,4] x, float[4] b1, float[4] b2, float[4] b3, float[4] b4, float[] high) => (float[N,4] y) {{
        h = BatchNormalization (x, b1, b2, b3, b4)
        m = Clip (h, , high)
        y = Dropout (m)
    }}""", {"b4": np.ones(4), "high": np.array(1.0)})  # fmt: skip
    plain = outputs(proto, {"x": data(5, 4)})["y"]
    for each in (proto.graph.node[0], proto.graph.node[2]):
        each.output.append("")
    if opset > 13:
        proto.graph.node[0].attribute.append(helper.make_attribute("training_mode", 0))
    portable = make_portable(onnx_lsuv.from_proto(proto))
    after = onnx.load_from_string(to_bytes(portable.model))
    assert [list(each.output) for each in after.graph.node] == [["h"], ["m"], ["y"]]
    assert attributes(node(after, "BatchNormalization")) == {}
    assert portable.notes == ()
    np.testing.assert_array_equal(outputs(after, {"x": data(5, 4)})["y"], plain)


def test_statistics_that_are_read_stay() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, float[4] b1, float[4] b2, float[4] b3, float[4] b4)
        => (float[N,4] y, float[4] m) { y, m, v = BatchNormalization <training_mode=1> (x, b1, b2, b3, b4) }
    """, {"b4": np.ones(4)})  # fmt: skip
    portable = make_portable(onnx_lsuv.from_proto(proto))
    assert onnx.load_from_string(to_bytes(portable.model)).graph.node == proto.graph.node
    assert "reads its statistics" in portable.notes[0]


def test_dropout_switched_from_outside() -> None:
    proto = model_of(HEAD + """g (float[N,4] x, bool train) => (float[N,4] y) {
        ratio = Constant <value_float = 0.5> ()
        y = Dropout (x, ratio, train)
    }""")  # fmt: skip
    model = onnx_lsuv.from_proto(proto)
    portable = make_portable(model)
    assert portable.steps == ()
    assert same_outputs(model, portable.model, {"x": data(5, 4), "train": np.array(False)}).notes


# ------------------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "double"])
def test_other_floats(kind: str) -> None:
    # The parser takes halves as their bits.
    number, five = {"float16": (10, 0x4500), "bfloat16": (16, 0x40A0), "double": (11, 5)}[kind]
    proto = model_of(HEAD + f"""g ({kind}[N,4] x, {kind}[4,40] w, {kind}[40,3] w2, {kind}[40] b)
        => ({kind}[N,3] y, float[3] f) {{
        i = Cast <to=1> (x)
        j = Cast <to={number}> (i)
        h = MatMul (j, w)
        k = Add (h, b)
        shape = Constant <value_ints = [3]> ()
        five = ConstantOfShape <value = {kind}[1] {{{five}}}> (shape)
        m = MatMul (k, w2)
        y = Add (m, five)
        f = Cast <to=1> (five)
    }}""")  # fmt: skip
    model = onnx_lsuv.from_proto(proto)
    portable = make_portable(model)
    after = onnx.load_from_string(to_bytes(portable.model))
    onnx.checker.check_model(after, full_check=True)
    kinds = {value.type.tensor_type.elem_type for value in (*after.graph.input, *after.graph.output)}
    assert kinds | {tensor.data_type for tensor in after.graph.initializer} == {TensorProto.FLOAT, TensorProto.INT64}
    x = data(5, 4)
    old, new = tensors(proto), tensors(after)
    assert all(np.array_equal(new[name].T, old[name].astype(np.float32)) for name in ("w", "w2"))
    w, w2, b = (old[name].astype(np.float64) for name in ("w", "w2", "b"))
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "double": np.float64}[kind]
    x = x.astype(dtype)
    assert apart((x.astype(np.float64) @ w + b) @ w2 + 5, outputs(after, {"x": x.astype(np.float32)})["y"]) < 1e-5
    if kind == "bfloat16":  # the CPU has no such product
        return
    found = same_outputs(model, portable.model, {"x": x})
    assert found.tolerance == {"float16": 0.02, "double": 1e-4}[kind]
    assert 0 < found.differences["y"] < found.tolerance
    given = batches.from_arrays(batches.inputs_of(model.proto.graph), {"x": x})
    assert checked(portable.model, given, Scratch.within(None))[0]["x"].dtype == np.float32


def test_double_beyond_float() -> None:
    proto = model_of(HEAD + "g (double[N,4] x, double[4] b) => (double[N,4] y) { h = Max (x, b) y = Min (h, x) }",
                     {"b": np.array([-1e300, -np.inf, 0, 1])})  # fmt: skip
    after, _ = rewrite(proto, {"x": data(5, 4)}, within=1e-4)
    largest = float(np.finfo(np.float32).max)
    assert tensors(after)["b"].tolist() == [-largest, -np.inf, 0, 1]


def test_a_few_doubles_inside_stay() -> None:
    proto = model_of(HEAD + """g (float[N,4] x) => (float[N,4] y) {
        d = Cast <to=11> (x)
        two = Constant <value = double {2}> ()
        e = Mul (d, two)
        y = Cast <to=1> (e)
    }""")  # fmt: skip
    _, portable = rewrite(proto, {"x": data(5, 4)})
    assert portable.steps == ()


def test_foreign_operators_keep_their_types() -> None:
    text = "g (float16[N,4] x, float16[4,4] w) => (float16[N,4] y) { h = MatMul (x, w) y = mine.Op (h) }"
    proto = model_of('<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>' + text)
    portable = make_portable(onnx_lsuv.from_proto(proto))
    assert portable.steps == ()
    assert "'mine'" in portable.notes[0]
    assert to_bytes(portable.model) == proto.SerializeToString()
