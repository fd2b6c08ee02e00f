"""An architecture without weights: what keeps its values, what does not, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call, fails, fill
from corpus import CORPUS
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper
from oracle import normal, parse
from stripping import STRIPS, Strip

import onnx_lsuv
from onnx_lsuv import OutputError, without_values

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
PAYLOAD = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yield all tensors of all graphs and functions, in a fixed order."""
    todo: list[Any] = [model.graph, *model.functions]
    while todo:
        scope = todo.pop()
        if isinstance(scope, GraphProto):
            yield from scope.initializer
        for node in scope.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                if attribute.HasField("g"):
                    todo.append(attribute.g)


def filled(tensor: TensorProto) -> bool:
    return any(len(getattr(tensor, name)) for name in PAYLOAD) or bool(tensor.external_data)


def cleared(model: ModelProto) -> bytes:
    """Return a model's bytes without any values."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in tensors(copy):
        for name in (*PAYLOAD, "external_data", "data_location"):
            tensor.ClearField(name)
    return bytes(copy.SerializeToString())


def stripped(model: ModelProto) -> tuple[ModelProto, onnx_lsuv.Architecture]:
    found = without_values(onnx_lsuv.from_proto(model))
    after = onnx.load_from_string(onnx_lsuv.to_bytes(found.model))
    assert cleared(after) == cleared(model)
    return after, found


def bare(model: ModelProto) -> set[str]:
    return {tensor.name for tensor in tensors(model) if not filled(tensor)}


NET = f"""{HEAD} g (float[N,3,16,16] x, int64[N] t) => (float z) {{
    c = Sub(x, mean) d = Div(c, sd)
    a = Conv<pads=[1,1,1,1]>(d, w, b) n = BatchNormalization(a, gamma, beta, m, v) p = PRelu(n, slope)
    f = Resize(p, none, scales) h = GlobalAveragePool(f) i = Flatten(h)
    e = Gather(table, t) s = Add(i, e) k = Mul(s, half) l = MatMul(k, u) z = Add(l, free)
}}"""


def net() -> ModelProto:
    generator = np.random.default_rng(0)
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "gamma": (8,), "beta": (8,), "m": (8,), "slope": (8, 1, 1)}
    weights = {name: normal(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
    weights |= {"table": normal(50, 8), "u": normal(8, 4), "free": normal(4), "v": generator.random(8, np.float32)}
    mean = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
    fixed = {"mean": mean, "sd": mean / 2, "scales": np.array([1, 1, 1.7, 1.7], np.float32), "half": np.float32(0.5)}
    return parse(NET, weights | fixed | {"none": np.zeros(0, np.float32)})


def test_what_may_be_learned_loses_its_values_and_the_rest_keeps_them() -> None:
    model = net()
    after, found = stripped(model)
    assert bare(after) - {"none"} == {"w", "b", "gamma", "beta", "m", "v", "slope", "table", "u", "free"}
    for before, tensor in zip(model.graph.initializer, after.graph.initializer, strict=True):
        assert (tensor.name, tensor.dims, tensor.data_type) == (before.name, before.dims, before.data_type)
        assert not filled(tensor) or tensor == before
    assert found.kept == {"mean": "fixed", "sd": "fixed", "scales": "setting"}
    assert found.good
    assert found.notes() == [
        "without values: 2 x weight, 2 x bias, 1 x scale, 1 x shift, 2 x statistics, 1 x slope, 1 x embedding",
        "kept, as somebody computed them: 'mean', 'sd'",
        "kept, as they belong to the architecture: 'scales'",
    ]


def test_with_its_values_back_it_is_the_model() -> None:
    model = net()
    after, found = stripped(model)
    old = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in after.graph.initializer:
        if tensor.name in found.removed:
            tensor.CopyFrom(old[tensor.name])
    assert after == model


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("raw", [True, False])
def test_every_way_to_store_a_weight(dtype: Any, raw: bool) -> None:
    word = {np.float32: "float", np.float16: "float16", np.float64: "double"}[dtype]
    model = parse(f"{HEAD} g ({word}[N,16] x) => ({word} z) {{ z = MatMul(x, w) }}", w=normal(16, 16).astype(dtype))
    values = numpy_helper.to_array(model.graph.initializer[0])
    if not raw:
        flat = values.view(np.uint16).reshape(-1) if dtype is np.float16 else values.reshape(-1)
        tensor = helper.make_tensor("w", model.graph.initializer[0].data_type, values.shape, flat.tolist())
        if dtype is np.float16:
            tensor = TensorProto(name="w", data_type=TensorProto.FLOAT16, dims=values.shape, int32_data=flat.tolist())
        model.graph.initializer[0].CopyFrom(tensor)
    after, _ = stripped(model)
    assert not filled(after.graph.initializer[0])
    assert len(after.SerializeToString()) < 200


def test_constants_lose_them_where_they_stand() -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float z) {{
        w = Constant<value = float[4,4] {{{", ".join(map(str, range(1, 17)))}}}>()
        b = Constant<value_floats = [0.5, 0.25, 0.125, 0.0625]>() h = Constant<value_float = 0.5>()
        y = MatMul(x, w) s = Add(y, b) z = Mul(s, h) }}"""
    model = parse(text)
    found = without_values(onnx_lsuv.from_proto(model))
    after = onnx.load_from_string(onnx_lsuv.to_bytes(found.model))
    assert found.removed == {"w": "weight", "b": "bias"}
    weight, bias, half = (node.attribute[0] for node in after.graph.node[:3])
    for attribute, dims in ((weight, [4, 4]), (bias, [4])):
        assert (attribute.name, attribute.type, list(attribute.t.dims)) == ("value", AttributeProto.TENSOR, dims)
        assert attribute.t.data_type == TensorProto.FLOAT
        assert not filled(attribute.t)
        assert not attribute.floats
    assert half == model.graph.node[2].attribute[0]
    assert after.graph.node[3:] == model.graph.node[3:]


def test_a_number_that_the_graph_fills_a_bias_with_stays() -> None:
    text = f"""{HEAD} g (float[N,3,8,8] x) => (float z) {{
        s = Constant<value_ints = [4]>() n = Constant<value = float {{0}}>() b = Expand(n, s)
        c = Conv(x, w, b) z = Relu(c) }}"""
    after, found = stripped(parse(text, w=normal(4, 3, 3, 3)))
    assert found.removed == {"w": "weight"}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(after), {"x": normal(16, 3, 8, 8)})
    assert result.good


def test_external_data_are_not_needed_any_more(tmp_path: Path) -> None:
    frames = np.fft.rfft(np.eye(64)).real.astype(np.float32)
    text = f"{HEAD} g (float[N,64] x) => (float z) {{ s = MatMul(x, dft) z = MatMul(s, w) }}"
    model = parse(text, {"dft": frames, "w": normal(33, 16)})
    onnx.save_model(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    found = without_values(onnx_lsuv.load(tmp_path / "m.onnx"))
    assert found.kept == {"dft": "fixed"}
    (tmp_path / "out").mkdir()
    assert onnx_lsuv.save(found.model, tmp_path / "out" / "a.onnx") == (tmp_path / "out" / "a.onnx",)
    after = onnx.load_model(str(tmp_path / "out" / "a.onnx"))
    kept, weight = after.graph.initializer
    assert weight == TensorProto(name="w", dims=(33, 16), data_type=TensorProto.FLOAT)
    np.testing.assert_array_equal(numpy_helper.to_array(kept), frames)
    with pytest.raises(OutputError, match="the model itself"):
        onnx_lsuv.save(found.model, tmp_path / "m.onnx", force=True)


FUNCTION = """
<ir_version: 10, opset_import: ["" : 17, "local" : 1]>
g (float[N,4] x) => (float z) { z = local.Dense(x) }
<domain: "local", opset_import: ["" : 17]>
Dense (x) => (z) { w = Constant<value = float[2,4] {1.5, 2.5, 3.25, 4.125, 5.5, 6.25, 7.125, 8.5}>()
                   t = Transpose(w) z = MatMul(x, t) }
"""


def test_what_stays_although_it_may_be_learned_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = onnx.parser.parse_model(FUNCTION)
    after, found = stripped(model)
    assert after == model
    assert not found.good
    onnx.save(model, "m.onnx")
    ran = call("m.onnx", "--no-values", status=1)
    said = "may be learned, and kept (a function's body cannot be without: inline it, onnx.inliner): 'w'"
    assert ran.stdout.splitlines() == ["without values: nothing", said, "saved m.arch.onnx"]
    assert ran.stderr == f"onnx-lsuv: {said}; 'm.arch.onnx' is saved all the same.\n"


def test_integers_of_a_quantised_model_are_named() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{ w = DequantizeLinear<axis=1>(q, s, o) y = MatMul(x, w)
        z = Add(y, b) }}"""
    generator = np.random.default_rng(0)
    whole = {"q": generator.integers(-128, 127, (8, 4), np.int8), "o": np.zeros(4, np.int8)}
    after, found = stripped(parse(text, whole | {"s": generator.random(4, np.float32), "b": normal(4)}))
    assert bare(after) == {"b"}
    assert not found.good
    assert found.left
    assert found.kept == {"s": "setting"}


def test_what_nothing_reads_tells_nothing_either() -> None:
    model = parse(f"{HEAD} g (float[N,8] x) => (float z) {{ z = MatMul(x, w) }}", w=normal(8, 8), spare=normal(9))
    twice = numpy_helper.from_array(normal(8, 8, seed=3), "w")
    model.graph.initializer.insert(0, twice)
    after, _ = stripped(model)
    assert not any(map(filled, after.graph.initializer))


def test_new_values_are_gone_as_the_old_ones_are() -> None:
    model = net()
    batch = {"x": normal(8, 3, 16, 16), "t": np.arange(8)}
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batch, fresh=True)
    found = without_values(result)
    assert onnx_lsuv.to_bytes(found.model) == onnx_lsuv.to_bytes(without_values(onnx_lsuv.from_proto(model)).model)


@pytest.mark.parametrize("name", ["torch__cnn_depthwise_grouped__ts", "rapidocr__ch_ppocr_mobile_v2.0_cls_mobile"])
def test_a_real_file_becomes_a_small_one(name: str) -> None:
    path = CORPUS / f"{name}.onnx"
    if not path.is_file():
        pytest.skip("no corpus")
    after, found = stripped(onnx.load(str(path)))
    assert found.good
    assert len(after.SerializeToString()) * 10 < path.stat().st_size
    for tensor in tensors(after):
        several = np.prod(tensor.dims) > 1 and tensor.data_type in FLOATS
        assert not (several and filled(tensor)) or tensor.name in found.kept


def test_the_command_saves_the_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path))
    before = (tmp_path / "m.onnx").read_bytes()
    ran = call("m.onnx", "--no-values")
    assert ran.stdout.splitlines() == ["without values: 2 x weight, 1 x bias", "saved m.arch.onnx"]
    assert (tmp_path / "m.arch.onnx").stat().st_size < 300
    assert (tmp_path / "m.onnx").read_bytes() == before
    assert fails(6, "m.onnx", "--no-values")  # which is there already
    assert call("m.onnx", "--no-values", "--force", "-q", "-o", "a.onnx").stdout == ""
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "m.arch.onnx").read_bytes()
    said = fails(2, "m.onnx", "--no-values", "--random", "--report", "r.json", "--fresh")
    assert "saves an architecture: leave out '--random', '--report', '--fresh', or" in said
    assert "leave out '--check'" in fails(2, "m.onnx", "--no-values", "--check")


@pytest.mark.parametrize("strip", STRIPS.values(), ids=STRIPS)
@pytest.mark.parametrize("ir", [3, 10])
def test_of_an_architecture_the_architecture_stays(strip: Strip, ir: int, tmp_path: Path) -> None:
    text = f"{HEAD} g (float[N,4] x) => (float[N,3] z) {{ y = Gemm(x, w, b) r = Relu(y) z = MatMul(r, u) }}"
    model = parse(text, w=normal(4, 4), b=normal(4), u=normal(4, 3))
    model.ir_version = ir
    if ir < 4:
        model.graph.input.extend(
            helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.dims) for t in model.graph.initializer
        )
    strip(model, tmp_path / "m.onnx")
    found = without_values(onnx_lsuv.load(tmp_path / "m.onnx"))
    assert found.removed == {"w": "weight", "b": "bias", "u": "weight"}
    after = onnx.load_from_string(onnx_lsuv.to_bytes(found.model))
    assert bare(after) == {"w", "b", "u"}
    assert [value.name for value in after.graph.input] == (["x", "w", "b", "u"] if ir < 4 else ["x"])
    (tmp_path / "a.onnx").write_bytes(after.SerializeToString())
    drawn = [
        onnx_lsuv.to_bytes(onnx_lsuv.initialize(onnx_lsuv.from_proto(each), {"x": normal(64, 4)}).model)
        for each in (after, model)
    ]
    one, two = (
        {
            tensor.name: numpy_helper.to_array(tensor).tobytes()
            for tensor in onnx.load_from_string(each).graph.initializer
        }
        for each in drawn
    )
    assert one == two


@pytest.mark.parametrize("outside", [False, True])
def test_what_was_parted_has_no_values_either(outside: bool, tmp_path: Path) -> None:
    text = f"""{HEAD} g (float[N,3,8,8] x) => (float z) {{
        a = Conv(x, w) n = BatchNormalization(a, one, zero, zero, one) r = Relu(n) k = Identity(zero)
        c = Conv(r, u, k) z = BatchNormalization(c, one, zero, zero, one) }}"""
    equal = {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    model = parse(text, equal | {"w": normal(4, 3, 3, 3), "u": normal(4, 4, 1, 1)})
    onnx.save_model(model, str(tmp_path / "m.onnx"), save_as_external_data=outside, size_threshold=0, location="m.data")
    result = onnx_lsuv.initialize(onnx_lsuv.load(tmp_path / "m.onnx"), {"x": normal(8, 3, 8, 8)}, untie=True)
    (saved, *_) = reversed(onnx_lsuv.save(result.model, tmp_path / "parted.onnx"))
    before = onnx.load(str(saved))
    assert len(before.graph.initializer) > 6
    after = onnx.load_from_string(onnx_lsuv.to_bytes(without_values(result).model))
    assert bare(after) == {tensor.name for tensor in before.graph.initializer}
    assert cleared(after) == cleared(before)


def test_the_command_is_told_shapes_that_nothing_else_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fill(tmp_path))
    onnx.save(parse(f"{HEAD} g (float[N,4] x) => (float z) {{ z = MatMul(x, w) }}"), "names.onnx")
    refused = fails(3, "names.onnx", "--no-values")
    assert "give '--shape w=...' with its dims, in Python complete(model, shapes={'w': [...]})" in refused
    call("names.onnx", "--no-values", "--shape", "w=4,6")
    (weight,) = onnx.load_model("names.arch.onnx").graph.initializer
    assert weight == TensorProto(name="w", dims=(4, 6), data_type=TensorProto.FLOAT)
    assert "nor a tensor without values" in fails(2, "m.onnx", "--no-values", "--shape", "w=16,16")
