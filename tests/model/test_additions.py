"""Initializers that a file lacks: written, read by nodes, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_lsuv import model as m
from onnx_lsuv.errors import UsageError
from onnx_lsuv.model import sites

RNG = np.random.default_rng(0)


def added_scale(ir: int = 8) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""
        <ir_version: {ir}, opset_import: ["" : 17]>
        g (float[N,3] x) => (float[N,3] y) <float[3] s = {{1, 2, 3}}> {{
            a = Mul(x, s)
            y = Mul(a, s)
        }}""")


def node(nth: int) -> m.Site:
    return (*sites.MAIN_GRAPH, m.Step(sites.GRAPH_NODE, nth))


def run(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    return np.asarray(y)


@pytest.mark.parametrize("ir", [3, 8])
def test_a_node_reads_an_initializer_that_was_added(tmp_path: Path, ir: int) -> None:
    proto = added_scale(ir)
    if ir == 3:
        proto.graph.input.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [3]))
    before = m.from_proto(proto)
    new = np.array([4, 5, 6], np.float32)
    model = m.with_initializers(before, [m.Addition("t.of.another.length", new)], {(node(1), 1): "t.of.another.length"})
    m.save(model, tmp_path / "out.onnx")
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(run(tmp_path / "out.onnx", x), x * [4, 10, 18])
    after = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert [i.name for i in after.graph.input] == (["x"] if ir == 8 else ["x", "s", "t.of.another.length"])
    # What was added aside, the file is as it was.
    del after.graph.initializer[-1]
    after.graph.node[1].input[1] = "s"
    if ir == 3:
        del after.graph.input[-1]
    assert after == proto
    assert before.proto == proto


def test_what_was_added_has_values_like_any_other_tensor(tmp_path: Path) -> None:
    new = RNG.standard_normal((300, 3)).astype(np.float32)  # hollow in a skeleton
    model = m.with_initializers(m.from_proto(added_scale()), [m.Addition("a", new), m.Addition("b", new[0])])
    sites_of = {tensor.name: site for site, tensor in m.tensors(model.proto)}
    assert np.array_equal(m.read(model, sites_of["a"]), new)
    model = m.with_values(model, {sites_of["a"]: 2 * new})
    m.save(model, tmp_path / "out.onnx")
    m.save_weights(model, tmp_path / "out.npz")
    found = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert np.array_equal(found["a"], 2 * new)
    assert np.array_equal(found["b"], new[0])
    with np.load(tmp_path / "out.npz") as weights:
        assert {name: weights[name].tolist() for name in weights} == {n: a.tolist() for n, a in found.items()}
    assert m.to_bytes(model) == (tmp_path / "out.onnx").read_bytes()


def test_a_copy_of_external_data_is_external(tmp_path: Path) -> None:
    proto = added_scale()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 2, 3], np.float32), "s"))
    onnx.save_model(proto, tmp_path / "in.onnx", save_as_external_data=True, location="in.bin", size_threshold=0)
    before = (tmp_path / "in.bin").read_bytes()
    model = m.load(tmp_path / "in.onnx")
    s = (*sites.MAIN_GRAPH, m.Step(sites.GRAPH_INITIALIZER, 0))
    values = m.read(model, s)
    copies = [m.Addition(name, values * k, like=s) for k, name in enumerate("pq", 2)]
    for each, at in zip(copies, (0, 1), strict=True):
        model = m.with_initializers(model, [each], {(node(at), 1): each.name})
    (tmp_path / "out").mkdir()
    m.save(model, tmp_path / "out" / "out.onnx")
    after = onnx.load(tmp_path / "out" / "out.onnx", load_external_data=False)
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in after.graph.initializer)
    assert (tmp_path / "out" / "in.bin").read_bytes().startswith(before)
    assert (tmp_path / "in.bin").read_bytes() == before
    x = np.ones((1, 3), np.float32)
    assert np.array_equal(run(tmp_path / "out" / "out.onnx", x), x * values * values * 6)


def test_a_node_of_a_branch_reads_what_was_added_outside(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x, bool c) => (float[N,3] y) <float[3] s = {1, 2, 3}> {
            y = If (c) <
                then_branch = t () => (float[N,3] u) { u = Mul(x, s) },
                else_branch = e () => (float[N,3] v) { v = Mul(s, s) }
            >
        }""")
    branch = (*node(0), m.Step(sites.NODE_ATTRIBUTE, 0), m.Step(sites.ATTRIBUTE_GRAPH))
    inner = (*branch, m.Step(sites.GRAPH_NODE, 0))
    new = np.array([4, 5, 6], np.float32)
    within = m.Addition("within", new, graph=branch)
    for added in ([m.Addition("t", new)], [m.Addition("t", new), within]):
        model = m.with_initializers(m.from_proto(proto), added, {(inner, 1): added[-1].name})
        m.save(model, tmp_path / "out.onnx", force=True)
        session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {"x": np.ones((1, 3), np.float32), "c": np.array(True)})
        assert np.array_equal(np.asarray(y), new[None])
    old = onnx.ModelProto()
    old.CopyFrom(proto)
    old.ir_version = 3
    with pytest.raises(UsageError, match="no initializer 'within' can be added"):
        m.with_initializers(m.from_proto(old), [within])


def test_an_initializer_stands_in_for_a_node(tmp_path: Path) -> None:
    """The sites behind the node move, also where values have been given before, and in a branch."""
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 17]>
        g (float[N,3] x, bool c) => (float[N,3] y) <float[3] s = {1, 2, 3}> {
            p = Identity(s)
            q = Identity(s)
            k = Constant <value = float[3] {1, 1, 1}> ()
            z = If (c) <
                then_branch = t () => (float[N,3] u) <float[3] w = {5, 5, 5}> { u0 = Mul(x, w) u = Mul(u0, q) },
                else_branch = e () => (float[N,3] v) { v = Mul(x, s) }
            >
            a = Mul(z, k)
            y = Mul(a, p)
        }""")
    constant = (*node(2), m.Step(sites.NODE_ATTRIBUTE, 0), m.Step(sites.ATTRIBUTE_TENSOR))
    model = m.with_values(m.from_proto(proto), {constant: np.array([2, 2, 2], np.float32)})
    ten, seven = (np.full(3, value, np.float32) for value in (10, 7))
    model = m.with_initializers(model, [m.Addition("q", ten)], gone=[node(1)])
    model = m.with_initializers(
        model, [m.Addition("p", seven), m.Addition("r", ten / 2)], {(node(3), 1): "r"}, [node(0)]
    )
    (inner,) = (site for site, tensor in m.tensors(model.proto) if tensor.name == "w")
    model = m.with_values(model, {inner: np.array([1, 2, 4], np.float32)})
    m.save(model, tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert [each.op_type for each in after.graph.node] == ["If", "Mul", "Mul"]
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"), providers=["CPUExecutionProvider"])
    for c, expected in ((True, [1 * 10 * 5 * 7, 2 * 10 * 5 * 7, 4 * 10 * 5 * 7]), (False, [35, 70, 105])):
        (y,) = session.run(None, {"x": np.ones((1, 3), np.float32), "c": np.array(c)})
        assert np.asarray(y).tolist() == [expected]
