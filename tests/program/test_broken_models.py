"""Models that say what is not so: each ends in one sentence of its class, and nothing is drawn, run or left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call, fails, names
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from oracle import normal

import onnx_lsuv
from onnx_lsuv import ModelError, UsageError
from onnx_lsuv.layers import find_layers
from onnx_lsuv.model import read
from onnx_lsuv.program import expand

F = TensorProto.FLOAT


def model(nodes: Sequence[NodeProto], tensors: dict[str, Any], *, opset: int = 17, ir: int = 8) -> ModelProto:
    """Return a model of an input x (N, 16) and an output z; a tensor is an array or a finished proto."""
    made = [t if isinstance(t, TensorProto) else numpy_helper.from_array(np.array(t), n) for n, t in tensors.items()]
    x, z = helper.make_tensor_value_info("x", F, ["N", 16]), helper.make_tensor_value_info("z", F, None)
    graph = helper.make_graph(list(nodes), "g", [x], [z], made)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def node(op: str, given: str, made: str, **attributes: Any) -> NodeProto:
    """Return a node of values in words; "-" is the empty name."""
    inputs, outputs = ([name.replace("-", "") for name in words.split()] for words in (given, made))
    return helper.make_node(op, inputs, outputs, **attributes)


def lying(dims: Sequence[int], raw: bytes = bytes(1024), data_type: int = F) -> TensorProto:
    return TensorProto(name="w", dims=dims, data_type=data_type, raw_data=raw)


def stored(tensor: TensorProto) -> ModelProto:
    """Return a model whose first weight is a tensor, and whose second is right."""
    copy = TensorProto.FromString(tensor.SerializeToString())
    copy.name = "w"
    return model([node("MatMul", "x w", "y"), node("MatMul", "y u", "z")], {"w": copy, "u": normal(16, 4)})


def moved(op: str, given: str = "", made: str = "w", opset: int = 17, **more: Any) -> ModelProto:
    """Return a model whose weight comes through a node: attributes are texts or numbers, the rest are operands."""
    attributes = {k: v for k, v in more.items() if k in ("axis", "perm", "num_outputs", "to")}
    tensors = {k: np.array(v, np.int64) for k, v in more.items() if k not in attributes}
    nodes = [node(op, f"w0 {given}", made, **attributes), node("MatMul", "x w", "z")]
    return model(nodes, {"w0": normal(16, 16), **tensors}, opset=opset)


def save(proto: ModelProto | bytes, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    np.save(folder / "x.npy", normal(32, 16))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(proto: ModelProto | bytes, here: Path, *more: str, status: int = 3, data: str = "x.npy") -> str:
    """Return what the command says of a model; nothing is left behind."""
    save(proto, here)
    before = names(here)
    line = fails(status, "m.onnx", *(["--data", data] if data else []), *more)
    assert names(here) == before
    return line


# ------------------------------------------------------------------------------------------------------- lying tensors


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (lying([1 << 60]), "bytes of data"),
        (lying([1 << 60, 16]), "bytes of data"),
        (lying([1 << 32, 1 << 32]), "bytes of data"),
        (lying([16, 17]), "should have 1088 bytes of data for dims 16x17 of float32, but has 1024"),
        (lying([-16, -16]), "negative"),
        (lying([1] * 100, bytes(4)), "more than an array can have"),
        pytest.param(lying([1] * 100_000, bytes(4)), "(100000 of them)", marks=pytest.mark.slow),
        (lying([16, 16], data_type=99), "element type 99"),
        (TensorProto(dims=[1 << 40], data_type=F, float_data=[1.0] * 16), "but has 16"),
        (TensorProto(dims=[1 << 40], data_type=TensorProto.FLOAT16, int32_data=[1] * 16), "but has 16 bytes"),
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_dims_that_the_data_belie(here: Path, tensor: TensorProto, words: str, constant: bool) -> None:
    proto = stored(tensor)
    if constant:
        del proto.graph.initializer[0]
        proto.graph.node.insert(0, node("Constant", "", "w", value=tensor))
    assert words in refused(proto, here)
    assert words in refused(proto, here, "--dry-run", data="")


@pytest.mark.parametrize(
    ("operand", "shape"),
    [("w", [1 << 31, 1 << 31]), ("w", [16, 1 << 60]), ("w", [1] * 100), ("b", [1 << 34, 16]), ("b", [1 << 60])],
)
def test_a_constant_of_shape_of_any_size(here: Path, shape: list[int], operand: str) -> None:
    nodes = [node("ConstantOfShape", "s", operand), node("Gemm", "x w b", "z")]
    tensors = {"w": normal(16, 16), "b": normal(16), "s": np.array(shape)}
    del tensors[operand]
    assert refused(model(nodes, tensors), here)


@pytest.mark.parametrize("raw", [np.array([16, 16]).tobytes(), bytes(9)])
@pytest.mark.parametrize("dims", [[1 << 60], [2, 1]])
def test_a_shape_that_is_none(here: Path, raw: bytes, dims: list[int]) -> None:
    nodes = [node("Reshape", "v w", "m"), node("MatMul", "x m", "z")]
    proto = model(nodes, {"v": normal(16, 16), "w": lying(dims, raw, TensorProto.INT64)})
    assert refused(proto, here)
    if dims == [2, 1] and len(raw) == 16:
        assert [left.reason for left in onnx_lsuv.plan(onnx_lsuv.from_proto(proto), fresh=True).skipped] == ["computed"]


# -------------------------------------------------------------------------------------------------------- lying nodes


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (moved("Slice", "st en ax", st=[0], en=[8], ax=[7]), "way through Slice 'w'"),
        (moved("Slice", "st en", st=[0, 0], en=[8]), "way through Slice 'w'"),
        (moved("Slice", "st en", st=[0, 0, 0], en=[8, 8, 8]), "way through Slice 'w'"),
        (moved("Slice", "st en ax sp", st=[0], en=[8], ax=[0], sp=[0]), "way through Slice 'w'"),
        (moved("Slice", "st", st=[0]), "2 input(s) where at least 3 should be"),
        (moved("Split", made="w v", axis=7), "way through Split 'w'"),
        (moved("Split", made="w v", num_outputs=0, opset=18), "way through Split 'w'"),
        (moved("Transpose", perm=[0, 7]), "way through Transpose 'w'"),
        (moved("Gather", "i", i=list(range(84, 100))), "way through Gather 'w'"),
        (moved("Gather", "i", i=list(range(16)), axis=9), "way through Gather 'w'"),
        (moved("Gather", "i", i=[*range(15), -16]), "more than once"),
        (moved("Gather"), "1 input(s) where 2 should be"),
        (moved("Reshape", "s", s=[7, 7]), "way through Reshape 'w'"),
        (moved("Reshape", "s", s=[1 << 62, 1 << 62]), "way through Reshape 'w'"),
        (moved("Squeeze", "a", a=[5]), "way through Squeeze 'w'"),
        (moved("Unsqueeze", "a", a=list(range(80))), "way through Unsqueeze 'w'"),
        (moved("Concat", axis=9), "way through Concat 'w'"),
        (moved("Concat"), "lacks its attribute 'axis'"),
        (moved("Cast"), "lacks its attribute 'to'"),
        (moved("Cast", to="float"), "of type STRING, which should be INT"),
    ],
)
def test_a_weight_moved_by_operands_that_do_not_fit(here: Path, proto: ModelProto, words: str) -> None:
    assert words in refused(proto, here)


@pytest.mark.parametrize(("split", "at", "axis"), [(16, 7, 0), (0, 0, 0), (8, 0, 9), (-3, 1, 0)])
def test_a_sequence_that_is_cut_wrongly(here: Path, split: int, at: int, axis: int) -> None:
    cut, pick = node("SplitToSequence", "w0 s", "q", axis=axis), node("SequenceAt", "q i", "w")
    proto = model([cut, pick, node("MatMul", "x w", "z")], {"w0": normal(16, 16), "s": split, "i": at})
    assert "way through SequenceAt 'w'" in refused(proto, here)


def body(inputs: int, outputs: int) -> GraphProto:
    formals = [helper.make_tensor_value_info(name, F, None) for name in ("i", "c", "v", "e")[:inputs]]
    results = [helper.make_tensor_value_info(name, F, None) for name in ("d", "o", "o")[:outputs]]
    return helper.make_graph([node("Identity", "c", "d"), node("Relu", "v", "o")], "body", formals, results)


def after(last: NodeProto, **tensors: Any) -> ModelProto:
    """Return a model of a right layer, y, and a node behind it that no layer needs."""
    return model([node("MatMul", "x w", "y"), last], {"w": normal(16, 16), **tensors})


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (model([node("Einsum", "x w", "z")], {"w": normal(16, 16)}), "'equation'"),
        (model([node("Einsum", "x w", "z", equation=b"\xff\xfe")], {"w": normal(16, 16)}), "(16, 16) does not fit"),
        (model([node("Conv", "x", "z")], {}), "1 input(s) where at least 2"),
        (model([node("Gemm", "", "z")], {}), "0 input(s) where at least 2"),
        (model([node("Identity", "", "w"), node("MatMul", "x w", "z")], {}), "0 input(s) where 1"),
        (after(node("MatMul", "y w", "")), "0 output(s) where 1"),
        (model([node("Einsum", "", "w"), node("MatMul", "x w", "z")], {}, opset=8), "0 input(s) where at least 1"),
        (model([node("MatMul", "x w", "z")], {"w": normal(16, 16)}, opset=99), "is the newest that onnx"),
        (model([node("Scan", "x", "z")], {}, opset=1 << 20), "opset 1048576, and"),
        (after(node("If", "t", "z"), t=np.array(True)), "lacks its attribute"),
        (after(node("Loop", "n - y", "z"), n=3), "lacks its attribute 'body'"),
        (after(node("Loop", "n - y", "z", body=body(2, 2)), n=3), "2 input(s) where 3 should be"),
        (after(node("Loop", "n - y", "z", body=body(4, 3)), n=3), "4 input(s) where 3 should be"),
        (after(node("Loop", "n - y", "z", body=body(3, 1)), n=3), "its body has 1 outputs"),
        (after(node("Loop", "n - y", "z", body=body(0, 0)), n=3), "its body has 0 outputs"),
        (after(node("Loop", "n - - y", "z", body=body(4, 3)), n=3), "a state without a start"),
        (after(node("Scan", "y", "z", body=body(1, 1), num_scan_inputs=3)), "scans 3 of 1 inputs"),
        (after(node("BatchNormalization", "y s s s -", "z"), s=normal(16)), "no name for input 4"),
        (after(node("BatchNormalization", "y s s s s s", "z"), s=normal(16)), "6 input(s) where 5"),
        (after(node("BatchNormalization", "y s s m v", "z"), s=normal(16), m=normal(8), v=normal(8)), "'m' [8]"),
        (after(node("BatchNormalization", "y s s m v", "z"), s=normal(8), m=normal(8), v=normal(8)), "of 8 channels"),
    ],
)
def test_a_node_that_its_operator_does_not_allow(here: Path, proto: ModelProto, words: str) -> None:
    assert words in refused(proto, here)


def test_what_a_definition_leaves_open_passes() -> None:
    """Optional operands by an empty name, fewer outputs than there are, an attribute without its type (IR 1)."""
    dropout = node("Dropout", "y - t", "z")
    proto = after(dropout, t=np.array(False))
    proto.graph.node[0].CopyFrom(node("Gemm", "x w -", "y", transB=1))
    proto.graph.node[0].attribute[0].type = AttributeProto.UNDEFINED
    assert [layer.name for layer in onnx_lsuv.plan(onnx_lsuv.from_proto(proto)).layers] == ["y"]


@pytest.mark.parametrize("shape", [(), (32,), (4, 8)])
def test_an_einsum_of_fewer_axes_than_letters(here: Path, shape: tuple[int, ...]) -> None:
    """ONNX Runtime would end the process."""
    proto = model([node("Einsum", "x w", "z", equation="bik, kj -> bij")], {"w": normal(8, 4)})
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    save(proto, here)
    np.save("x.npy", np.ones(shape, np.float32))
    assert f"as 'bik', but it has {len(shape)} axes" in fails(3, "m.onnx", "--data", "x.npy")


@pytest.mark.parametrize("kernel", [(0, 0), (0, 1)])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_a_kernel_of_no_length(here: Path, op: str, kernel: tuple[int, int]) -> None:
    """ONNX Runtime would never come back."""
    nodes = [node("MatMul", "x w", "y"), node("Reshape", "y s", "i"), node(op, "i k", "j"), node("MatMul", "j u", "z")]
    tensors = {"w": normal(16, 16), "s": np.array([-1, 4, 2, 2]), "k": np.ones((4, 4, *kernel), np.float32)}
    assert "kernel of no length" in refused(model(nodes, {**tensors, "u": normal(2, 2)}), here)


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_gates_without_inputs(here: Path, op: str, gates: int) -> None:
    """ONNX Runtime would end the process."""
    nodes = [node("MatMul", "x w", "y"), node("Reshape", "y s", "i")]
    nodes += [node("Slice", "i a a two", "e"), node(op, "e k r", "z", hidden_size=4)]
    tensors = {"w": normal(16, 16), "s": np.array([4, 8, 16]), "a": np.array([0]), "two": np.array([2])}
    tensors |= {"k": np.ones((1, 4 * gates, 0), np.float32), "r": normal(1, 4 * gates, 4)}
    assert "without any values" in refused(model(nodes, tensors), here)


@pytest.mark.parametrize(
    ("op", "operands", "wrong"),
    [
        ("Reshape", {"s": [[-1], [16]]}, "[2, 1]"),
        ("Reshape", {"s": -1}, "[]"),
        ("Slice", {"a": [[0]], "b": [8], "c": [1]}, "[1, 1]"),
        ("Slice", {"a": [0], "b": 8, "c": [1]}, "[]"),
        ("Split", {"s": [[4], [12]]}, "[2, 1]"),
        ("Squeeze", {"s": [[0]]}, "[1, 1]"),
        ("Unsqueeze", {"s": [[1]]}, "[1, 1]"),
    ],
)
def test_bounds_and_shapes_that_are_no_vectors(here: Path, op: str, operands: dict[str, Any], wrong: str) -> None:
    """ONNX Runtime loads them and fails on any data."""
    made = "v rest" if op == "Split" else "v"
    nodes = [node("MatMul", "x w", "y"), node(op, " ".join(["y", *operands]), made), node("ReduceMax", "v", "m")]
    nodes += [node("MatMul", "y u", "i"), node("Add", "i m", "j"), node("MatMul", "j u", "z")]
    tensors = {name: np.array(each, np.int64) for name, each in operands.items()}
    line = refused(model(nodes, {"w": normal(16, 16), "u": normal(16, 16), **tensors}), here)
    assert f"its shape is {wrong}" in line


def test_one_axis_to_unsqueeze_may_be_a_scalar(here: Path) -> None:
    nodes = [node("MatMul", "x w", "y"), node("Unsqueeze", "y s", "v"), node("MatMul", "v u", "z")]
    save(model(nodes, {"w": normal(16, 16), "u": normal(16, 4), "s": np.array(1)}), here)
    call("m.onnx", "--data", "x.npy")


def test_an_operator_of_a_long_name(here: Path) -> None:
    proto = model([node("M" * 40_000, "x", "y", domain="acme"), node("MatMul", "y u", "z")], {"u": normal(16, 4)})
    proto.opset_import.add(domain="acme", version=1)
    line = refused(proto, here)
    assert "does not know the operator 'acme.MMM" in line
    assert len(line) < 400


@pytest.mark.parametrize("listed", ["x", "w"])
def test_an_input_without_a_type(here: Path, listed: str) -> None:
    proto = plain(ir=3)
    proto.graph.input.add(name="w")
    proto.graph.input[listed == "w"].ClearField("type")
    assert f"input '{listed}'" in refused(proto, here)


@pytest.mark.parametrize("count", [1 << 40, (1 << 63) - 1])
def test_a_loop_that_nothing_ends(here: Path, count: int) -> None:
    assert "no condition ends it" in refused(after(node("Loop", "n - y", "z", body=body(3, 2)), n=count), here)


def test_a_loop_that_its_condition_ends() -> None:
    """As a while loop is exported: the largest trip count there is, and a condition that the body computes."""
    inner = helper.make_graph(
        [node("Less", "i k", "d"), node("MatMul", "v u", "m"), node("Tanh", "m", "o")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", F, ["N", 16]),
        ],
        [helper.make_tensor_value_info("d", TensorProto.BOOL, []), helper.make_tensor_value_info("o", F, ["N", 16])],
    )
    loop = node("Loop", "n - y", "z", body=inner)
    proto = after(loop, n=(1 << 63) - 1, k=2, u=normal(16, 16))
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(proto), {"x": normal(32, 16)})
    assert {row.name: row.status for row in result.layers} == {"y": "scaled", "z.body/m": "scaled"}


# ------------------------------------------------------------------------------------------------- long ways, many ways


def functions(*made: FunctionProto) -> ModelProto:
    last = helper.make_node(made[-1].name, ["y"], ["z"], domain="f")
    proto = after(last)
    proto.functions.extend(made)
    proto.opset_import.add(domain="f", version=1)
    return proto


def function(name: str, *calls: str) -> FunctionProto:
    values = [f"v{i}" for i in range(len(calls) + 1)]
    nodes = [
        helper.make_node(call, [one], [two], domain="" if call == "Relu" else "f")
        for call, one, two in zip(calls, values[:-1], values[1:], strict=True)
    ]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, values[:1], values[-1:], nodes, imports)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_functions_that_double(here: Path, more: list[str]) -> None:
    chain = [function("f0", "Relu"), *(function(f"f{i}", f"f{i - 1}", f"f{i - 1}") for i in range(1, 31))]
    assert "more than 100000 nodes" in refused(functions(*chain), here, *more, data="" if more else "x.npy")


def test_functions_that_call_each_other_deep(here: Path) -> None:
    chain = [function("f0", "Relu"), *(function(f"f{i}", f"f{i - 1}") for i in range(1, 5000))]
    assert "more than 100 scopes" in refused(functions(*chain), here)
    assert onnx_lsuv.plan(onnx_lsuv.from_proto(functions(*chain[:50]))).layers


@pytest.mark.parametrize("moves", [300, 5000])
def test_a_long_way_to_the_weight(moves: int) -> None:
    chain = [node("Identity", f"w{i}", f"w{i + 1}") for i in range(moves)]
    proto = model([*chain, node("MatMul", f"x w{moves}", "z")], {"w0": normal(16, 16)})
    plan = find_layers(expand(onnx_lsuv.from_proto(proto)))
    if moves == 300:
        assert [layer.source.constant for layer in plan.layers] == ["w0"]
    else:
        assert [left.reason for left in plan.skipped] == ["computed"]


@pytest.mark.parametrize("op", ["Mul", "Add", "Concat"])
def test_a_way_that_doubles_with_every_node(op: str) -> None:
    """2^60 ways lead to the constant, along 60 nodes."""
    axis = {"axis": 0} if op == "Concat" else {}
    chain = [node(op, f"w{i} w{i}", f"w{i + 1}", **axis) for i in range(60)]
    proto = model([*chain, node("Reshape", "x w60", "q"), node("MatMul", "x w60", "z")], {"w0": np.ones(1, np.int64)})
    assert not onnx_lsuv.plan(onnx_lsuv.from_proto(proto)).layers
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(normal(16, 16), "w0"))
    assert not onnx_lsuv.plan(onnx_lsuv.from_proto(proto), fresh=True).layers


# ------------------------------------------------------------------------------------------------------ what they claim


def plain(**more: Any) -> ModelProto:
    return model([node("MatMul", "x w", "z")], {"w": normal(16, 16)}, **more)


@pytest.mark.parametrize("version", [15, 999, 1 << 62])
def test_an_ir_version_of_the_future(here: Path, version: int) -> None:
    if version > onnx.IR_VERSION:
        assert f"IR version {version}" in refused(plain(ir=version), here)


@pytest.mark.parametrize("domain", ["", "acme"])
def test_an_opset_that_no_integer_holds(here: Path, domain: str) -> None:
    proto = plain()
    if domain:
        proto.opset_import.add(domain=domain)
    proto.opset_import[-1].version = 1 << 31
    assert "opset 2147483648" in refused(proto, here, "--dry-run", data="")


def test_ir_14_is_known(here: Path) -> None:
    save(plain(ir=14), here)
    call("m.onnx", "--data", "x.npy")
    assert onnx.load("m.lsuv.onnx").ir_version == 14


def test_operators_of_no_opset(here: Path) -> None:
    proto = plain()
    proto.opset_import[0].domain = "acme"
    assert "does not say of which opset" in refused(proto, here)


def test_functions_may_say_the_opset(here: Path) -> None:
    """A model of calls alone need not import ONNX's operators, as each function names the opset of its own nodes."""
    proto = plain()
    domain = proto.functions.add(name="Layer", domain="acme")
    domain.opset_import.extend(proto.opset_import)
    domain.node.extend(proto.graph.node)
    domain.input.extend(dict.fromkeys(name for node in proto.graph.node for name in node.input))
    domain.output.append(proto.graph.output[0].name)
    made = {name for node in proto.graph.node for name in node.output}
    for name in made.intersection(domain.input):
        domain.input.remove(name)
    del proto.graph.node[:]
    proto.graph.node.add(op_type="Layer", domain="acme", input=domain.input, output=domain.output)
    proto.opset_import[0].CopyFrom(onnx.helper.make_opsetid("acme", 1))
    save(proto, here)
    call("m.onnx", "--data", "x.npy")


@pytest.mark.parametrize("where", ["domain", "value", "overload"])
def test_names_that_are_no_text(here: Path, where: str) -> None:
    proto = plain()
    match where:
        case "domain":
            proto.opset_import.add(domain="name", version=1)
        case "value":
            proto.graph.value_info.add(name="name")
        case _:
            proto.graph.node[0].overload = "name"
    assert "not UTF-8" in refused(proto.SerializeToString().replace(b"name", b"\xff\xfeme"), here, "--report", "r.json")


@pytest.mark.parametrize("deep", [0, 10, 30])
def test_a_model_without_anything_is_the_models_fault(here: Path, deep: int) -> None:
    """Even where data are given for the inputs that it does not have."""
    proto = ModelProto(ir_version=8, graph=GraphProto(name="g"))
    proto.opset_import.add(version=17)
    for _ in range(deep):
        inner = GraphProto(name="g")
        inner.node.add(op_type="If", output=["o"]).attribute.add(name="b", g=proto.graph)
        proto.graph.CopyFrom(inner)
    assert "nothing to initialise" in refused(proto, here) or deep


# --------------------------------------------------------------------------------------------------- reading the model


@pytest.mark.skipif(os.name != "posix", reason="the limits are those of POSIX")
@pytest.mark.parametrize("option", [False, True])
def test_a_model_that_cannot_be_read(here: Path, option: bool) -> None:
    save(plain(), here)
    Path("loop.onnx").symlink_to("loop.onnx")
    Path("a.onnx").symlink_to("b.onnx")
    for path in ("n" * 300, "d/" * 2500, "loop.onnx", "loop.onnx/m.onnx", "x.npy/m.onnx"):
        given = ["m.onnx", "--check", "--compare", path] if option else [path]
        assert fails(3, *given, "--data", "x.npy")
    assert "no model file" in fails(3, "a.onnx", "--data", "x.npy")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to this user")
def test_a_model_that_must_not_be_read(here: Path) -> None:  # pragma: no cover
    save(plain(), here)
    Path("closed").mkdir()
    Path("m.onnx").rename("closed/m.onnx")
    Path("closed/m.onnx").chmod(0)
    assert "Permission denied" in fails(3, "closed/m.onnx", "--data", "x.npy")
    Path("closed").chmod(0)
    assert "Permission denied" in fails(3, "closed/m.onnx", "--data", "x.npy")
    Path("closed").chmod(0o700)


@pytest.mark.parametrize("external", [False, True])
def test_a_file_that_shrinks_while_it_is_mapped(here: Path, external: bool) -> None:
    proto = model([node("MatMul", "x w", "z")], {"w": normal(16, 4096)})
    onnx.save(proto, "m.onnx", save_as_external_data=external, location="m.data", size_threshold=0)
    loaded = onnx_lsuv.load("m.onnx")
    site = expand(loaded).constants["w"].site
    assert site is not None
    read(loaded, site)
    os.truncate("m.data" if external else "m.onnx", 100)
    with pytest.raises(ModelError, match="has become shorter"):
        read(loaded, site)
    with pytest.raises(ModelError, match="has become shorter"):
        onnx_lsuv.save(loaded, "o.onnx")


# ------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("std", ["1e300", "1e-300", "1e39", "1e-50"])
def test_a_target_that_no_float_has(here: Path, std: str) -> None:
    assert "from 1e-09 to 1e+09" in refused(plain(), here, "--target-std", std, status=2)
    assert "from 1e-09 to 1e+09" in refused(plain(), here, "--target", f"z={std}", status=2)
    with pytest.raises(UsageError, match="from 1e-09"):
        onnx_lsuv.measure(onnx_lsuv.from_proto(plain()), {"x": normal(8, 16)}, target_std=float(std))


@pytest.mark.parametrize("tolerance", [0.0, -1.0, 1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none(tolerance: float) -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        onnx_lsuv.measure(onnx_lsuv.from_proto(plain()), {"x": normal(8, 16)}, tolerance=tolerance)


def test_a_memory_that_is_no_size(here: Path) -> None:
    assert "--memory takes a size" in refused(plain(), here, "--memory", "9e9", status=2)


@pytest.mark.parametrize("size", [1e-40, 1e-35])
def test_a_weight_too_small_to_be_scaled(here: Path, size: float) -> None:
    proto = plain()
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((16, 16), size, np.float32), "w"))
    save(proto, here)
    (line,) = call("m.onnx", "--data", "x.npy", "--init", "keep", status=1).stderr.splitlines()
    assert "too small to be scaled" in line
    assert np.array_equal(
        numpy_helper.to_array(onnx.load("m.lsuv.onnx").graph.initializer[0]), np.full((16, 16), size, "f4")
    )


# -------------------------------------------------------------------------------------------------------- interruption


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are those of POSIX")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_inside_onnx_runtime(here: Path, number: int, status: int) -> None:
    """A loop of 2^31 - 1 iterations would take an hour."""
    loop = node("Loop", "n - y", "q", body=body(3, 2))
    types = {"i": TensorProto.INT64, "c": TensorProto.BOOL, "d": TensorProto.BOOL}
    for value in (*loop.attribute[0].g.input, *loop.attribute[0].g.output):
        value.type.tensor_type.elem_type = types.get(value.name, F)
        if value.name in types:
            value.type.tensor_type.shape.SetInParent()
    nodes = [node("MatMul", "x w", "y"), loop, node("MatMul", "q w", "z")]
    save(model(nodes, {"w": normal(16, 16), "n": (1 << 31) - 1}), here)
    command = [sys.executable, "-m", "onnx_lsuv", "m.onnx", "--data", "x.npy", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert _until(lambda: _threads(process.pid) > 2)
        sleep(2)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    assert process.returncode == status
    assert "nothing was saved" in said
    assert names(here) == {"m.onnx", "x.npy"}


def _threads(process: int) -> int:
    tasks = Path(f"/proc/{process}/task")
    return len(list(tasks.iterdir())) if tasks.exists() else 99


def _until(true: Callable[[], bool]) -> bool:
    start = monotonic()
    while not true() and monotonic() - start < 60:
        sleep(0.05)
    return true()
