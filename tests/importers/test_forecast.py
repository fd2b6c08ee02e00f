"""What trains where, as foretold from a file alone; `tests/frameworks` holds the same answers against the importers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from corpus import ABSENT, CORPUS, ENTRIES
from onnx import ModelProto, TensorProto, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import ModelError, UsageError
from onnx_lsuv.importers import IMPORTERS, KINDS, Forecast, Reading, forecast
from onnx_lsuv.importers.shapes import rows_unread
from onnx_lsuv.layers import Plan, find_layers
from onnx_lsuv.portable import make_portable
from onnx_lsuv.program import expand

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
KERAS, ORT, JAX, SIM = "onnx2keras", "onnxruntime-training", "jaxonnxruntime", "onnxsim"
TRAINING = [name for name, row in IMPORTERS.items() if row.parameters != frozenset()]  # the others keep all constant


def plan_of(model: ModelProto) -> Plan:
    return find_layers(expand(onnx_lsuv.from_proto(model)))


def answers(model: ModelProto) -> dict[str, Forecast]:
    """Return what those make of a model that train anything."""
    return {each.importer: each for each in forecast(plan_of(model)) if each.importer in TRAINING}


def counts(model: ModelProto) -> dict[str, int]:
    return {name: each.as_is.trainable for name, each in answers(model).items()}


def kinds(reading: Reading, effect: str) -> set[str]:
    return {f.kind for f in reading.findings if f.effect == effect}


def gemms(head: str = HEAD, middle: str = "Relu(a)", **tensors: Any) -> ModelProto:
    """Two dense layers as Gemm, which every importer trains, with something between them."""
    text = f"""{head} g (float[N,4] x) => (float[N,2] y) {{
        a = Gemm <transB=1> (x, w1, b1) b = {middle} y = Gemm <transB=1> (b, w2, b2) }}"""
    return parse(text, w1=normal(3, 4), b1=normal(3), w2=normal(2, 3), b2=normal(2), **tensors)


# ------------------------------------------------------------------------------------------------------------- answers


def test_the_intersection_trains_everywhere() -> None:
    for each in answers(gemms()).values():
        assert each.as_is == Reading(2, 2, ())
        assert each.portable == each.as_is
        assert each.expected
        assert not each.cured


@pytest.mark.parametrize(
    ("head", "failing", "kind"),
    [
        ('<ir_version: 8, opset_import: ["" : 11]>', {ORT}, "opset"),
        ('<ir_version: 10, opset_import: ["" : 22]>', {ORT}, "opset"),
        ('<ir_version: 11, opset_import: ["" : 17]>', {ORT}, "ir"),
        ('<ir_version: 8, opset_import: ["" : 13]>', {JAX}, "operator"),  # it has Relu 6 and 14, not 13
        ('<ir_version: 8, opset_import: ["" : 8]>', {"onnx2torch", ORT}, None),  # no Gemm below 9; below 12
        ('<ir_version: 8, opset_import: ["" : 17, "org.example" : 1]>', {"tinygrad"}, "domains"),
    ],
)
def test_windows(head: str, failing: set[str], kind: str | None) -> None:
    found = answers(gemms(head))
    assert {name for name, each in found.items() if each.as_is.trainable == 0} == failing
    for name, each in found.items():
        assert each.as_is.trainable == (0 if name in failing else 2)
        if name in failing and kind:
            assert kinds(each.as_is, "fails") == {kind}


def test_details_say_what_was_found_and_expected() -> None:
    (finding,) = answers(gemms('<ir_version: 8, opset_import: ["" : 11]>'))[ORT].as_is.findings
    assert finding.text == "the opset is outside what the importer reads: 11, expected 12 to 21"
    (finding,) = answers(gemms('<ir_version: 8, opset_import: ["" : 13]>'))[JAX].as_is.findings
    assert finding.detail == "Relu-13"


@pytest.mark.parametrize(
    ("middle", "failing"),
    [
        ("Mish(a)", {"onnx2torch", ORT, JAX, KERAS, SIM}),
        ("Softsign(a)", {ORT, JAX, KERAS, SIM}),
        ("Elu(a)", {ORT, JAX, KERAS}),
        ("Elu <alpha = 1.0> (a)", {ORT, JAX}),  # onnx2keras wants it written out
        ("com.microsoft.QuickGelu(a)", {"onnx2torch", "onnx2pytorch", "tinygrad", JAX, KERAS, SIM}),
        ("com.microsoft.FastGelu(a)", {"onnx2torch", "onnx2pytorch", JAX, KERAS, SIM}),
        ("Sum(a)", {ORT, KERAS, SIM}),
    ],
)
def test_operators(middle: str, failing: set[str]) -> None:
    model = gemms('<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>', middle)
    assert {name for name, n in counts(model).items() if n == 0} == failing


def test_an_operator_that_no_training_passes_does_not_matter() -> None:
    """LpPool has no gradient in ONNX Runtime; before the first weight none is needed."""
    text = f"""{HEAD} g (float[N,2,8] x) => (float[N,2,6] y) {{
        a = LpPool <kernel_shape = [1]> (x) y = Conv <kernel_shape = [3]> (a, w) }}"""
    assert counts(parse(text, w=normal(2, 2, 3)))[ORT] == 1
    text = f"""{HEAD} g (float[N,2,8] x) => (float[N,2,6] y) {{
        a = Conv <kernel_shape = [3]> (x, w) y = LpPool <kernel_shape = [1]> (a) }}"""
    found = answers(parse(text, w=normal(2, 2, 3)))[ORT].as_is
    assert [(f.kind, f.detail, f.effect) for f in found.findings] == [("gradient", "LpPool", "fails")]


def test_dense_layers_as_matmul() -> None:
    text = f"{HEAD} g (float[N,4] x) => (float[N,2] y) {{ a = MatMul(x, w1) b = Add(a, b1) y = MatMul(b, w2) }}"
    found = answers(parse(text, w1=normal(4, 3), b1=normal(3), w2=normal(3, 2)))
    assert {name: each.as_is.trainable for name, each in found.items()} == {
        **dict.fromkeys(TRAINING, 2),
        "onnx2torch": 0,
    }
    (finding,) = found["onnx2torch"].as_is.findings
    assert (finding.kind, finding.detail, finding.effect) == ("buffer", "MatMul (2)", "blocks")
    assert kinds(found[KERAS].as_is, "note") == {"bias"}


def test_dense_layers_on_more_than_two_axes() -> None:
    weights = {"w1": normal(4, 6), "b1": normal(6), "w2": normal(6, 2)}
    text = f"""{HEAD} g (float[N,3,4] x) => (float[N,3,2] y) {{
        a = MatMul(x, w1) b = Add(a, b1) c = Tanh(b) y = MatMul(c, w2) }}"""
    model = onnx_lsuv.from_proto(parse(text, **weights))
    form = make_portable(model).model
    for answer in (forecast(model, form), forecast(model)):
        found = {each.importer: each for each in answer if each.importer in TRAINING}
        # Keras has no Reshape that joins the samples with another axis.
        assert {name: (each.as_is.trainable, each.portable.trainable) for name, each in found.items()} == {
            **dict.fromkeys(TRAINING, (2, 2)),
            "onnx2torch": (0, 2),
            KERAS: (2, 0),
        }
        assert [name for name, each in found.items() if each.cured] == ["onnx2torch"]
        assert [(f.kind, f.effect) for f in found[KERAS].portable.findings] == [("rows", "fails")]


@pytest.mark.parametrize(
    ("shape", "target", "width", "joined"),
    [
        ("N,3,4", [-1, 12], 12, False),  # each sample becomes a row
        ("N,3,4", [0, -1], 12, False),
        ("N,1,4", [-1, 4], 4, False),
        ("N,3,4", [-1, 4], 4, True),
        ("N,T,4", [-1, 4], 4, False),  # not known
        ("N,12", [-1, 3, 4], 12, False),
        ("N,12", [-1, 4], 4, True),
    ],
)
def test_reshapes_that_join_samples(shape: str, target: list[int], width: int, joined: bool) -> None:
    text = f"""{HEAD} g (float[{shape}] x) => (float[M,2] y) {{
        a = Reshape(x, s) b = Flatten(a) y = Gemm <transB=1> (b, w) }}"""
    found = answers(parse(text, s=np.array(target), w=normal(2, width)))[KERAS].as_is
    assert ("rows" in kinds(found, "fails")) == joined


def test_a_weight_behind_an_operator() -> None:
    text = f"{HEAD} g (float[N,4] x) => (float[N,2] y) {{ t = Transpose <perm = [1, 0]> (w) y = Gemm(x, t) }}"
    found = answers(parse(text, w=normal(2, 4)))
    assert {name for name, each in found.items() if each.as_is.trainable == 0} == {"onnx2torch", "onnx2pytorch"}
    assert [f.detail for f in found["onnx2torch"].as_is.findings] == ["Transpose before Gemm"]


def test_constants_count_as_the_initializers_they_become() -> None:
    constant = f"{HEAD} g (float[N,2] x) => (float[N,2] y) {{ w = Constant <value = float[2,2] {{1, 2, 3, 5}}> ()"
    assert counts(parse(f"{constant} y = Gemm(x, w) }}")) == dict.fromkeys(TRAINING, 1)
    # As the tool saves it: the analysis of that file says the same.
    model = onnx_lsuv.from_proto(parse(f"{constant} y = Gemm(x, w) }}"))
    saved = onnx_lsuv.to_bytes(onnx_lsuv.initialize(model, {"x": normal(16, 2)}).model)
    proto = onnx.load_from_string(saved)
    assert [t.name for t in proto.graph.initializer] == ["w"]
    assert counts(proto) == dict.fromkeys(TRAINING, 1)


def test_weights_of_functions_and_branches() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,2] x) => (float[N,2] y) { y = own.f(x) }
        <domain: "own", opset_import: ["" : 17]> f (x) => (y) {
            w = Constant <value = float[2,2] {1, 2, 3, 5}> () y = Gemm(x, w) }"""
    for each in answers(parse(text)).values():
        assert each.as_is.trainable == 0
        assert "functions" in kinds(each.as_is, "fails")
    text = f"""{HEAD} g (float[N,2] x, bool c) => (float[N,2] y) {{ y = If (c) <
        then_branch = t () => (float[N,2] a) <float[2,2] w = {{1, 2, 3, 5}}> {{ a = MatMul(x, w) }},
        else_branch = e () => (float[N,2] b) {{ b = Identity(x) }}> }}"""
    for each in answers(parse(text)).values():
        assert (each.as_is.trainable, each.as_is.weights) == (0, 1)
        assert "scope" in kinds(each.as_is, "blocks")


@pytest.mark.parametrize(
    ("elem_type", "training"),
    [
        (TensorProto.FLOAT16, {"tinygrad", KERAS}),
        (TensorProto.DOUBLE, {"onnx2torch", "onnx2pytorch", JAX, "tinygrad", KERAS}),
        (TensorProto.BFLOAT16, {KERAS}),
    ],
)
def test_types(elem_type: int, training: set[str]) -> None:
    model = gemms()
    dtype = onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    for t in model.graph.initializer:
        t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(dtype), t.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = elem_type
    found = answers(model)
    assert {name for name, each in found.items() if each.as_is.trainable} == training
    assert all(kinds(found[name].as_is, "fails") == {"type"} for name in set(TRAINING) - training)


def test_inputs_names_and_lengths() -> None:
    model = gemms()
    for t in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))
    assert kinds(answers(model)[ORT].as_is, "fails") == {"inputs"}
    model = gemms()
    for node in model.graph.node:
        node.name = "same"
    assert kinds(answers(model)[ORT].as_is, "fails") == {"names"}
    model = gemms()
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    assert {name for name, n in counts(model).items() if n == 0} == {"tinygrad"}
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert {name for name, n in counts(model).items() if n == 0} == {"tinygrad", ORT, KERAS}


def test_recurrent_layers() -> None:
    text = f"""{HEAD} g (float[4,N,2] x, float[2,N,3] h, float[2,N,3] c) => (float[2,N,3] y) {{
        a, y = LSTM <hidden_size = 3, direction = "bidirectional"> (x, w, r, b, , h, c) }}"""
    model = parse(text, w=normal(2, 12, 2), r=normal(2, 12, 3), b=normal(2, 24))
    assert {name: n for name, n in counts(model).items() if n} == {"onnx2pytorch": 2}
    # ONNX Runtime goes back through an LSTM only where it runs forward and is given its initial states.
    (finding,) = answers(model)[ORT].as_is.findings
    assert (finding.kind, finding.effect) == ("gradient", "fails")
    node = model.graph.node[0]
    node.attribute.remove(next(a for a in node.attribute if a.name == "direction"))
    for t in model.graph.initializer:
        values = numpy_helper.to_array(t)[:1]
        t.CopyFrom(numpy_helper.from_array(values, t.name))
    assert counts(model)[ORT] == 2
    del node.input[5:]
    assert counts(model)[ORT] == 0


def test_nodes_out_of_order() -> None:
    model = gemms()
    model.graph.node.insert(0, model.graph.node.pop())
    found = answers(model)
    assert {name for name, each in found.items() if each.as_is.trainable} == {JAX}
    assert all(kinds(found[name].as_is, "fails") == {"order"} for name in set(TRAINING) - {JAX})


def test_notes() -> None:
    text = f"""{HEAD} g (float[N,2,8] x) => (float[N,2,6] y) {{ a = Conv <kernel_shape = [3]> (x, w)
        n = BatchNormalization(a, s, b, m, v) y = Softmax(n) }}"""
    tensors = {"w": normal(2, 2, 3), "s": normal(2), "b": normal(2), "m": normal(2), "v": np.ones(2, np.float32)}
    model = parse(text, **tensors)
    found = {name: kinds(each.as_is, "note") for name, each in answers(model).items()}
    assert found["onnx2torch"] == {"softmax"}
    assert found["onnx2pytorch"] == {"softmax", "momentum"}
    assert found["tinygrad"] == found[JAX] == found[SIM] == {"softmax", "frozen"}
    model = parse(
        f"{HEAD} g (float[N,2,8] x) => (float y) {{ y = Conv <kernel_shape = [3]> (x, w) }}", w=normal(2, 2, 3)
    )
    model.graph.initializer[0].name = model.graph.node[0].input[1] = "onnx::Conv_31"
    assert all(kinds(each.as_is, "note") == {"folded"} for each in answers(model).values())


# ------------------------------------------------------------------------------------------------------- portable, JSON


def test_the_portable_form_is_read_beside_it() -> None:
    text = f"{HEAD} g (float[N,4] x) => (float[N,2] y) {{ a = MatMul(x, w) y = Add(a, b) }}"
    before = parse(text, w=normal(4, 2), b=normal(2))
    text = f"{HEAD} g (float[N,4] x) => (float[N,2] y) {{ y = Gemm <transB = 1> (x, w, b) }}"
    after = parse(text, w=normal(2, 4), b=normal(2))
    found = {each.importer: each for each in forecast(plan_of(before), plan_of(after))}
    assert [name for name, each in found.items() if each.cured] == ["onnx2torch"]
    assert found["onnx2torch"].portable == Reading(1, 1, ())
    stored = json.loads(json.dumps([each.as_dict() for each in found.values()]))
    assert stored[0] == {
        "importer": "onnx2torch",
        "framework": "PyTorch",
        "version": "1.5.15",
        "date": IMPORTERS["onnx2torch"].date,
        "as_is": {
            "trainable": 0,
            "weights": 1,
            "findings": [
                {"kind": "buffer", "detail": "MatMul", "effect": "blocks", "text": f"{KINDS['buffer']}: MatMul"}
            ],
        },
        "portable": {"trainable": 1, "weights": 1, "findings": []},
        "expected": False,
        "cured": True,
        "export": "",
    }


def test_a_result_is_read_as_all_of_its_model() -> None:
    text = f"{HEAD} g (float[N,16] x) => (float z) {{ y = MatMul(x, w) z = Gemm(y, v) }}"
    model = onnx_lsuv.from_proto(parse(text, w=normal(16, 16), v=normal(16, 16)))
    for result in (onnx_lsuv.plan(model), onnx_lsuv.plan(model, include=["w"], keep_bias=True)):
        assert forecast(result) == forecast(model)
        assert forecast(model, result) == forecast(model, model)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (gemms(), {}),
        (gemms('<ir_version: 10, opset_import: ["" : 22]>'), {ORT: 17}),
        (gemms('<ir_version: 8, opset_import: ["" : 11]>'), {ORT: 17}),
        (gemms('<ir_version: 8, opset_import: ["" : 13]>'), {JAX: 17}),
        (gemms('<ir_version: 8, opset_import: ["" : 21]>', "Softplus(a)"), {}),  # Softplus has no gradient in ORT
        # An older opset has no Gelu, which is Div, Erf, Add and Mul there.
        (gemms('<ir_version: 8, opset_import: ["" : 20]>', "Gelu(a)"), {"onnx2torch": 17, JAX: 17, SIM: 17}),
        # ... and no LayerNormalization before 17, which onnxsim and onnx2torch take.
        (gemms(middle="LayerNormalization(a, s)", s=normal(3)), {ORT: 16, JAX: 16, KERAS: 16}),
        (gemms('<ir_version: 8, opset_import: ["" : 11]>', "ReduceMean <axes = [1]> (a)"), {ORT: 16}),
        # Nobody reads a function in any opset.
        (gemms('<ir_version: 10, opset_import: ["" : 22, "org.example" : 1]>', "org.example.Own(a)"), {}),
    ],
)
def test_another_export(model: ModelProto, expected: dict[str, int]) -> None:
    found = {name: each.export for name, each in answers(model).items() if each.export}
    assert found == {name: f"opset_version={opset}, dynamo=False" for name, opset in expected.items()}


def test_a_reshape_with_allowzero_is_written_otherwise() -> None:
    text = f"""{HEAD} g (float[N,2,2] x) => (float[N,2] y) {{
        a = Reshape <allowzero = 1> (x, s) y = Gemm(a, w) }}"""
    found = answers(parse(text, s=np.array([-1, 4]), w=normal(4, 2)))
    assert found["onnx2torch"].as_is.trainable == 0
    assert found["onnx2torch"].export == "opset_version=17, dynamo=False"


def test_one_importer_is_asked_about() -> None:
    model = onnx_lsuv.from_proto(gemms())
    everybody = forecast(model)
    assert forecast(model, importer="tinygrad") == tuple(each for each in everybody if each.importer == "tinygrad")
    assert forecast(model, model, importer=[SIM, ORT]) == tuple(
        each for each in forecast(model, model) if each.importer in (SIM, ORT)
    )
    with pytest.raises(UsageError, match="no importer 'Tinygrad'"):
        forecast(model, importer="Tinygrad")


def test_the_tables_words_are_known() -> None:
    assert all(text == text.strip() and not text.endswith(".") for text in KINDS.values())
    for name, each in IMPORTERS.items():
        assert name == each.name
        assert not each.refuses & each.remarks


@pytest.mark.parametrize(
    ("operators", "versions", "reads"),
    [
        (None, False, True),
        ({"Gemm": frozenset(), "Reshape": frozenset()}, False, True),
        ({"Gemm": frozenset(), "Reshape": frozenset({14})}, True, True),
        ({"Gemm": frozenset(), "Reshape": frozenset({5})}, True, False),
        ({"Gemm": frozenset()}, False, False),
    ],
)
def test_a_row_that_wants_a_gemm_may_lack_the_reshape_before_it(
    monkeypatch: pytest.MonkeyPatch, operators: Any, versions: bool, reads: bool
) -> None:
    row = replace(IMPORTERS["onnx2torch"], name="new", operators=operators, versions=versions)
    monkeypatch.setitem(IMPORTERS, "new", row)  # type: ignore[arg-type]
    assert rows_unread(17) == ([] if reads else ["new"])


# --------------------------------------------------------------------------------------------------------------- corpus


@pytest.mark.skipif(not ENTRIES, reason=ABSENT)
@pytest.mark.parametrize("file", [entry["file"] for entry in ENTRIES])
def test_corpus(file: str) -> None:
    try:
        plan = find_layers(expand(onnx_lsuv.load(CORPUS / file)))
    except ModelError:
        assert "truncated" in file
        return
    found = forecast(plan, plan)
    assert [each.importer for each in found] == list(IMPORTERS)
    for each in found:
        assert each.as_is == each.portable
        reading = each.as_is
        assert 0 <= reading.trainable <= reading.weights == len(plan.weights)
        assert {f.kind for f in reading.findings} <= set(KINDS)
        assert {f.effect for f in reading.findings} <= {"fails", "blocks", "note"}
        # Whatever does not train is explained, and nothing else is called an obstacle.
        obstacles = [f for f in reading.findings if f.effect != "note"]
        assert (reading.trainable == reading.weights) == (not obstacles) or reading.weights == 0, each
        assert all(f.detail and "\n" not in f.text for f in reading.findings)
        json.dumps(each.as_dict())
