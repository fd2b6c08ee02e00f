"""Architectures without weights become models: whole, measured, and those that the same file with weights becomes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
from oracle import normal, parse
from stripping import STRIPS, as_inputs, external_gone, is_weight, unlisted, without_data

import onnx_lsuv
from onnx_lsuv import ModelError, Result, UsageError

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def cnn() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    given = {
        "w0": normal(8, 3, 3, 3),
        "w1": normal(16, 8, 3, 3),
        "b1": normal(16),
        "fw": normal(10, 16),
        "fb": normal(10),
    }
    for i, m in enumerate((8, 16)):
        given |= {f"s{i}": normal(m), f"t{i}": normal(m), f"m{i}": normal(m), f"v{i}": normal(m) ** 2}
    model = parse(
        f"""{HEAD} g (float[N,3,8,8] x) => (float[N,10] y) {{
        c0 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w0) n0 = BatchNormalization(c0, s0, t0, m0, v0) r0 = Relu(n0)
        c1 = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r0, w1, b1) n1 = BatchNormalization(c1, s1, t1, m1, v1)
        p = GlobalAveragePool(n1) f = Flatten(p) y = Gemm<transB=1>(f, fw, fb) }}""",
        given,
    )
    return model, {"x": normal(24, 3, 8, 8, seed=5)}


def mlp() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    given = {"w0": normal(12, 32), "b0": normal(32), "w1": normal(16, 32), "b1": normal(16), "a": normal(1, 16)}
    given |= {"w2": normal(16, 4), "b2": normal(4)}
    model = parse(
        f"""{HEAD} g (float[N,12] x) => (float[N,4] y) {{
        h0 = Gemm(x, w0, b0) r0 = Relu(h0) t1 = Transpose(w1) h1 = MatMul(r0, t1) z1 = Add(h1, b1) r1 = PRelu(z1, a)
        h2 = MatMul(r1, w2) y = Add(b2, h2) }}""",
        given,
    )
    return model, {"x": normal(64, 12, seed=5)}


def transformer() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    given = {"table": normal(20, 16), "pos": normal(1, 6, 16)}
    given |= {f"{k}": normal(16, 16, seed=i) for i, k in enumerate(("wq", "wk", "wv", "wo"))}
    given |= {k: normal(16) for k in ("bq", "bk", "bv", "bo", "s0", "t0", "s1", "t1", "b1")}
    given |= {"w0": normal(16, 32), "b0": normal(32), "w1": normal(32, 16)}
    model = parse(
        f"""{HEAD} g (int64[N,6] ids) => (float[N,6,16] y) {{
        e = Gather(table, ids) x = Add(e, pos) n0 = LayerNormalization(x, s0, t0)
        q0 = MatMul(n0, wq) q = Add(q0, bq) k0 = MatMul(n0, wk) k = Add(k0, bk) v0 = MatMul(n0, wv) v = Add(v0, bv)
        kt = Transpose<perm=[0,2,1]>(k) qk = MatMul(q, kt) scale = Constant<value=float {{0.25}}>() sc = Mul(qk, scale)
        p = Softmax(sc) a = MatMul(p, v) o0 = MatMul(a, wo) o = Add(o0, bo) h = Add(x, o)
        n1 = LayerNormalization(h, s1, t1) f0 = MatMul(n1, w0) f1 = Add(f0, b0) r = Relu(f1)
        g0 = MatMul(r, w1) g1 = Add(g0, b1) y = Add(h, g1) }}""",
        given,
    )
    return model, {"ids": np.random.default_rng(5).integers(0, 20, (16, 6))}


def lstm() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    given = {"w": normal(2, 32, 5), "r": normal(2, 32, 8), "b": normal(2, 64), "fw": normal(16, 3), "fb": normal(3)}
    model = parse(
        f"""{HEAD} g (float[7,N,5] x) => (float[7,N,3] y) {{
        h, hn, cn = LSTM<hidden_size=8, direction="bidirectional">(x, w, r, b) t = Transpose<perm=[0,2,1,3]>(h)
        shape = Constant<value=int64[3] {{0, 0, 16}}>() s = Reshape(t, shape) z = MatMul(s, fw) y = Add(z, fb) }}""",
        given,
    )
    return model, {"x": normal(7, 24, 5, seed=5)}


def decoder() -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    given = {
        "w0": normal(6, 128),
        "b0": normal(128),
        "w1": normal(8, 6, 4, 4),
        "w2": normal(6, 3, 4, 4),
        "b2": normal(3),
    }
    given |= {"s": normal(6), "t": normal(6), "m": normal(6), "v": normal(6) ** 2}
    model = parse(
        f"""{HEAD} g (float[N,6] z) => (float[N,3,16,16] y) {{
        h = Gemm(z, w0, b0) shape = Constant<value=int64[4] {{-1, 8, 4, 4}}>() r = Reshape(h, shape)
        c1 = ConvTranspose<kernel_shape=[4,4], strides=[2,2], pads=[1,1,1,1]>(r, w1)
        n = BatchNormalization(c1, s, t, m, v) a = Relu(n)
        c2 = ConvTranspose<kernel_shape=[4,4], strides=[2,2], pads=[1,1,1,1]>(a, w2, b2) y = Tanh(c2) }}""",
        given,
    )
    return model, {"z": normal(32, 6, seed=5)}


NETS = {"cnn": cnn, "mlp": mlp, "transformer": transformer, "lstm": lstm, "decoder": decoder}
# What no file tells once the initializers are gone, as nothing but a kernel's size and the graph's output has a shape.
SHAPES = {
    "cnn": {"w0": (8, 3, 3, 3)},
    "mlp": {"w0": (12, 32), "w1": (16, 32), "a": (1, 16)},
    "transformer": {
        "table": (20, 16),
        "pos": (1, 6, 16),
        "wq": (16, 16),
        "wk": (16, 16),
        "wv": (16, 16),
        "w0": (16, 32),
    },
    "decoder": {"w0": (6, 128), "w1": (8, 6, 4, 4)},
}


def made(path: Path, batch: dict[str, np.ndarray], **options: object) -> tuple[onnx.ModelProto, Result]:
    """Initialise a file, save and measure that; return what the saved file holds."""
    source = path.read_bytes()
    model = onnx_lsuv.load(path)
    shapes = options.pop("shapes", {})
    result = onnx_lsuv.initialize(onnx_lsuv.complete(model, list(batch), shapes), batch, **options)  # type: ignore[arg-type]
    target = path.with_suffix(".out.onnx")
    onnx_lsuv.save(result.model, target, force=True)
    assert path.read_bytes() == source
    onnx.checker.check_model(target, full_check=True)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == set(batch)
    assert all(np.isfinite(out).all() for out in session.run(None, batch))
    return onnx.load(target), onnx_lsuv.measure(onnx_lsuv.load(target), batch, like=result)


@pytest.mark.parametrize("kind", STRIPS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.few(8)
def test_an_architecture_becomes_what_its_model_becomes(net: str, kind: str, tmp_path: Path) -> None:
    model, batch = NETS[net]()
    (tmp_path / "whole.onnx").write_bytes(model.SerializeToString())
    STRIPS[kind](model, tmp_path / "bare.onnx")
    shapes = SHAPES.get(net, {}) if kind == "names" else {}
    after, result = made(tmp_path / "bare.onnx", batch, shapes=shapes, seed=3)
    # The full restart of the file that has weights gives the same ones.
    wanted, _ = made(tmp_path / "whole.onnx", batch, fresh=True, seed=3)
    found, other = oracle.all_float_tensors(after), oracle.all_float_tensors(wanted)
    assert {tensor.name for tensor in model.graph.initializer} <= set(found)
    for name, values in other.items():
        assert np.array_equal(found[name], values), name
    # Measured without the package; a recurrent layer's gates bound what it gives.
    assert result.good
    names = oracle.layer_values(after)
    moments = oracle.measure(after, [batch], list(dict.fromkeys(names[row.name] for row in result.layers)))
    for row in result.layers:
        if row.op != "LSTM":
            assert row.status == "ok"
            assert abs(moments[names[row.name]].var / row.target**2 - 1) < 0.005, row.name
    assert {change.tensor for change in result.changes if change.absent} == {
        tensor.name for tensor in model.graph.initializer if is_weight(tensor)
    }
    assert sum("as the file has no values for them" in note for note in result.notes) == 1
    again, _ = made(tmp_path / "bare.onnx", batch, shapes=shapes, seed=3)
    assert again == after


def test_parameters_start_as_they_usually_do(tmp_path: Path) -> None:
    model, batch = cnn()
    without_data(model, tmp_path / "bare.onnx")
    after, _ = made(tmp_path / "bare.onnx", batch)
    found = oracle.all_float_tensors(after)
    for name, value in (("s0", 1), ("t0", 0), ("s1", 1), ("t1", 0), ("b1", 0), ("fb", 0)):
        assert (found[name] == value).all(), name
    for i in (0, 1):  # the statistics are those of the data
        value = oracle.values(after, [batch], [f"c{i}"])[f"c{i}"][0].astype(np.float64)
        assert np.allclose(found[f"m{i}"], value.mean((0, 2, 3)), atol=1e-4)
        assert np.allclose(found[f"v{i}"], value.var((0, 2, 3)), rtol=1e-3)


def test_a_norm_before_any_layer_is_calibrated(tmp_path: Path) -> None:
    given = {"s": normal(3), "t": normal(3), "m": normal(3), "v": normal(3) ** 2, "w": normal(4, 3, 3, 3)}
    model = parse(
        f"{HEAD} g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ n = BatchNormalization(x, s, t, m, v) y = Conv(n, w) }}",
        given,
    )
    without_data(model, tmp_path / "bare.onnx")
    batch = {"x": 3 * normal(16, 3, 8, 8) + 5}
    after, _ = made(tmp_path / "bare.onnx", batch)
    found = oracle.all_float_tensors(after)
    assert np.allclose(found["m"], batch["x"].mean((0, 2, 3)), rtol=1e-4)
    assert np.allclose(found["v"], batch["x"].var((0, 2, 3)), rtol=1e-3)


def test_what_an_exporter_merged_starts_as_both_do(tmp_path: Path) -> None:
    """As PyTorch writes a new network: equal tensors are one, a norm's scale its variance, its bias its mean."""
    text = """c = Conv(x, w) v = Identity(s) m = Identity(t) n = BatchNormalization(c, s, t, m, v) r = Relu(n)
        k = Conv(r, u, t) y = BatchNormalization(k, s, t, m, v)"""
    model = parse(
        f"{HEAD} g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] s, float[4] t, float[4,4,3,3] u)"
        f" => (float[N,4,4,4] y) {{ {text} }}"
    )
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    after, result = made(tmp_path / "bare.onnx", {"x": normal(16, 3, 8, 8)})
    found = oracle.all_float_tensors(after)
    assert result.good
    assert (found["s"] == 1).all()
    assert (found["t"] == 0).all()


def test_a_name_that_nothing_makes_is_a_mistake_beside_weights() -> None:
    model = parse(
        f"{HEAD} g (float[N,4] x) => (float[N,4] y) {{ h = MatMul(x, w) y = Gemm(h, u) }}", {"w": normal(4, 4)}
    )
    with pytest.raises(ModelError, match="reads 'u', which no node before it makes"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model))
    model = parse(f"{HEAD} g (float[N,4] x) => (float[N,4] y) {{ y = Relu(u) }}")
    with pytest.raises(ModelError, match="reads 'u', which no node before it makes"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model))


@pytest.mark.parametrize("ir", [3, 8])
def test_nothing_but_values_is_written(ir: int, tmp_path: Path) -> None:
    model, batch = mlp()
    model.ir_version = ir
    for tensor in model.graph.initializer if ir < 4 else ():
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for kind in (without_data, as_inputs):
        kind(model, tmp_path / "bare.onnx")
        after, _ = made(tmp_path / "bare.onnx", batch)
        assert {value.name for value in after.graph.input} == {value.name for value in model.graph.input}
        assert {tensor.name for tensor in after.graph.initializer} == {
            tensor.name for tensor in model.graph.initializer
        }
        for part in (after, before := onnx.load(tmp_path / "bare.onnx")):
            del part.graph.initializer[:], part.graph.input[:]
        assert after == before


# -------------------------------------------------------------------------------------------- inputs: weights or data


def test_an_input_with_data_is_data(tmp_path: Path) -> None:
    """A blur whose kernel is given with the image, and a network that has no weights but that."""
    model = parse(f"{HEAD} g (float[N,1,8,8] x, float[1,1,3,3] k, float[4,1,3,3] w) => (float[N,4,6,6] y) {{"
                  " b = Conv<pads=[1,1,1,1]>(x, k) y = Conv(b, w) }")  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    batch = {"x": normal(8, 1, 8, 8), "k": normal(1, 1, 3, 3)}
    after, result = made(tmp_path / "m.onnx", batch)
    assert [row.weight for row in result.layers] == ["w"]
    assert [tensor.name for tensor in after.graph.initializer] == ["w"]
    assert [value.name for value in after.graph.input] == ["x", "k"]
    both = onnx_lsuv.complete(onnx_lsuv.load(tmp_path / "m.onnx"), ["x"])
    assert len(both.absent) == 2


def test_data_for_no_input_are_left_out(tmp_path: Path) -> None:
    for kind in (without_data, as_inputs):
        kind(mlp()[0], tmp_path / "bare.onnx")
        model, x = onnx_lsuv.load(tmp_path / "bare.onnx"), normal(8, 12)
        result = onnx_lsuv.initialize(model, {"z": normal(8, 12), "x": x})
        assert any("'z'" in note for note in result.notes)
        alone = onnx_lsuv.initialize(model, {"x": x})
        assert onnx_lsuv.to_bytes(result.model) == onnx_lsuv.to_bytes(alone.model)


def test_where_a_layer_has_a_weight_inputs_are_data(tmp_path: Path) -> None:
    model = parse(f"{HEAD} g (float[N,1,8,8] x, float[1,1,3,3] k) => (float y) {{"
                  " b = Conv<pads=[1,1,1,1]>(x, k) y = Conv(b, w) }", {"w": normal(4, 1, 3, 3)})  # fmt: skip
    loaded = onnx_lsuv.from_proto(model)
    assert onnx_lsuv.complete(loaded).absent == {}
    assert [row.weight for row in onnx_lsuv.plan(loaded).layers] == ["w"]


def test_of_two_inputs_that_are_multiplied_the_one_with_samples_is_data() -> None:
    for order, weight in (("x, w", "w"), ("w, x", "w")):
        shapes = {"x": "float[4,N]" if order == "w, x" else "float[N,4]", "w": "float[4,4]"}
        model = parse(f"{HEAD} g ({shapes['w']} w, {shapes['x']} x) => (float y) {{ y = MatMul({order}) }}")
        assert [row.weight for row in onnx_lsuv.plan(onnx_lsuv.from_proto(model)).layers] == [weight]
    # Both of them fixed: the second operand, unless data are given for it.
    model = onnx_lsuv.from_proto(parse(f"{HEAD} g (float[8,4] x, float[4,4] w) => (float y) {{ y = MatMul(x, w) }}"))
    assert [row.weight for row in onnx_lsuv.plan(model).layers] == ["w"]
    result = onnx_lsuv.initialize(model, {"w": normal(4, 4)}, tolerance=0.01)
    assert [row.weight for row in result.layers] == ["x"]


def test_states_and_whole_numbers_stay_inputs(tmp_path: Path) -> None:
    given = {"w": normal(1, 32, 5), "r": normal(1, 32, 8)}
    model = parse(
        f"""{HEAD} g (float[7,1,5] x, float[1,1,8] h0, float[1,1,8] c0, int32[1] n) => (float y) {{
        y, hn, cn = LSTM<hidden_size=8>(x, w, r, , n, h0, c0) }}""",
        given,
    )
    as_inputs(model, tmp_path / "bare.onnx")
    done = onnx_lsuv.complete(onnx_lsuv.load(tmp_path / "bare.onnx"))
    assert [value.name for value in done.proto.graph.input] == ["x", "h0", "c0", "n"]
    assert len(done.absent) == 2


# --------------------------------------------------------------------------------------------------------- shapes


def test_a_shape_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    model, _ = cnn()
    unlisted(model, tmp_path / "bare.onnx")
    loaded = onnx_lsuv.load(tmp_path / "bare.onnx")
    done = onnx_lsuv.complete(loaded)  # the shapes of what nodes make tell all of them
    assert {tuple(tensor.dims) for tensor in done.proto.graph.initializer} >= {(8, 3, 3, 3), (16, 8, 3, 3), (10, 16)}
    bare = onnx.load(tmp_path / "bare.onnx")
    del bare.graph.value_info[:]
    with pytest.raises(ModelError, match=r"'w0', which Conv 'c0' reads.*beyond \[\?, 3, 3, 3\].*--shape w0="):
        onnx_lsuv.complete(onnx_lsuv.from_proto(bare))
    with pytest.raises(UsageError, match=r"'W0', which is neither .*did you mean 'w0'"):
        onnx_lsuv.complete(loaded, shapes={"W0": (1,), "w0": (8, 3, 3, 3)})
    without_data(model, tmp_path / "bare.onnx")
    with pytest.raises(UsageError, match=r"\[1\] is given for 'w0', which has dims \[8, 3, 3, 3\]"):
        onnx_lsuv.complete(onnx_lsuv.load(tmp_path / "bare.onnx"), shapes={"w0": (1,)})


def test_settings_that_shapes_tell_are_found_and_others_named(tmp_path: Path) -> None:
    text = """g (float[4,3,8,8] x) => (float[4,5] y) {
        c = Conv<kernel_shape=[3,3]>(x, w) m = ReduceMean<keepdims=0>(c, axes) u = Unsqueeze(m, last)
        f = Reshape(u, shape) y = MatMul(f, fw) }"""
    model = parse('<ir_version: 9, opset_import: ["" : 18]>' + text, {"w": normal(7, 3, 3, 3), "fw": normal(7, 5)})
    for name, values in (("axes", [2, 3]), ("last", [2]), ("shape", [4, 7])):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    left = onnx.shape_inference.infer_shapes(model)
    del left.graph.initializer[:]
    (tmp_path / "bare.onnx").write_bytes(left.SerializeToString())
    after, _ = made(tmp_path / "bare.onnx", {"x": normal(4, 3, 8, 8)})
    found = {tensor.name: onnx.numpy_helper.to_array(tensor).tolist() for tensor in after.graph.initializer[:3]}
    assert found == {"axes": [2, 3], "last": [2], "shape": [4, 7]}
    del left.graph.value_info[:]
    with pytest.raises(ModelError, match=r"'axes'.*which nothing makes and which ReduceMean 'm' reads as a setting"):
        onnx_lsuv.complete(onnx_lsuv.from_proto(left), shapes={"w": (7, 3, 3, 3), "fw": (7, 5)})


# ------------------------------------------------------------------------------------------------- what is refused


def test_what_cannot_be_made_is_named(tmp_path: Path) -> None:
    model, _ = mlp()
    model.graph.initializer.append(onnx.TensorProto(name="shape", data_type=onnx.TensorProto.INT64, dims=[2]))
    with pytest.raises(ModelError, match=r"lacks the values of 'shape' \(int64; dims without data\): shapes, axes"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model))
    model = parse(f"{HEAD} g (float[N,4] x) => (float y) {{ m = MatMul(x, w) y = Mul(m, c) }}", {"w": normal(4, 4)})
    model.graph.initializer.append(onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT))
    with pytest.raises(ModelError, match=r"'c'.* has no values, and its place does not tell how it starts"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model))


def test_what_has_no_values_is_neither_kept_nor_measured_nor_saved(tmp_path: Path) -> None:
    model, batch = mlp()
    without_data(model, tmp_path / "bare.onnx")
    loaded = onnx_lsuv.load(tmp_path / "bare.onnx")
    with pytest.raises(UsageError, match="cannot be kept, as it has no values for 'w0', 'w1', 'w2'"):
        onnx_lsuv.plan(loaded, init="keep")
    with pytest.raises(UsageError, match="'w1' cannot be left alone"):
        onnx_lsuv.plan(loaded, exclude=["w1"])
    planned = onnx_lsuv.plan(loaded)
    for act in (
        lambda: onnx_lsuv.measure(loaded, batch),
        lambda: onnx_lsuv.save(planned.model, tmp_path / "out.onnx"),
        lambda: onnx_lsuv.save_weights(planned.model, tmp_path / "out.npz"),
        lambda: onnx_lsuv.to_bytes(planned.model),
        lambda: onnx_lsuv.save(onnx_lsuv.make_portable(planned).model, tmp_path / "out.onnx"),
        lambda: onnx_lsuv.save(onnx_lsuv.make_portable(loaded).model, tmp_path / "out.onnx"),
    ):
        with pytest.raises(ModelError, match=r"has no values for 'w0', .*: initialise it first"):
            act()
    assert not list(tmp_path.glob("out*"))
    assert any(note.startswith("would be made anew") for note in planned.notes)


def test_what_lacks_some_values_gets_those(tmp_path: Path) -> None:
    """As after Polygraphy's weight-strip, which empties the large ones; --keep-bias keeps what there is to keep."""
    model, batch = mlp()
    for tensor in model.graph.initializer:
        if len(tensor.dims) > 1 or tensor.name == "b1":
            tensor.ClearField("float_data")
            tensor.raw_data = b""
            tensor.doc_string = "TRT_WEIGHTLESS/"
    assert model.graph.initializer[0].HasField("raw_data")
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    after, result = made(tmp_path / "bare.onnx", batch, keep_bias=True)
    found, before = oracle.all_float_tensors(after), oracle.all_float_tensors(mlp()[0])
    assert result.good
    assert np.array_equal(found["b0"], before["b0"])
    assert not found["b1"].any()


def test_a_set_of_data_files_that_is_not_whole_is_a_mistake(tmp_path: Path) -> None:
    model, batch = mlp()
    external_gone(model, tmp_path / "bare.onnx")
    left = onnx.load(tmp_path / "bare.onnx", load_external_data=False)
    tensor = left.graph.initializer[-1]
    next(entry for entry in tensor.external_data if entry.key == "location").value = "there.bin"
    (tmp_path / "there.bin").write_bytes(bytes(100_000))
    (tmp_path / "bare.onnx").write_bytes(left.SerializeToString())
    with pytest.raises(ModelError, match=r"is missing: there is no .*bare\.onnx\.data"):
        made(tmp_path / "bare.onnx", batch)


def test_what_is_too_large_for_one_file_goes_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = mlp()
    without_data(model, tmp_path / "bare.onnx")
    small, _ = made(tmp_path / "bare.onnx", batch)
    monkeypatch.setattr("onnx_lsuv.model.absent.INLINE", 1000)
    large, result = made(tmp_path / "bare.onnx", batch)
    assert result.good
    assert {path.name for path in tmp_path.iterdir()} == {"bare.onnx", "bare.out.onnx", "bare.out.onnx.data"}
    found, other = oracle.all_float_tensors(large), oracle.all_float_tensors(small)
    assert {name: array.tolist() for name, array in found.items()} == {n: a.tolist() for n, a in other.items()}


def test_a_function_s_data_that_are_not_there_are_missed(tmp_path: Path) -> None:
    model = parse(
        """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, w) y = own.f(h) }
        <domain: "own", opset_import: ["" : 17]> f (a) => (b) {
            c = Constant<value=float[4,4] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>() b = MatMul(a, c) }""",
        {"w": normal(4, 4)},
    )
    for tensor in (model.graph.initializer[0], model.functions[0].node[0].attribute[0].t):
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="gone.bin")
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"is missing: there is no .*gone\.bin"):
        made(tmp_path / "bare.onnx", {"x": normal(8, 4)})


def test_data_that_are_not_there_are_written_beside_the_output(tmp_path: Path) -> None:
    model, batch = mlp()
    external_gone(model, tmp_path / "bare.onnx")
    _, result = made(tmp_path / "bare.onnx", batch)
    assert not (tmp_path / "bare.onnx.data").exists(), "it would be taken for the one that was lost"
    assert (tmp_path / "bare.out.onnx.data").exists()
    assert any("'bare.onnx.data' is not there" in note for note in result.notes)


@pytest.mark.parametrize(
    "node",
    [
        "g = com.microsoft.ConvGrad(x, x, w)",
        "g = com.microsoft.InPlaceAccumulatorV2(x, w)",
        "g = com.microsoft.AdamWOptimizer(x, w)",
        "g = SoftmaxCrossEntropyLoss(y, l)",
    ],
)
def test_graphs_that_train_are_no_networks(node: str) -> None:
    model = parse(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,4] x, int64[N] l, float[4,4] w) => (float g) {{ y = MatMul(x, w) {node} }}"""
    )
    op = node.partition("= ")[2].partition("(")[0].rpartition(".")[2]
    with pytest.raises(ModelError, match=f"ONNX Runtime Training made of one .it has '{op}'.: give the forward model"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model))


def test_a_checkpoint_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"\x1c\0\0\0ODTC" + bytes(64))
    with pytest.raises(ModelError, match="checkpoint of ONNX Runtime Training"):
        onnx_lsuv.load(tmp_path / "checkpoint")
