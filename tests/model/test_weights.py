"""The weights as a file of named arrays, read back by the packages whose formats these are."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
import safetensors.numpy
from onnx import helper, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import Model, OutputError, UsageError

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
KINDS = [".safetensors", ".npz"]


def loaded(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: archive[name] for name in archive.files}
    return safetensors.numpy.load_file(path)


def initialized(model: onnx.ModelProto, batch: dict[str, Any], **options: Any) -> Model:
    return onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batch, **options).model


def small() -> onnx.ModelProto:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{ a = Gemm(x, enc_weight, enc_bias) b = Relu(a)
      c = BatchNormalization(b, s, t, m, v) d = Mul(c, k) e = Reshape(d, shape) y = MatMul(e, head) }}"""
    return parse(
        text,
        {"enc_weight": normal(8, 8), "enc_bias": normal(8)},
        s=normal(8) ** 2,
        t=normal(8),
        m=normal(8),
        v=normal(8) ** 2 + 1,
        k=np.array(0.5, np.float32),
        shape=np.array([0, -1]),
        head=normal(8, 3, seed=2),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_floating_point_initializer_as_in_the_saved_model(tmp_path: Path, kind: str) -> None:
    new = initialized(small(), {"x": normal(64, 8)})
    path = tmp_path / f"w{kind}"
    assert onnx_lsuv.save_weights(new, path) == path
    onnx_lsuv.save(new, tmp_path / "m.onnx")
    saved = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    found = loaded(path)
    assert set(found) == set(saved) - {"shape"}
    for name, array in found.items():
        assert array.dtype == saved[name].dtype
        assert array.shape == saved[name].shape
        np.testing.assert_array_equal(array, saved[name])
    assert not np.array_equal(found["enc_weight"], normal(8, 8))
    assert not found["enc_bias"].any()
    onnx_lsuv.save_weights(onnx_lsuv.load(tmp_path / "m.onnx"), tmp_path / f"again{kind}")
    assert path.read_bytes() == (tmp_path / f"again{kind}").read_bytes()


def test_the_result_has_them_as_arrays(tmp_path: Path) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(small()), {"x": normal(64, 8)})
    found, written = result.weights(), loaded(onnx_lsuv.save_weights(result.model, tmp_path / "w.npz"))
    assert list(found) == list(written)
    for name, array in found.items():
        assert array.dtype == written[name].dtype
        np.testing.assert_array_equal(array, written[name], strict=True)
        array[...] = 0  # the caller's own
    assert result.weights()["enc_weight"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_written_by_hand_gives_the_same_outputs(tmp_path: Path, kind: str) -> None:
    x = normal(32, 8, seed=9)
    new = initialized(small(), {"x": normal(64, 8)})
    onnx_lsuv.save(new, tmp_path / "m.onnx")
    onnx_lsuv.save_weights(new, tmp_path / f"w{kind}")
    w = {name: array.astype(np.float64) for name, array in loaded(tmp_path / f"w{kind}").items()}
    hidden = np.maximum(x.astype(np.float64) @ w["enc_weight"] + w["enc_bias"], 0)
    hidden = (hidden - w["m"]) / np.sqrt(w["v"] + 1e-5) * w["s"] + w["t"]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], hidden * w["k"] @ w["head"], atol=1e-5)


def test_every_type_and_shape(tmp_path: Path) -> None:
    arrays = {
        "half": normal(3, 5, dtype=np.float16),
        "double": normal(7, dtype=np.float64),
        "bf": normal(5, 3).astype(ml_dtypes.bfloat16),
        "scalar": np.array(2.5, np.float32),
        "none": np.zeros((0, 4), np.float32),
        "ints": np.arange(3),
        "列/重み": normal(2, 2),
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [1])],
        [helper.make_tensor_value_info("y", 1, [1])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = onnx_lsuv.from_proto(helper.make_model(graph, ir_version=10))
    path = onnx_lsuv.save_weights(model, tmp_path / "w.safetensors")
    found = loaded(path)
    assert set(found) == set(arrays) - {"ints"}
    for name, array in found.items():
        assert array.dtype == arrays[name].dtype, name
        np.testing.assert_array_equal(array.astype(np.float64), arrays[name].astype(np.float64))
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    for name, about in json.loads(data[8 : 8 + size]).items():
        assert about["data_offsets"][0] % arrays[name].dtype.itemsize == 0
    with pytest.raises(OutputError, match=r"'bf'.*bfloat16.*safetensors"):
        onnx_lsuv.save_weights(model, tmp_path / "w.npz")
    assert not (tmp_path / "w.npz").exists()


def test_numbers_in_typed_lists_and_in_external_files(tmp_path: Path) -> None:
    model = small()
    tensor = model.graph.initializer[0]
    values = numpy_helper.to_array(tensor)
    tensor.CopyFrom(helper.make_tensor(tensor.name, 1, values.shape, values.reshape(-1)))
    assert tensor.float_data
    copy = oracle.loaded(model)
    onnx.save(copy, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    found = loaded(onnx_lsuv.save_weights(onnx_lsuv.load(tmp_path / "m.onnx"), tmp_path / "w.npz"))
    for one in model.graph.initializer:
        if one.data_type == 1:
            np.testing.assert_array_equal(found[one.name], numpy_helper.to_array(one))


@pytest.mark.parametrize("kind", KINDS)
def test_constants_that_become_initializers(tmp_path: Path, kind: str) -> None:
    text = f"""{HEAD} g (float[N,2] x) => (float y) {{ w = Constant<value = float[2,3] {{1, 2, 3, 4, 5, 6}}>()
      b = Constant<value_floats = [1.0, 2.0, 3.0]>() c = Constant<value = float {{3}}>() s = ConstantOfShape(two)
      h = Gemm(x, w, b) i = Mul(h, c) y = MatMul(i, s) }}"""
    new = initialized(parse(text, two=np.array([3, 2])), {"x": normal(64, 2)})
    path = onnx_lsuv.save_weights(new, tmp_path / f"w{kind}")
    onnx_lsuv.save(new, tmp_path / "m.onnx")
    saved = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer}
    found = loaded(path)
    assert set(found) == {"w", "b", "s"}
    for name, array in found.items():
        np.testing.assert_array_equal(array, saved[name])


def test_inner_graphs_and_functions(tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[N,4] x, bool c) => (float z) {{
      y = If (c) <then_branch = t () => (p) {{ p = MatMul(x, w) }}, else_branch = e () => (q) {{ q = MatMul(x, u) }}>
      z = f.Dense(y) }}
      <domain: "f", opset_import: ["" : 17]> Dense (x) => (y) {{
        k = Constant<value = float[4,2] {{1, 2, 3, 4, 5, 6, 7, 8}}>() one = Constant<value = float {{2}}>()
        h = MatMul(x, k) y = Mul(h, one) }}"""
    model = onnx.parser.parse_model(text.replace("17]>", '17, "f" : 1]>', 1))
    for attribute, name in zip(model.graph.node[0].attribute, ("w", "u"), strict=True):
        attribute.g.initializer.append(numpy_helper.from_array(normal(4, 4), name))
    new = initialized(model, {"x": normal(64, 4), "c": np.array(True)})
    for kind in KINDS:
        found = loaded(onnx_lsuv.save_weights(new, tmp_path / f"w{kind}"))
        assert set(found) == {"y.then_branch/w", "y.else_branch/u", "function:Dense/k"}
        onnx_lsuv.save(new, tmp_path / f"m{kind}.onnx")
        after = onnx.load(tmp_path / f"m{kind}.onnx")
        inside = numpy_helper.to_array(after.functions[0].node[0].attribute[0].t)
        np.testing.assert_array_equal(found["function:Dense/k"], inside)
        branch = numpy_helper.to_array(after.graph.node[0].attribute[0].g.initializer[0])
        np.testing.assert_array_equal(found["y.then_branch/w"], branch)


ODD = ["/encoder/w:0", "a/./b", "名前", "with space", 'quo"te', "w.npy", "C:d", "%s{0}", "tab\there", "a//b", "/", "."]


@pytest.mark.parametrize("kind", KINDS)
def test_odd_names_come_back(tmp_path: Path, kind: str) -> None:
    model = parse(f"{HEAD} g (float[N,4] x) => (float y) {{ y = MatMul(x, w_) }}", w_=normal(4, 4))
    del model.graph.initializer[:]
    for i, name in enumerate(ODD):
        model.graph.initializer.append(numpy_helper.from_array(np.full(3, i, np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 4), "w_"))
    found = loaded(onnx_lsuv.save_weights(onnx_lsuv.from_proto(model), tmp_path / f"w{kind}"))
    assert list(found) == [*ODD, "w_"] or kind != ".npz"
    for i, name in enumerate(ODD):
        assert found[name][0] == i, name


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (".npz", ["../up"]),
        (".npz", ["a/../../b"]),
        (".npz", ["back\\slash"]),
        (".npz", ["nul\0"]),
        (".npz", ["x" * 70000]),
        (".npz", ["w", "w.npy"]),
        (".safetensors", ["__metadata__"]),
    ],
    ids=range(7),
)
def test_names_that_would_not_come_back_are_refused(tmp_path: Path, kind: str, names: list[str]) -> None:
    model = parse(f"{HEAD} g (float[N,4] x) => (float y) {{ y = MatMul(x, w_) }}", w_=normal(4, 4))
    model.graph.initializer.extend(numpy_helper.from_array(normal(3), name) for name in names)
    with pytest.raises(OutputError, match="cannot hold a tensor called"):
        onnx_lsuv.save_weights(onnx_lsuv.from_proto(model), tmp_path / f"w{kind}")
    assert not list(tmp_path.iterdir())


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.safetensors or \.npz.*w\.pt"):
        onnx_lsuv.save_weights(onnx_lsuv.from_proto(small()), tmp_path / "w.pt")


@pytest.mark.parametrize("kind", KINDS)
def test_an_existing_file_is_replaced_only_with_force(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"w{kind}"
    path.write_bytes(b"old")
    model = onnx_lsuv.from_proto(small())
    with pytest.raises(OutputError, match="--force"):
        onnx_lsuv.save_weights(model, path)
    assert path.read_bytes() == b"old"
    onnx_lsuv.save_weights(model, path, force=True)
    assert loaded(path)["head"].shape == (8, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_on_the_way_leaves_nothing(tmp_path: Path, kind: str) -> None:
    onnx.save(small(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=100)
    (tmp_path / "m.data").write_bytes(b"short")
    with pytest.raises(onnx_lsuv.ModelError):
        onnx_lsuv.save_weights(onnx_lsuv.load(tmp_path / "m.onnx"), tmp_path / f"w{kind}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.data", "m.onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_second_copy_of_the_weights(tmp_path: Path, kind: str) -> None:
    big = normal(2048, 2048)
    text = f"{HEAD} g (float[N,2048] x) => (float y) {{ a = MatMul(x, w) b = MatMul(a, u) y = MatMul(b, v) }}"
    onnx.save(parse(text, w=big, u=big, v=big), tmp_path / "m.onnx")
    model = onnx_lsuv.load(tmp_path / "m.onnx")
    tracemalloc.start()
    onnx_lsuv.save_weights(model, tmp_path / f"w{kind}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * big.nbytes
    np.testing.assert_array_equal(loaded(tmp_path / f"w{kind}")["v"], big)


def test_unpacked_npz_stays_in_its_folder(tmp_path: Path) -> None:
    model = parse(f"{HEAD} g (float[N,4] x) => (float y) {{ y = MatMul(x, w_) }}", w_=normal(4, 4))
    model.graph.initializer.append(numpy_helper.from_array(normal(3), "a/b"))
    path = onnx_lsuv.save_weights(onnx_lsuv.from_proto(model), tmp_path / "w.npz")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a" / "b.npy"), normal(3))
    assert oracle.tensor_of(model, "a/b").shape == (3,)
