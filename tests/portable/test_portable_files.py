"""Whole models: initialised, made portable, saved, measured again; and models in several files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnxruntime
import oracle
import pytest
import test_portable as small
from corpus import ABSENT, CORPUS, ENTRIES, LIGHT, SEEDS, batches_of, named
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

import onnx_lsuv
from onnx_lsuv import ModelError, OutputError, Result
from onnx_lsuv.model import to_bytes
from onnx_lsuv.portable import Portable, carry, make_portable, same_outputs
from onnx_lsuv.portable.comparing import difference

Array = NDArray[Any]
Batch = Mapping[str, Array]
SAMPLES = Path(__file__).resolve().parents[2] / "sample_models"
HALF = ("float16", "bfloat16")


def whole(
    source: Path, batches: list[dict[str, Array]], folder: Path, **options: Any
) -> tuple[Result, Portable, Result, Path]:
    """Initialise a model, make it portable, save it, and measure the file."""
    result = onnx_lsuv.initialize(onnx_lsuv.load(source), batches, **options)
    portable = make_portable(result.model)
    target = folder / "portable.onnx"
    onnx_lsuv.save(portable.model, target)
    tolerance = 0.02 if any(row.dtype in HALF for row in result.layers) else None
    like = carry(result, portable)
    return result, portable, onnx_lsuv.measure(onnx_lsuv.load(target), batches, like=like, tolerance=tolerance), target


def checks(path: Path) -> str:
    """Return what onnx's checker finds wrong with a file, "" for nothing."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return str(error)
    return ""


def assert_trainable(proto: ModelProto) -> None:
    """See that the file has none of the forms that importers do not take."""
    names = {tensor.name for tensor in proto.graph.initializer}
    assert not names & {value.name for value in proto.graph.input}
    assert not proto.functions
    assert not proto.graph.sparse_initializer
    for node in proto.graph.node:
        assert node.domain != "ai.onnx"
        if node.op_type in ("Conv", "Gemm", "BatchNormalization", "ConvTranspose"):
            made = {name for each in proto.graph.node if each.op_type == "Constant" for name in each.output}
            assert not made.intersection(node.input)
        if node.op_type == "Identity":
            assert node.input[0] not in names


# ---------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("name", ["fitnet_digits", "resnet_nonorm", "mlp", "transformer"])
def test_sample(name: str, tmp_path: Path) -> None:
    data = next(SAMPLES / f"{name}{ending}" for ending in (".npy", ".npz") if (SAMPLES / f"{name}{ending}").exists())
    proto = onnx.load(str(SAMPLES / f"{name}.onnx"))
    loaded = np.load(data)
    batch = dict(loaded) if data.suffix == ".npz" else {proto.graph.input[0].name: loaded}
    result, _, measured, target = whole(SAMPLES / f"{name}.onnx", [batch], tmp_path)
    after = onnx.load(str(target))
    assert checks(target) == ""
    assert_trainable(after)
    assert measured.good
    assert {row.status for row in measured.layers} == {"ok"}
    assert [row.weight for row in measured.layers] == [row.weight for row in result.layers]
    before = small.outputs(to_bytes(result.model), batch)
    now = small.outputs(target, batch)
    assert {key: small.apart(value, now[key]) <= 1e-5 for key, value in before.items()} == dict.fromkeys(before, True)
    if name == "mlp":
        assert {row.op for row in result.layers} == {"MatMul"}
        assert {row.op for row in measured.layers} == {"Gemm"}
        assert len([node for node in after.graph.node if node.op_type == "Gemm"]) == 10
        # What the layer puts out has unit variance by a plain session too.
        shown = ModelProto.FromString(after.SerializeToString())
        values = [node.output[0] for node in shown.graph.node if node.op_type == "Gemm"]
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
        assert [float(array.var()) for array in small.outputs(shown, batch).values()] == pytest.approx(
            [1.0] * 10, abs=0.005
        )


@pytest.mark.parametrize(
    ("name", "samples"),
    [
        ("squeezenet", 2),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("resnet50", 2), ("bvlc_alexnet", 1))),
    ],
)
def test_light_model(name: str, samples: int, tmp_path: Path) -> None:
    source = LIGHT / f"light_{name}.onnx"
    proto = onnx.load(str(source))
    given = {tensor.name for tensor in proto.graph.initializer}
    given |= {node.output[0] for node in proto.graph.node if node.op_type == "ConstantOfShape"}
    (image,) = (value for value in proto.graph.input if value.name not in given)
    shape = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    batches = [{image.name: small.data(*shape, seed=i)} for i in range(samples)]
    result, portable, measured, target = whole(source, batches, tmp_path)
    assert checks(target) == ""
    after = onnx.load(str(target))
    assert_trainable(after)
    assert after.ir_version == 4
    assert after.opset_import == proto.opset_import
    assert measured.good
    found = same_outputs(result.model, portable.model, batches)
    assert max(found.differences.values()) <= 1e-5
    before, now = small.outputs(to_bytes(result.model), batches[0]), small.outputs(target, batches[0])
    for key, value in before.items():
        assert small.apart(value, now[key]) <= 1e-5


def test_light_model_as_it_is(tmp_path: Path) -> None:
    """Weights that stay what ConstantOfShape makes of nothing are found again in the portable form."""
    source = LIGHT / "light_squeezenet.onnx"
    batch = {"data_0": small.data(1, 3, 224, 224)}
    result, _, measured, target = whole(source, [batch], tmp_path, init="keep", rescale=False, keep_bias=True)
    assert len(result.layers) == 26
    assert [row.weight for row in measured.layers] == [row.weight for row in result.layers]
    for value, now in zip(small.outputs(source, batch).values(), small.outputs(target, batch).values(), strict=True):
        np.testing.assert_allclose(now, value, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- corpus


@pytest.mark.skipif(not ENTRIES, reason=ABSENT)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("entry", named("init", "partial"))
@pytest.mark.few(10)
def test_corpus(entry: dict[str, Any], tmp_path: Path) -> None:
    source, batches = CORPUS / entry["file"], batches_of(entry)
    seed = SEEDS.get(entry["file"], 0)
    result, portable, measured, target = whole(source, batches, tmp_path, seed=seed)
    wrong = [(row.name, row.status, row.std, row.note) for row in measured.layers if not row.good]
    assert not wrong
    assert len(measured.layers) == len(result.layers)
    assert not checks(target) or checks(source), checks(target)
    after = onnx.load(str(target))
    assert_trainable(after)
    before = onnx.load(str(source))
    versions = {entry.domain: entry.version for entry in before.opset_import}
    assert all(versions.get(entry.domain, entry.version) >= entry.version for entry in after.opset_import)
    found = same_outputs(result.model, portable.model, batches)
    if found.notes and not found.differences:
        return
    # The same by plain sessions on the files, where the initialised one runs as it is.
    folder = tmp_path / "before"
    folder.mkdir()
    onnx_lsuv.save(result.model, folder / "before.onnx")
    for path in (folder / "before.onnx", target):
        proto = onnx.load(str(path), load_external_data=False)
        if proto.ir_version > 13:  # what onnx writes and ONNX Runtime does not read yet
            proto.ir_version = 13
            path.write_bytes(proto.SerializeToString())
    old, new = small.outputs(folder / "before.onnx", batches[0]), small.outputs(target, batches[0])
    assert set(found.differences) <= set(old)
    for name in found.differences:
        assert difference(np.asarray(old[name]), np.asarray(new[name])) <= found.tolerance, name


# ------------------------------------------------------------------------------------------------------------ carry

FUNCTION = small.FUNCTIONS.replace("float[N,6] x", "float[32,6] x")


def test_vectors_that_are_parted_are_named_and_no_longer_merged(tmp_path: Path) -> None:
    text = """g (float[N,8] x) => (float[N,4] y) { a = Gemm(x, w, b) l = LayerNormalization(a, ones, zeros)
        c = Gemm(l, v, b) m = LayerNormalization(c, ones, zeros) y = MatMul(m, u) }"""
    weights = {"w": small.data(8, 8), "v": small.data(8, 8, seed=1), "u": small.data(8, 4), "b": small.data(8)}
    norms = {"ones": np.ones(8, np.float32), "zeros": np.zeros(8, np.float32)}
    (tmp_path / "in.onnx").write_bytes(oracle.parse(small.HEAD + text, weights | norms).SerializeToString())
    before, portable, after, target = whole(tmp_path / "in.onnx", [{"x": small.data(32, 8)}], tmp_path)
    copies = {name: old for name, old in portable.copies.items() if old in norms}
    assert sorted(copies.values()) == ["ones", "zeros"]
    assert any("would keep alike" in note for note in before.notes)
    assert not any("would keep alike" in note for note in after.notes)
    changes = {change.tensor: change for change in after.changes}
    stored = {each.name for each in onnx.load(target).graph.initializer}
    for name, old in portable.copies.items():
        assert name in stored
        assert (changes[name].parted_from, changes[name].has_new_values) == (old, old == "b")


def test_a_fixed_transform_that_a_pattern_took(tmp_path: Path) -> None:
    """Its values are kept, so that they are those of a fixed transform in the portable form too."""
    waves = np.cos(2 * np.pi * np.outer(np.arange(64), np.arange(33)) / 64).astype(np.float32)
    text = small.HEAD + "g (float[N,64] x) => (float[N,4] y) { a = MatMul(x, dft) b = Abs(a) y = MatMul(b, w) }"
    model = oracle.parse(text, dft=waves, w=small.data(33, 4))
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    batches = [{"x": small.data(32, 64)}]
    alone, _, kept, _ = whole(tmp_path / "in.onnx", batches, tmp_path, init="keep")
    assert [row.reason for row in alone.skipped] == ["fixed"]
    assert [row.weight for row in kept.layers] == ["w"]
    (tmp_path / "taken").mkdir()
    _, _, taken, target = whole(tmp_path / "in.onnx", batches, tmp_path / "taken", init="keep", include=["*"])
    assert [(row.weight, row.status) for row in taken.layers] == [("dft", "ok"), ("w", "ok")]
    assert small.outputs(target, batches[0])["y"].std() == pytest.approx(1, abs=1e-3)


def test_rows_of_a_function_called_several_times(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(small.model_of(FUNCTION).SerializeToString())
    batch = {"x": small.data(32, 6)}
    result, _, measured, target = whole(tmp_path / "in.onnx", [batch], tmp_path)
    assert len(result.layers) == len(measured.layers) == 6
    assert measured.good
    assert [(row.op, row.scope) for row in measured.layers] == [("Gemm", "main")] * 6
    assert len(onnx.load(str(target)).graph.initializer) == 2
    deciding = [row for row in measured.layers if row.status == "ok"]
    assert [row.std for row in deciding] == pytest.approx([1.0] * len(deciding), abs=1e-3)


LISTED = np.arange(1, 17, dtype=np.float32).reshape(4, 4) / 16
MADE = f"""<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
g (float[N,4] x) => (float[N,4] y) {{
    lengths = Constant <value_ints = [4, 4]> ()
    filled = ConstantOfShape <value = float[1] {{0.125}}> (lengths)
    a = f.Layer (x)
    b = f.Layer (a)
    [third] c = MatMul (b, filled)
    yes = Constant <value = bool {{1}}> ()
    y = If (yes) <
        then_branch = one () => (float[N,4] d) {{
            own = ConstantOfShape <value = float[1] {{0.5}}> (lengths)
            [fourth] d = MatMul (c, own)
        }},
        else_branch = other () => (float[N,4] e) {{
            [fifth] e = MatMul (c, filled)
        }}
    >
}}
<opset_import: ["" : 17], domain: "f">
Layer (x) => (y) {{
    list = Constant <value_floats = [{", ".join(map(str, LISTED.reshape(-1)))}]> ()
    square = Constant <value_ints = [4, 4]> ()
    w = Reshape (list, square)
    [inner] y = MatMul (x, w)
}}"""


def test_rows_of_weights_that_no_tensor_holds(tmp_path: Path) -> None:
    """A fill, and a list in an attribute, as they are: in the main graph, in a function called twice, in branches."""
    (tmp_path / "in.onnx").write_bytes(onnx.parser.parse_model(MADE).SerializeToString())
    x = small.data(32, 4)
    result, _, measured, target = whole(tmp_path / "in.onnx", [{"x": x}], tmp_path, init="keep", rescale=False)
    assert len(result.layers) == len(measured.layers) == 5
    a = x.astype(np.float64) @ LISTED
    c = a @ LISTED @ np.full((4, 4), 0.125)
    d = c @ np.full((4, 4), 0.5)
    told = {row.name.split("/")[-1]: row.std for row in measured.layers}
    assert list(told) == ["inner__1", "inner__2", "third", "fourth", "fifth"]
    # The first use of a weight decides, and the last branch is not taken.
    stds = {"inner__1": a.std(), "third": c.std(), "fourth": d.std()}
    assert {name: std for name, std in told.items() if std is not None} == pytest.approx(stds, rel=1e-4)
    np.testing.assert_allclose(small.outputs(target, {"x": x})["y"], d, rtol=1e-5)
    assert b"onnx_lsuv" not in target.read_bytes()


@pytest.mark.parametrize("keep_bias", [False, True])
def test_rows_of_layers_on_more_than_two_axes(keep_bias: bool, tmp_path: Path) -> None:
    proto = small.model_of(small.HEAD + """g (float[N,6,4] x, float[4,8] w1, float[8,8] w2, float[8,8] w3,
        float[1,1,8] b1, float[8] b2, float[6,1] b3, float[6,8] b4) => (float[N,6,8] y) {
        m1 = MatMul (x, w1)
        a1 = Add (m1, b1)
        h1 = Tanh (a1)
        m2 = MatMul (h1, w2)
        n2 = Neg (b2)
        a2 = Add (n2, m2)
        m3 = MatMul (a2, w3)
        a3 = Add (m3, b3)
        m4 = MatMul (a3, w3)
        y = Add (m4, b4)
    }""")  # fmt: skip
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    batch = {"x": small.data(50, 6, 4)}
    result, portable, measured, target = whole(tmp_path / "in.onnx", [batch], tmp_path, keep_bias=keep_bias)
    assert measured.good
    again = onnx_lsuv.measure(result.model, [batch], like=result)
    assert [(row.weight, row.status) for row in measured.layers] == [(row.weight, row.status) for row in again.layers]
    stds = [[row.std for row in each.layers if row.std is not None] for each in (measured, again)]
    assert len(stds[0]) == 3
    assert stds[0] == pytest.approx(stds[1], rel=1e-4)
    assert [row.op for row in measured.layers] == ["Gemm", "MatMul", "MatMul", "MatMul"]
    assert [row.shape for row in measured.layers][:2] == [(8, 4), (8, 8)]
    assert same_outputs(result.model, portable.model, [batch]).differences["y"] <= 1e-5
    # What the layer puts out has the wanted variance by a plain session too.
    shown = onnx.load(str(target))
    gemm = small.node(shown, "Gemm")
    shown.graph.output.append(onnx.ValueInfoProto(name=gemm.output[0]))
    assert float(small.outputs(shown, batch)[gemm.output[0]].var()) == pytest.approx(1, abs=0.005)


def test_rows_of_chosen_layers(tmp_path: Path) -> None:
    proto = small.model_of(small.HEAD + """g (float[N,4] x, float[4,4] w1, float[4,4] w2, float[4,4] w3)
        => (float[N,4] y) {
        [first] a = MatMul (x, w1)
        [a_star] b_ = MatMul (a, w2)
        y = MatMul (b_, w3)
    }""")  # fmt: skip
    proto.graph.node[1].name = "[*]"
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    _, _, measured, _ = whole(tmp_path / "in.onnx", [{"x": small.data(50, 4)}], tmp_path, exclude=["w2"])
    assert [(row.name, row.status) for row in measured.layers] == [("first", "ok"), ("y", "ok")]
    assert [row.reason for row in measured.skipped] == ["excluded"]


def test_rows_where_a_sparse_weight_becomes_a_layer(tmp_path: Path) -> None:
    proto = small.model_of(small.HEAD + """g (float[N,3] x, float[3,4] w1, float[4,3] s) => (float[N,3] y) {
        a = MatMul (x, w1)
        y = MatMul (a, s)
    }""", {"s": np.zeros((4, 3))})  # fmt: skip
    del proto.graph.initializer[1]
    sparse = proto.graph.sparse_initializer.add(dims=[4, 3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([1, 2], np.float32), "s"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([2, 3]), "s_indices"))
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    batch = {"x": small.data(50, 3)}
    result, _, measured, target = whole(tmp_path / "in.onnx", [batch], tmp_path)
    assert [row.reason for row in result.skipped] == ["sparse"]
    assert [(row.name, row.op, row.status) for row in measured.layers] == [("a", "Gemm", "ok")]
    assert measured.settings.include == ("a",)
    found = small.tensors(onnx.load(str(target)))
    assert found["s"].T.reshape(-1)[[2, 3]].tolist() == [1, 2]


# ------------------------------------------------------------------------------------------------------------ files


def external(folder: Path, kind: str = "float") -> Path:
    """Write a model whose weights all lie in one file beside it."""
    folder.mkdir()
    proto = small.model_of(small.HEAD + f"""g ({kind}[N,40] x, {kind}[40,50] w1, {kind}[30,50] w2, {kind}[50] b)
        => ({kind}[N,30] y) {{
        m = MatMul (x, w1)
        h = Add (m, b)
        y = Gemm <alpha=0.5, transB=1> (h, w2)
    }}""")  # fmt: skip
    options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0, "location": "model.data"}
    onnx.save_model(proto, str(folder / "model.onnx"), **options)
    return folder / "model.onnx"


@pytest.mark.parametrize("memory", [None, 0])
def test_external_data_stay_external(memory: int | None, tmp_path: Path) -> None:
    source = external(tmp_path / "in")
    batch = {"x": small.data(64, 40)}
    result = onnx_lsuv.initialize(onnx_lsuv.load(source), batch)
    portable = make_portable(result.model, memory=memory, scratch=tmp_path)
    written = onnx_lsuv.save(portable.model, tmp_path / "out.onnx")
    assert [path.name for path in written] == ["model.data", "out.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "model.data", "out.onnx"], (
        "scratch files are left"
    )
    assert (tmp_path / "model.data").stat().st_size == (tmp_path / "in" / "model.data").stat().st_size
    bare = onnx.load(str(tmp_path / "out.onnx"), load_external_data=False)
    assert {tensor.data_location for tensor in bare.graph.initializer} == {onnx.TensorProto.EXTERNAL}
    assert checks(tmp_path / "out.onnx") == ""
    assert_trainable(onnx.load(str(tmp_path / "out.onnx")))
    onnx_lsuv.save(result.model, tmp_path / "in" / "plain.onnx")
    before, now = (small.outputs(p, batch)["y"] for p in (tmp_path / "in" / "plain.onnx", tmp_path / "out.onnx"))
    assert small.apart(before, now) <= 1e-5
    with pytest.raises(OutputError, match="never written to"):
        onnx_lsuv.save(portable.model, source, force=True)


@pytest.mark.parametrize("ir", [3, 10])
@pytest.mark.parametrize("there", [True, False])
def test_what_is_parted_finds_a_place_in_external_data(ir: int, there: bool, tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float z) { a = Conv(x, w, zero)
        n = BatchNormalization(a, one, zero, zero, one) c = Conv(n, u)
        z = BatchNormalization(c, one, zero, zero, one) }"""
    equal = {"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}
    model = oracle.parse(text, equal | {"w": oracle.normal(4, 3, 3, 3), "u": oracle.normal(4, 4, 1, 1)})
    model.ir_version = ir
    listed = model.graph.initializer if ir < 4 else ()
    model.graph.input.extend(helper.make_tensor_value_info(each.name, each.data_type, each.dims) for each in listed)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=1)
    if not there:
        (tmp_path / "m.data").unlink()
    batch = {"x": oracle.normal(16, 3, 8, 8)}
    result = onnx_lsuv.initialize(onnx_lsuv.load(tmp_path / "m.onnx"), batch, untie=True)
    assert len(result.plan.parting.copies) > 5
    (tmp_path / "out").mkdir()
    for name, each in {"plain": result.model, "portable": make_portable(result, batch).model}.items():
        onnx_lsuv.save(each, tmp_path / "out" / f"{name}.onnx")
    plain, portable = (onnx.load(tmp_path / "out" / f"{name}.onnx") for name in ("plain", "portable"))
    values = {each.name: numpy_helper.to_array(each) for each in plain.graph.initializer}
    assert len(values) == 4 + len(result.plan.parting.copies)
    same = {each.name: numpy_helper.to_array(each) for each in portable.graph.initializer if each.name in values}
    assert all(np.array_equal(array, values[name]) for name, array in same.items())
    assert len(same) >= 10
    before, after = (
        onnxruntime.InferenceSession(str(tmp_path / "out" / f"{name}.onnx")).run(None, batch)[0]
        for name in ("plain", "portable")
    )
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-4)


def test_external_data_become_float32(tmp_path: Path) -> None:
    source = external(tmp_path / "in", "float16")
    batch = {"x": small.data(64, 40).astype(np.float16)}
    model = onnx_lsuv.load(source)
    portable = make_portable(model, scratch=tmp_path)
    written = onnx_lsuv.save(portable.model, tmp_path / "in" / "out.onnx")
    assert [path.name for path in written] == ["out.onnx.data", "out.onnx"]
    assert list(tmp_path.iterdir()) == [tmp_path / "in"], "scratch files are left"
    assert checks(written[1]) == ""
    old, new = small.tensors(onnx.load(str(source))), small.tensors(onnx.load(str(written[1])))
    assert np.array_equal(new["w1"], old["w1"].T.astype(np.float32))
    assert np.array_equal(new["w2"], old["w2"].astype(np.float32) * np.float32(0.5))
    assert same_outputs(model, onnx_lsuv.load(written[1]), batch).differences["y"] < 0.02


@pytest.mark.slow
def test_more_than_two_gib(tmp_path: Path) -> None:
    rows = 2**20 + 2**18  # of 2 KiB
    proto = small.model_of(small.HEAD + """g (int64[N] i, float[512,8] w, float[8] b) => (float[N,8] y) {
        x = Gather (table, i)
        m = MatMul (x, w)
        y = Add (m, b)
    }""")  # fmt: skip
    table = proto.graph.initializer.add(name="table", dims=[rows, 512], data_type=onnx.TensorProto.FLOAT)
    table.data_location = onnx.TensorProto.EXTERNAL
    table.external_data.add(key="location", value="table.data")
    (tmp_path / "in").mkdir()
    last = small.data(512)
    with (tmp_path / "in" / "table.data").open("wb") as file:
        file.truncate(rows * 2048)  # sparse: it takes no room
        file.seek(-2048, 2)
        file.write(last.tobytes())
    (tmp_path / "in" / "model.onnx").write_bytes(proto.SerializeToString())
    model = onnx_lsuv.load(tmp_path / "in" / "model.onnx")
    portable = make_portable(model)
    batch = {"i": np.array([0, rows - 1])}
    found = same_outputs(model, portable.model, batch)
    assert found.differences["y"] <= 1e-5
    target = onnx_lsuv.save(portable.model, tmp_path / "out.onnx")[-1]
    (tmp_path / "in" / "table.data").unlink()
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, batch)
    values = small.tensors(proto_without(proto, "table"))
    expected = np.stack([values["b"], last @ values["w"] + values["b"]])
    assert small.apart(expected, y) <= 1e-5
    assert [node.op_type for node in onnx.load(str(target), load_external_data=False).graph.node] == ["Gather", "Gemm"]
    (tmp_path / "table.data").unlink()


def proto_without(proto: ModelProto, name: str) -> ModelProto:
    copy = ModelProto.FromString(proto.SerializeToString())
    kept = [tensor for tensor in copy.graph.initializer if tensor.name != name]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(kept)
    return copy


# -------------------------------------------------------------------------------------------------------- comparing


def test_a_difference_is_an_error() -> None:
    proto = small.model_of(small.HEAD + "g (float[N,4] x, float[4,300] w) => (float[N,300] y) { y = MatMul (x, w) }")
    other = ModelProto.FromString(proto.SerializeToString())
    changed = small.tensors(other)["w"].copy()
    changed[0, 0] *= 1.01
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(changed, "w"))
    before, after = onnx_lsuv.from_proto(proto), onnx_lsuv.from_proto(other)
    with pytest.raises(ModelError, match=r"output 'y' should be the same after the rewriting .* save without"):
        same_outputs(before, after, {"x": small.data(5, 4)})
    found = same_outputs(before, after, {"x": small.data(5, 4)}, tolerance=0.1)
    assert 1e-5 < found.differences["y"] < 0.01


def test_what_the_optimiser_makes_of_the_forms_is_no_difference() -> None:
    """A norm is fused only into a Conv whose weight the file holds, and rounds otherwise there."""
    weight = ", ".join(map(str, small.data(1000).tolist()[:576]))
    ones = ", ".join(["1.5"] * 8)
    proto = small.model_of(small.HEAD + f"""g (float[N,8,9,9] x, float[8] b1, float[8] b2) => (float[N,8,9,9] y) {{
        w = Constant <value = float[8,8,3,3] {{{weight}}}> ()
        scale = Constant <value = float[8] {{{ones}}}> ()
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = BatchNormalization (c, scale, b1, b2, scale)
    }}""")  # fmt: skip
    model, batch = onnx_lsuv.from_proto(proto), {"x": small.data(4, 8, 9, 9)}
    portable = make_portable(model)
    assert {step.what for step in portable.steps} == {"Constant made an initializer", "merged vector copied"}
    plain = [small.outputs(to_bytes(each), batch)["y"] for each in (model, portable.model)]
    np.testing.assert_array_equal(*plain)
    assert same_outputs(model, portable.model, batch).differences == {"y": 0.0}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (np.array([1.0, -4]), np.array([1.5, -4]), 0.125),
        (np.array([0.0, 0]), np.array([0.0, 0]), 0),
        (np.array([0.0, 0]), np.array([0.0, 1e-9]), np.inf),
        (np.array([1.0, np.nan]), np.array([1.0, np.nan]), 0),
        (np.array([1.0, np.inf]), np.array([1.0, -np.inf]), np.inf),
        (np.array([1.0, 2]), np.array([1.0, np.nan]), np.inf),
        (np.array([1.0, np.inf], np.float16), np.array([1.0, 7e4], np.float32), 0),
        (np.array([1.0, 2], np.float16), np.array([1.0, np.inf], np.float32), np.inf),
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.25),
        (np.array([[1.0]]), np.array([1.0]), np.inf),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0),
    ],
)
def test_difference(before: Array, after: Array, expected: float) -> None:
    assert difference(before, after) == expected


def test_text_is_compared_too() -> None:
    proto = small.model_of(small.HEAD + """g (float[N,4] x, string[N] s, float[4,3] w) => (float[N,3] y, string[N] t) {
        y = MatMul (x, w)
        t = Identity (s)
    }""")  # fmt: skip
    model = onnx_lsuv.from_proto(proto)
    batch = {"x": small.data(2, 4), "s": np.array(["a", "b"], object)}
    found = same_outputs(model, make_portable(model).model, batch)
    assert set(found.differences) == {"y", "t"}
    assert found.differences["t"] == 0
    assert found.notes == ()


def test_outputs_that_are_no_tensors() -> None:
    proto = small.model_of(small.HEAD + "g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul (x, w) }")
    proto.graph.node.append(helper.make_node("SequenceConstruct", ["y"], ["s"]))
    proto.graph.output.append(helper.make_tensor_sequence_value_info("s", onnx.TensorProto.FLOAT, None))
    model = onnx_lsuv.from_proto(proto)
    found = same_outputs(model, make_portable(model).model, {"x": small.data(2, 4)})
    assert list(found.differences) == ["y"]
    assert "'s'" in found.notes[0]


def test_an_output_that_is_named_twice() -> None:
    proto = small.model_of(small.HEAD + "g (float[N,4] x, float[4,3] w) => (float[N,3] y) { y = MatMul (x, w) }")
    proto.graph.output.append(proto.graph.output[0])
    model = onnx_lsuv.from_proto(proto)
    assert same_outputs(model, make_portable(model).model, {"x": small.data(2, 4)}).differences == {"y": 0.0}
