"""What a file keeps of what it learned: compared tensor by tensor, old file with new, by nothing but onnx and NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call, fails
from control_graphs import control_case
from corpus import ABSENT, CORPUS, ENTRIES, SEEDS, batches_of, named
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper
from oracle import normal, parse
from quantised_graphs import case as quantised_case
from random_graphs import random_case

import onnx_lsuv
from onnx_lsuv import Result
from onnx_lsuv.errors import DeviceError

HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
# What somebody computed, in models of the corpus, as was found by looking at each.
FIXED = {
    "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__version-RFB-320.onnx": {"465", "467", "473"},  # boxes
    "silero_vad__silero_vad.onnx": {
        "If_0_else_branch__Inline_0__stft.forward_basis_buffer",
        "If_0_then_branch__Inline_0__stft.forward_basis_buffer",
    },
    "basic_pitch__nmp.onnx": {  # of its constant-Q transform
        "const_fold_opt__734", "const_fold_opt__664", "const_fold_opt__655",
        "model_1/cq_t2010v2_1/Sqrt;model_1/cq_t2010v2_1/Sqrt",
    },
    "hf__hf_whisper_encoder__ts.onnx": {"onnx::Add_279"},  # sinusoids
}  # fmt: skip
# In doubt: a norm of one channel that was folded, a normaliser of observations, a bias that nothing reads, a product of
# two constants.
DOUBT = {
    "basic_pitch__nmp.onnx",
    "google-deepmind_mujoco_playground__apollo_policy.onnx",
    "NeuralNetworkVerification_Marabou__oneInput_twoBranches.onnx",
    "torch__lora_merged_nofold__ts.onnx",
}
SETTINGS = ("Resize", "Upsample", "Clip", "QuantizeLinear", "DequantizeLinear")
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}


def tensors(model: ModelProto) -> dict[tuple[str, str], NDArray[Any]]:
    """Return every float tensor that a graph or a function of a file holds, by its place and name."""
    found = dict(in_graph(model.graph, ""))
    for function in model.functions:
        found |= dict(in_nodes(function.node, f"{function.name}/"))
    return found


def in_graph(graph: GraphProto, path: str) -> Iterator[tuple[tuple[str, str], NDArray[Any]]]:
    for tensor in graph.initializer:
        if tensor.data_type in FLOATS:
            yield (path, tensor.name), numpy_helper.to_array(tensor)
    yield from in_nodes(graph.node, path)


def in_nodes(nodes: Any, path: str) -> Iterator[tuple[tuple[str, str], NDArray[Any]]]:
    for at, node in enumerate(nodes):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from in_graph(attribute.g, f"{path}{node.output[0]}.{attribute.name}/")
            elif attribute.type == AttributeProto.TENSOR and attribute.t.data_type in FLOATS:
                key = node.output[0] if node.op_type == "Constant" else f"{at}.{attribute.name}"
                yield (path, key), numpy_helper.to_array(attribute.t)


def tells(array: NDArray[Any]) -> bool:
    """Say whether values could have been learned: several, not all alike, not in steps of one half."""
    values = array.astype(np.float64).reshape(-1)
    stepped = (2 * values == np.rint(2 * values)).all() or not np.isfinite(values).all()
    return bool((values != values[:1]).any() and not stepped)


def same(before: ModelProto, after: ModelProto) -> set[str]:
    """Return the names of the tensors that kept what they may have learned."""
    new = tensors(after)
    return {
        key[1] for key, old in tensors(before).items() if tells(old) and key in new and np.array_equal(old, new[key])
    }


def restart(model: ModelProto, batches: Any, **options: Any) -> tuple[Result, ModelProto]:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches, fresh=True, strict=True, **options)
    agree(result)
    return result, onnx.load_from_string(onnx_lsuv.to_bytes(result.model))


def agree(result: Result) -> None:
    """What remains is what the roles say to be kept, and to be neither fixed nor a setting."""
    causes = {(each.tensor, each.scope): each.cause for each in result.remaining}
    roles = [role for role in result.roles if (role.tensor, role.scope) in causes]
    for role in roles:
        part = causes[role.tensor, role.scope] == "a part of it is no layer's"
        assert (role.fate == "kept") != part, role
        settled = (role.role == "fixed" and role.evidence != "place") or role.role == "setting"
        assert role.evidence == "type" or not settled, role


def left(result: Result) -> dict[str, str]:
    return {each.tensor: each.cause for each in result.remaining}


# --------------------------------------------------------------------------------------------------------- real models


@pytest.mark.skipif(not ENTRIES, reason=ABSENT)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("entry", named("init", "partial"))
@pytest.mark.few(8)
def test_nothing_learned_stays_unnamed(entry: dict[str, Any]) -> None:
    name, seed = entry["file"], SEEDS.get(entry["file"], 0)
    model = onnx_lsuv.load(CORPUS / name)
    result = onnx_lsuv.initialize(model, batches_of(entry), fresh=True, strict=True, seed=seed)
    after = onnx.load_from_string(onnx_lsuv.to_bytes(result.model)) if "external" not in name else None
    assert all(row.good for row in result.layers)
    assert result.good == (not result.remaining) == (name not in DOUBT)
    if after is not None:
        kept = same(onnx.load(str(CORPUS / name)), after)
        assert kept - left(result).keys() == FIXED.get(name, set())
        assert not FIXED.get(name, set()) & left(result).keys()


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("draw", [random_case, control_case, quantised_case])
@pytest.mark.few(20)
def test_random_models(draw: Callable[[int], Any], seed: int) -> None:
    case = draw(seed)
    try:
        result, after = restart(case.model, case.batches)
    except DeviceError as error:
        if "QuantizeLinear" not in str(error) or "Unsupported quantization type" not in str(error):
            raise
        pytest.skip("ONNX Runtime's CUDA quantises to some types only")
    settings = {name for node in case.model.graph.node if node.op_type in SETTINGS for name in node.input[1:]}
    assert same(case.model, after) - left(result).keys() <= settings
    assert result.good == (not result.remaining and all(row.good for row in result.layers))


def trained_otherwise(before: ModelProto, after: ModelProto) -> ModelProto:
    """Return a model with noise in the place of all that a restart changed, variances positive; zeros stay zeros."""
    copy, rng, new = ModelProto(), np.random.default_rng(1), tensors(after)
    copy.CopyFrom(before)
    norms = [node for node in before.graph.node if node.op_type == "BatchNormalization"]
    positive = {node.input[4] for node in norms}
    for tensor in copy.graph.initializer:
        old = numpy_helper.to_array(tensor)
        if tensor.data_type not in FLOATS or np.array_equal(old, new["", tensor.name]):
            continue
        noise = 0.1 + 0.3 * rng.standard_normal(old.shape)
        noise = np.where(old == 0, 0, np.abs(noise) if tensor.name in positive else noise)
        tensor.CopyFrom(numpy_helper.from_array(noise.astype(old.dtype), tensor.name))
    return copy


def restarts_alike(model: ModelProto, batches: Any, **options: Any) -> None:
    """Whatever was learned in what a restart changes, the restart is the same, tensor for tensor."""
    result, after = restart(model, batches, **options)
    other, again = restart(trained_otherwise(model, after), batches, **options)
    assert other.remaining == result.remaining
    assert {k: v.tobytes() for k, v in tensors(again).items()} == {k: v.tobytes() for k, v in tensors(after).items()}


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("draw", [random_case, control_case])
@pytest.mark.few(8)
def test_random_models_restart_alike(draw: Callable[[int], Any], seed: int) -> None:
    case = draw(seed)
    restarts_alike(case.model, case.batches)


ALIKE = (
    "microsoft_onnxruntime-genai__tiny-random-gpt2-fp32_past", "hf__hf_vit__dynamo", "hf__hf_convnext__ts",
    "ort__hf_bert__ts__tfopt_bert", "torch__unet_convtranspose__dynamo", "torch__crnn_ocr__ts",
    "oracle_tribuo__tinybert",
)  # fmt: skip


@pytest.mark.skipif(not ENTRIES, reason=ABSENT)
@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.few(2)
def test_real_models_restart_alike(name: str) -> None:
    (entry,) = (each for each in ENTRIES if each["file"] == f"{name}.onnx")
    restarts_alike(onnx.load(str(CORPUS / entry["file"])), batches_of(entry))


@pytest.mark.parametrize("name", ["fitnet_digits", "mlp", "resnet_nonorm", "transformer"])
def test_sample_models(name: str) -> None:
    path = Path(__file__).resolve().parents[2] / "sample_models" / f"{name}.onnx"
    result = onnx_lsuv.plan(onnx_lsuv.load(path), fresh=True, strict=True)
    assert result.good
    assert not result.remaining


# ------------------------------------------------------------------------------------------------ what cannot be reset


BATCH = {"x": normal(64, 8)}
DENSE = {"w": normal(8, 8), "u": normal(8, 4)}


def test_nothing_is_left_of_a_plain_network() -> None:
    text = (
        f"{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) l = LayerNormalization(h, s, t) y = MatMul(l, u) }}"
    )
    result, after = restart(parse(text, DENSE, s=normal(8), t=normal(8)), BATCH)
    assert result.good
    assert left(result) == {}
    assert not any(note.startswith("fresh") for note in result.notes)
    assert not any(tells(array) for (_, name), array in tensors(after).items() if name in ("s", "t"))


@pytest.mark.parametrize("strict", [False, True])
def test_what_nothing_reads_is_named(strict: bool) -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) y = MatMul(h, u) }}"
    model = parse(text, DENSE, **{f"old{i}": normal(7 + i) for i in range(9)}, ones=np.ones(5, np.float32))
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCH, fresh=True, strict=strict)
    assert left(result) == {f"old{i}": "nothing reads it" for i in range(9)}
    assert result.good is not strict
    (note,) = (note for note in result.notes if note.startswith("fresh"))
    assert note.endswith("keep their values: nothing reads it")
    # That a file can be shared is a matter of every name.
    assert ("'old8'" in note) is strict
    assert ("and 4 more" in note) is not strict
    assert result.doubts == tuple(f"'old{i}' may keep what it learned: nothing reads it" for i in range(9) if strict)
    assert not onnx_lsuv.initialize(onnx_lsuv.from_proto(model), BATCH).remaining


def test_a_part_of_a_weight_that_no_layer_uses() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      v = Slice(w, start, end, axis) h = MatMul(x, v) y = MatMul(h, u) }}"""
    bounds = {"start": np.array([0]), "axis": np.array([1])}
    for end, cause in ((8, {"w": "a part of it is no layer's"}), (12, {})):
        tensors = bounds | {"w": normal(8, 12), "u": normal(end, 4), "end": np.array([end])}
        assert left(restart(parse(text, tensors), BATCH)[0]) == cause


def test_codes_of_a_quantised_weight() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{ q = DequantizeLinear(codes, step) h = MatMul(x, q)
      k = DequantizeLinear(whole, step) g = Add(h, k) y = MatMul(g, u) }}"""
    codes = np.random.default_rng(0).integers(-99, 99, (8, 8)).astype(np.int8)
    more = {"whole": np.arange(5, 13, dtype=np.int32), "step": np.array(0.013, np.float32), "u": normal(8, 4)}
    result, _ = restart(parse(text, more, codes=codes), BATCH)
    assert left(result).keys() == {"codes", "whole"}
    assert all("quantised" in cause for cause in left(result).values())
    assert not result.good


def test_quantised_operators_and_bytes() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,32] x) => (float y) {
      h = com.microsoft.MatMulNBits<K=32, N=8, bits=4, block_size=32>(x, packed, steps) y = MatMul(h, u) }"""
    packed = np.random.default_rng(0).integers(0, 255, (8, 1, 16)).astype(np.uint8)
    model = parse(text, packed=packed, steps=0.1 * normal(8) ** 2, u=normal(8, 4))
    result, _ = restart(model, {"x": normal(64, 32)})
    assert left(result).keys() >= {"packed", "steps"}


def test_a_weight_of_whole_numbers() -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ f = Cast<to = 1>(whole) h = MatMul(x, f) y = MatMul(h, u) }}"
    model = parse(text, whole=np.random.default_rng(0).integers(-5, 5, (8, 8)), u=normal(8, 4))
    assert left(onnx_lsuv.plan(onnx_lsuv.from_proto(model), fresh=True)).keys() == {"whole"}


def test_attributes_functions_and_training_graphs() -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "f" : 1]> g (float[N,8] x) => (float y) {
      h = MatMul(x, w) y = MatMul(h, u) }
      <domain: "f", opset_import: ["" : 17]> Old (x) => (y) {
        k = Constant<value = float[3] {0.3, 1.4, 2.6}>() y = Mul(x, k) }"""
    model = parse(text, DENSE)
    table = helper.make_node("Scaler", ["x"], ["z"], domain="ai.onnx.ml", offset=[0.3, 0.7], scale=[1.7, 1.9])
    model.graph.node.append(table)
    model.graph.node.append(helper.make_node("Identity", ["z"], ["out"]))
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    compiled = helper.make_node("EPContext", ["x"], ["c"], domain="com.microsoft", ep_cache_context="w" * 5000)
    model.graph.node.append(compiled)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.training_info.add().algorithm.initializer.append(numpy_helper.from_array(normal(4), "momentum"))
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model), fresh=True, strict=True)
    assert left(plan) == {
        "momentum": "it belongs to the file's own training graphs",
        "k": "nothing calls its function with it",
        "z": "the weight is an attribute of the node, which no framework trains",
        "c": "the weight is an attribute of the node, which no framework trains",
    }


def test_sparse_weights() -> None:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) l = MatMul(h, s) y = MatMul(l, u) }}"
    values = numpy_helper.from_array(normal(3), "s")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 9, 40]), ""), [8, 8])
    model = parse(text, DENSE)
    model.graph.sparse_initializer.append(sparse)
    assert left(onnx_lsuv.plan(onnx_lsuv.from_proto(model), fresh=True)).keys() == {"s"}


@pytest.mark.parametrize(
    "moved",
    [
        "p = Resize<mode = 'linear'>(table, none, none, sizes)",
        "p = Pad(table, edges)",
        "p = Clip(table, low)",
        "q = QuantizeLinear(table, low) p = DequantizeLinear(q, low)",
    ],
)
def test_an_operand_is_no_setting_because_the_others_are(moved: str) -> None:
    text = f"""{HEAD} g (float[N,4,8] x) => (float y) {{ h = MatMul(x, w) {moved} s = Softplus(p) k = Mul(h, s)
      y = MatMul(k, u) }}""".replace("'", '"')
    more: dict[str, Any] = {"sizes": np.int64([4, 8]), "edges": np.int64([0, 0, 0, 0]), "low": np.float32(0.1)}
    model = parse(text, DENSE, none=np.zeros(0, np.float32), table=normal(4, 8), **more)
    assert left(onnx_lsuv.plan(onnx_lsuv.from_proto(model), fresh=True)).keys() == {"table"}


def test_thresholds_of_trees_as_products() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) l = Less(h, bounds) f = Cast<to = 1>(l)
      y = MatMul(f, u) }}"""
    for bounds, kept in ((normal(8), {"bounds"}), (np.zeros(8, np.float32), set()), (np.float32([0.7]), set())):
        plan = onnx_lsuv.plan(onnx_lsuv.from_proto(parse(text, DENSE, bounds=bounds)), fresh=True)
        assert left(plan).keys() == kept


def test_a_norm_whose_parameters_take_the_type_of_the_data() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) l = LayerNormalization(h, ones)
      a = CastLike(s, l) m = Mul(l, a) b = CastLike(t, m) k = Add(m, b) y = MatMul(k, u) }}"""
    result, after = restart(parse(text, DENSE, s=normal(8), t=normal(8), ones=np.ones(8, np.float32)), BATCH)
    assert result.good
    found = tensors(after)
    np.testing.assert_array_equal(found["", "s"], np.ones(8))
    np.testing.assert_array_equal(found["", "t"], np.zeros(8))


def test_statistics_of_the_input_stay_unless_asked() -> None:
    text = f"""{HEAD} g (float[N,3,4,4] x) => (float y) {{ n = BatchNormalization(x, s, t, m, v) y = Conv(n, w) }}"""
    tensors = {"s": normal(3), "t": normal(3), "m": normal(3), "v": normal(3) ** 2 + 0.3, "w": normal(4, 3, 1, 1)}
    batch = {"x": normal(64, 3, 4, 4)}
    result, _ = restart(parse(text, tensors), batch)
    cause = "no changed weight lies before it; --recalibrate sets it from the data"
    assert left(result) == dict.fromkeys(("m", "v"), cause)
    assert restart(parse(text, tensors), batch, recalibrate=True)[0].good
    # As somebody wrote them down they prepare the input.
    written = tensors | {"m": np.array([104, 117, 123], np.float32), "v": np.ones(3, np.float32)}
    assert restart(parse(text, written), batch)[0].good


@pytest.mark.parametrize("batches", [1, 3])
def test_statistics_that_no_data_reach_start_anew_too(batches: int) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float y) {{ h = MatMul(x, w) z = ReduceMax<keepdims=0>(x) c = Less(z, low)
      y = If(c) <then_branch = a () => (float p) {{ p = BatchNormalization(h, s, t, m, v) }},
                 else_branch = b () => (float q) {{ q = BatchNormalization(h, s, t, n, u) }}> }}"""
    names = {name: 0.3 + normal(4, seed=i) ** 2 for i, name in enumerate("stmvnu")}
    model = parse(text, names | {"w": normal(4, 4), "low": np.array(-99, np.float32)})
    data = [{"x": normal(64, 4, seed=i)} for i in range(batches)]
    result, after = restart(model, data)
    plan = onnx_lsuv.plan(onnx_lsuv.from_proto(model), fresh=True, strict=True)
    assert left(result) == left(plan) == {}
    new = {name: array for (_, name), array in tensors(after).items()}
    reached = np.concatenate([batch["x"] for batch in data]).astype(np.float64) @ new["w"]
    for name, values in {"m": np.zeros(4), "v": np.ones(4), "n": reached.mean(0), "u": reached.var(0)}.items():
        np.testing.assert_allclose(new[name], values, rtol=1e-4, atol=1e-5)
    fates = {role.tensor: role.fate for role in result.roles}
    assert {name: fates[name] for name in "mvnu"} == dict.fromkeys("mv", "fresh") | dict.fromkeys("nu", "calibrated")
    kept = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), data)
    fates = {role.tensor: role.fate for role in kept.roles}
    assert {name: fates[name] for name in "mvnu"} == dict.fromkeys("mv", "kept") | dict.fromkeys("nu", "calibrated")
    assert {"m", "v"}.isdisjoint(change.tensor for change in kept.changes)
    # With nothing to keep they start so in any case.
    for name in names:
        tensor = next(each for each in model.graph.initializer if each.name == name)
        tensor.ClearField("raw_data")
    anew = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), data)
    made = {tensor.name: tensor for tensor in onnx.load_from_string(onnx_lsuv.to_bytes(anew.model)).graph.initializer}
    assert all(numpy_helper.to_array(made[name]).tobytes() == new[name].tobytes() for name in (*names, "w"))


def test_what_prepares_the_input_is_written_down() -> None:
    text = f"{HEAD} g (float[N,3,4,4] x) => (float y) {{ a = Sub(x, m) b = Div(a, d) y = Conv(b, w) }}"
    tensors = {"m": np.array([0.485, 0.456, 0.406], np.float32)[:, None, None], "w": normal(4, 3, 1, 1)}
    tensors["d"] = 1 / np.array([0.229, 0.224, 0.225], np.float32)[:, None, None]
    batch = {"x": normal(64, 3, 4, 4)}
    assert restart(parse(text, tensors), batch)[0].good
    learned = tensors | {"m": normal(3, 1, 1)}
    assert left(restart(parse(text, learned), batch)[0]).keys() == {"m"}


def test_what_resizes_is_a_setting_whatever_patterns_exclude() -> None:
    text = (
        f"""{HEAD} g (float[N,3,4,4] x) => (float y) {{ h = Conv(x, w) r = Resize(h, none, scales) y = Conv(r, u) }}"""
    )
    tensors = {"w": normal(4, 3, 1, 1), "u": normal(4, 4, 1, 1), "none": np.zeros(0, np.float32)}
    tensors["scales"] = np.array([1, 1, 1.7, 1.3], np.float32)
    result, _ = restart(parse(text, tensors), {"x": normal(64, 3, 4, 4)}, exclude=["scales", "u"])
    assert left(result) == {"u": "excluded by the user"}


def test_a_single_number_may_be_learned() -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      h = MatMul(x, w) k = Mul(h, number) c = Relu(k) d = Pow(c, power) y = MatMul(d, u) }}"""
    power, sizes = np.array(2, np.float32), {0.37: True, 1 / 8**0.5: True, 0.4129384: False}
    for number, good in sizes.items():
        result, _ = restart(parse(text, DENSE, number=np.array(number, np.float32), power=power), BATCH)
        assert result.good is good
    result, _ = restart(parse(text, DENSE, number=np.array(1, np.float32), power=power + 0.71828), BATCH)
    assert left(result).keys() == {"power"}


# ---------------------------------------------------------------------------------------------------------- the command


@pytest.fixture
def file(tmp_path: Path) -> Path:
    text = f"{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) y = MatMul(h, u) }}"
    path = tmp_path / "net.onnx"
    path.write_bytes(parse(text, DENSE, old=normal(8)).SerializeToString())
    np.save(tmp_path / "x.npy", BATCH["x"])
    return path


def test_strict_is_status_1(file: Path) -> None:
    data, out = ("-d", str(file.with_name("x.npy"))), ("-o", str(file.with_name("out.onnx")), "--force")
    call(str(file), *data, *out, "--fresh")
    ran = call(str(file), *data, *out, "--fresh", "--strict", status=1)
    (line,) = ran.stderr.splitlines()
    assert "1 tensor may keep what it learned: 'old'" in line
    assert "is saved all the same" in line
    ran = call(str(file), "--fresh", "--strict", "--dry-run", status=1)
    assert "fresh: 'old' keep their values: nothing reads it" in ran.stdout
    document = json.loads(call(str(file), "--fresh", "--strict", "--dry-run", "--format", "json", status=1).stdout)
    assert document["good"] is False
    assert document["remaining"] == [{"tensor": "old", "scope": "main", "cause": "nothing reads it"}]
    ran = call(str(file), "--fresh", "--strict", "--dry-run", "--format", "github", status=1)
    assert ",title=onnx-lsuv%3A in doubt::'old' may keep what it learned" in ran.stdout
    page = file.with_name("page.html")
    call(str(file), "--fresh", "--strict", "--dry-run", "--report", str(page), status=1)
    assert "2 layers found; nothing was run. 1 tensor may keep what it learned." in page.read_text()


def test_strict_lets_notes_fail_a_check(file: Path) -> None:
    data, raw, out = file.with_name("x.npy"), file.with_name("raw.npy"), str(file.with_name("out.onnx"))
    np.save(raw, 50 * BATCH["x"] + 300)
    for samples, status in ((data, 0), (raw, 1)):
        given = ("-d", str(samples))
        call(str(file), *given, "-o", out, "--force")
        assert call(out, *given, "--check").stderr == ""
        ran = call(out, *given, "--check", "--strict", status=status)
        # Of inputs that far from zero, and of what comes of them, which is much the same for every sample.
        assert ("2 notes count, as asked by strict: input 'x' " in ran.stderr) == bool(status)
    assert "--strict is about what is in doubt" in fails(2, str(file), *given, "--strict")
