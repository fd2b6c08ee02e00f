"""Values and bytes: what is read, what is written, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from commands import mlp
from corpus import CORPUS, LIGHT
from onnx import TensorProto, helper, numpy_helper

import onnx_lsuv
from onnx_lsuv import model as m
from onnx_lsuv.errors import ModelError, OutputError, UsageError
from onnx_lsuv.model import payload, saving

W = ((7, 0), (5, 0))  # the first initializer


def varint(value: int, width: int = 0) -> bytes:
    """Encode a varint, padded to `width` bytes: a long form that parsers must accept."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < width:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, data: bytes, width: int = 0) -> bytes:
    return varint(number << 3 | 2) + varint(len(data), width) + data


def model_bytes(*graph: bytes, ir: int = 10) -> bytes:
    return b"\x08" + varint(ir) + b"".join(field(7, one) for one in graph) + b"\x42\x02\x10\x11"


def on_disk(data: bytes, tmp_path: Path) -> m.Model:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return m.load(path)


def parse(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def tensors(proto: onnx.ModelProto) -> Iterator[tuple[m.Site, TensorProto]]:
    """Yield sites and tensors by onnx's field names, without the module's own schema."""

    def graph(site: m.Site, one: onnx.GraphProto) -> Iterator[tuple[m.Site, TensorProto]]:
        for index, tensor in enumerate(one.initializer):
            yield (*site, (5, index)), tensor
        yield from nodes(site, 1, one.node)

    def nodes(site: m.Site, number: int, many: Any) -> Iterator[tuple[m.Site, TensorProto]]:
        for nth, node in enumerate(many):
            for index, attribute in enumerate(node.attribute):
                at = (*site, (number, nth), (5, index))
                if attribute.HasField("t"):
                    yield (*at, (5, 0)), attribute.t
                for inner, tensor in enumerate(attribute.tensors):
                    yield (*at, (10, inner)), tensor
                if attribute.HasField("g"):
                    yield from graph((*at, (6, 0)), attribute.g)
                for inner, below in enumerate(attribute.graphs):
                    yield from graph((*at, (11, inner)), below)

    yield from graph(((7, 0),), proto.graph)
    for index, function in enumerate(proto.functions):
        yield from nodes(((25, index),), 7, function.node)


def corpus() -> list[Path]:
    return sorted(LIGHT.glob("*.onnx")) + sorted(CORPUS.rglob("*.onnx"))


@pytest.mark.parametrize("path", corpus(), ids=lambda path: path.name)
def test_real_models_come_back_byte_for_byte_and_read_as_onnx_reads_them(path: Path, tmp_path: Path) -> None:
    try:
        full = onnx.load(path)
    except Exception:
        pytest.skip("onnx cannot load it")
    loaded = m.load(path)
    written = m.save(loaded, tmp_path / path.name)
    assert written[-1] == tmp_path / path.name
    assert written[-1].read_bytes() == path.read_bytes()
    values = {}
    for site, tensor in tensors(full):
        array = m.read(loaded, site)
        expected = numpy_helper.to_array(tensor)
        assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
        assert not array.flags.writeable
        if array.dtype == object:
            assert array.tolist() == expected.tolist()
            continue
        assert array.tobytes() == expected.tobytes()
        if site[0][0] == 7 and len(site) == 2:
            values[site] = array[::-1] if array.ndim else array
    # new values: the reversed ones are what onnx reads back, and nothing else is different
    (*_, out) = m.save(m.with_values(loaded, values), tmp_path / "new.onnx")
    after = onnx.load(out)
    assert len(after.graph.initializer) == len(full.graph.initializer)
    for (_, index), array in ((site[-1], array) for site, array in values.items()):
        new, old = after.graph.initializer[index], full.graph.initializer[index]
        assert numpy_helper.to_array(new).tobytes() == array.tobytes()
        new.CopyFrom(old)
    assert after.SerializeToString(deterministic=True) == full.SerializeToString(deterministic=True)


def test_skeleton_leaves_out_large_payloads_only(tmp_path: Path) -> None:
    proto = parse('<ir_version: 10, opset_import: ["": 17]> g (float[N] x) => (float[N] y) { y = Relu(x) }')
    big, small = np.arange(300, dtype=np.float32), np.arange(256, dtype=np.float32)
    proto.graph.initializer.extend([numpy_helper.from_array(big, "big"), numpy_helper.from_array(small, "small")])
    proto.graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [300], big))
    proto.graph.initializer.append(helper.make_tensor("empty", TensorProto.FLOAT, [0, 7], []))
    before = proto.SerializeToString()
    loaded = m.from_proto(proto)
    assert proto.SerializeToString() == before
    assert [m.is_hollow(one) for one in loaded.proto.graph.initializer] == [True, False, True, False]
    assert [one.name for one in loaded.proto.graph.initializer] == ["big", "small", "typed", "empty"]
    for index, array in enumerate([big, small, big, np.empty((0, 7), np.float32)]):
        np.testing.assert_array_equal(m.read(loaded, ((7, 0), (5, index))), array)
    assert m.to_bytes(loaded) == before
    assert loaded.path is None
    assert not loaded.values


FLOATS = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16]
SMALL = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ,
         TensorProto.FLOAT4E2M1, TensorProto.INT4, TensorProto.UINT4]  # fmt: skip
INTS = [TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8,
        TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.BOOL]  # fmt: skip
COMPLEX = [TensorProto.COMPLEX64, TensorProto.COMPLEX128]


def some_values(data_type: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    if data_type == TensorProto.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if data_type in (TensorProto.INT4, TensorProto.UINT4):
        return rng.integers(-8 if data_type == TensorProto.INT4 else 0, 8, shape).astype(dtype)
    if data_type in INTS:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    values = rng.standard_normal(shape) * 3
    return (values + 1j * rng.standard_normal(shape)).astype(dtype) if data_type in COMPLEX else values.astype(dtype)


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (), (0, 4), (700,)])
@pytest.mark.parametrize("data_type", FLOATS + SMALL + INTS + COMPLEX)
def test_every_element_type_reads_and_writes_as_onnx_does(data_type: int, shape: tuple[int, ...], raw: bool) -> None:
    old, new = some_values(data_type, shape, 1), some_values(data_type, shape, 2)
    tensor = numpy_helper.from_array(old, "w")
    if not raw:
        if data_type in SMALL and data_type not in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
            tensor.int32_data.extend(old.reshape(-1).view(np.uint8).tolist())
        elif data_type in (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1):
            tensor.int32_data.extend(tensor.raw_data)
        else:
            tensor = helper.make_tensor("w", data_type, shape, old.reshape(-1).tolist())
        tensor.ClearField("raw_data")
    graph = helper.make_graph([], "g", [], [], [tensor])
    loaded = m.from_proto(helper.make_model(graph, ir_version=10))
    array = m.read(loaded, W)
    assert (array.dtype, array.shape) == (old.dtype, shape)
    assert array.tobytes() == old.tobytes()
    after = onnx.ModelProto.FromString(m.to_bytes(m.with_values(loaded, {W: new}))).graph.initializer[0]
    assert numpy_helper.to_array(after).tobytes() == new.tobytes()
    assert after.HasField("raw_data") == raw


def test_two_bit_types() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.UINT2, dims=[5], raw_data=bytes([0b11100100, 0b10]))
    loaded = m.from_proto(helper.make_model(helper.make_graph([], "g", [], [], [tensor]), ir_version=10))
    assert m.read(loaded, W).astype(int).tolist() == [0, 1, 2, 3, 2]
    new = np.array([3, 3, 0, 1, 1]).astype(ml_dtypes.uint2)
    data = m.to_bytes(m.with_values(loaded, {W: new}))
    assert onnx.ModelProto.FromString(data).graph.initializer[0].raw_data == bytes([0b01001111, 0b01])


def test_strings_are_read_but_not_replaced() -> None:
    tensor = helper.make_tensor("s", TensorProto.STRING, [2], ["a", "ü"])
    loaded = m.from_proto(helper.make_model(helper.make_graph([], "g", [], [], [tensor]), ir_version=10))
    assert m.read(loaded, W).tolist() == ["a", "ü"]
    with pytest.raises(ModelError, match="strings"):
        m.with_values(loaded, {W: np.array(["b", "c"], object)})


# ---- byte for byte ------------------------------------------------------------------------------------------------

OLD, NEW = np.arange(400, dtype="<f4"), -np.arange(400, dtype="<f4")


def test_only_the_payload_changes_whatever_the_encoding_around_it(tmp_path: Path) -> None:
    group = varint(4002 << 3 | 3) + b"\x08\x01" + varint(4002 << 3 | 4)
    unknown = varint(4000 << 3 | 2) + b"\x03abc" + varint(4001 << 3) + b"\xff\x01" + group
    tensor = (
        field(8, b"w", 5)  # the name first, its length in five bytes
        + field(9, b"stale")  # raw_data twice: the last one counts
        + unknown
        + field(9, OLD.tobytes(), 5)
        + b"\x90\x80\x00\x01"  # data_type with an over-long tag and
        + field(1, b"\x94\x80\x00\x14")  # dims packed, with an over-long varint: 20, 20
    )
    graph = field(2, b"g") + unknown + field(5, tensor, 5) + field(1, field(4, b"Relu", 3), 4)
    data = unknown + model_bytes(graph)
    assert numpy_helper.to_array(onnx.ModelProto.FromString(data).graph.initializer[0]).shape == (20, 20)
    loaded = on_disk(data, tmp_path)
    np.testing.assert_array_equal(m.read(loaded, W), OLD.reshape(20, 20))
    after = m.to_bytes(m.with_values(loaded, {W: NEW.reshape(20, 20)}))
    assert data.count(OLD.tobytes()) == 1
    assert after == data.replace(OLD.tobytes(), NEW.tobytes())
    assert m.to_bytes(loaded) == data


def test_a_graph_in_two_occurrences_is_one_graph(tmp_path: Path) -> None:
    def tensor(name: bytes, fill: float) -> bytes:
        return field(5, b"\x08\x64\x10\x01" + field(8, name) + field(9, np.full(100, fill, "<f4").tobytes()))

    data = model_bytes(tensor(b"a", 1), tensor(b"b", 2) + tensor(b"c", 3))
    assert [one.name for one in onnx.ModelProto.FromString(data).graph.initializer] == ["a", "b", "c"]
    loaded = on_disk(data, tmp_path)
    assert [float(m.read(loaded, ((7, 0), (5, index)))[0]) for index in range(3)] == [1, 2, 3]
    after = m.to_bytes(m.with_values(loaded, {((7, 0), (5, 2)): np.full(100, 7, np.float32)}))
    assert after == data.replace(np.full(100, 3, "<f4").tobytes(), np.full(100, 7, "<f4").tobytes())


def test_a_tensor_in_two_occurrences_is_hollow_as_a_whole_and_read_as_a_whole() -> None:
    first = b"\x08\x84\x07\x10\x01" + field(4, np.arange(200, dtype="<f4").tobytes())
    second = field(8, b"w") + field(4, np.arange(200, 900, dtype="<f4").tobytes())
    attribute = field(1, b"value") + field(5, first) + b"\xa0\x01\x04" + field(5, second)
    node = field(2, b"w") + field(4, b"Constant") + field(5, attribute)
    proto = onnx.ModelProto.FromString(model_bytes(field(1, node)))
    loaded = m.from_proto(proto)
    tensor = loaded.proto.graph.node[0].attribute[0].t
    assert m.is_hollow(tensor)
    assert not tensor.float_data
    np.testing.assert_array_equal(m.read(loaded, ((7, 0), (1, 0), (5, 0), (5, 0))), np.arange(900))


@pytest.mark.parametrize("pieces", [[400], [100, 300], [1] * 400, [1, 150, 1, 1, 0, 247]])
def test_typed_floats_stay_packed_or_unpacked(pieces: list[int], tmp_path: Path) -> None:
    def payload(values: np.ndarray) -> bytes:
        out, at = b"", 0
        for nth, size in enumerate(pieces):
            part = values[at : at + size].tobytes()
            out += b"\x25" + part if size == 1 and nth != 1 else field(4, part, 4)
            at += size
        return out

    data, expected = (
        model_bytes(field(5, b"\x08\x90\x03\x10\x01" + payload(values) + field(8, b"w"))) for values in (OLD, NEW)
    )
    loaded = on_disk(data, tmp_path)
    np.testing.assert_array_equal(m.read(loaded, W), OLD)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.ModelProto.FromString(data).graph.initializer[0]), OLD)
    assert m.to_bytes(m.with_values(loaded, {W: NEW})) == expected


@pytest.mark.parametrize("block", [1, 2, 7, 10, 64, 1 << 20])
def test_varints_are_encoded_block_by_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(payload, "BLOCK", block)
    numbers = [0, 127, 128, 2**64 - 1, *(2**63 >> shift for shift in range(64))]

    def model(values: list[int]) -> onnx.ModelProto:
        return onnx.ModelProto.FromString(
            model_bytes(field(5, b"\x08\x44\x10\x0d" + field(8, b"w") + field(11, b"".join(map(varint, values)))))
        )

    loaded = m.from_proto(model(numbers))
    assert m.read(loaded, W).tolist() == numbers
    new = np.array(numbers[::-1], np.uint64)
    assert m.to_bytes(m.with_values(loaded, {W: new})) == model(numbers[::-1]).SerializeToString()


@pytest.mark.parametrize("broken", [b"\x01" * 2000 + b"\x80", b"\x80" * 2000, b"\x80" * 11 + b"\x01" * 2000])
def test_a_list_of_broken_varints_is_refused(broken: bytes, tmp_path: Path) -> None:
    loaded = on_disk(model_bytes(field(5, b"\x08\xd1\x0f\x10\x07" + field(8, b"w") + field(7, broken))), tmp_path)
    with pytest.raises(ModelError, match=r"'w'.*row of varints"):
        m.read(loaded, W)


@pytest.mark.parametrize("depth", [1, 90, 101, 5000])
def test_groups_are_gone_past_as_deep_as_protobuf_allows(depth: int, tmp_path: Path) -> None:
    tensor = b"\x08\x90\x03\x10\x01" + field(9, OLD.tobytes()) + field(8, b"w")
    data = model_bytes(field(5, tensor + varint(4002 << 3 | 3) * depth + varint(4002 << 3 | 4) * depth))
    if depth > 100:
        with pytest.raises(ModelError, match="groups nested more than 100 deep"):
            on_disk(data, tmp_path)
        return
    loaded = on_disk(data, tmp_path)
    np.testing.assert_array_equal(m.read(loaded, W), OLD)
    after = m.to_bytes(m.with_values(loaded, {W: NEW}))
    assert after == data.replace(OLD.tobytes(), NEW.tobytes())


@pytest.mark.parametrize("data_type", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64])
@pytest.mark.parametrize("pieces", [[90], [30, 60], [1] * 90, [1, 44, 1, 1, 43]])
def test_typed_varints_change_the_lengths_around_them(data_type: int, pieces: list[int], tmp_path: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(data_type)
    number, bits = (7, np.int64) if data_type == TensorProto.INT64 else (5, np.uint16)

    def build(values: np.ndarray) -> bytes:
        out, at = b"", 0
        for nth, size in enumerate(pieces):
            part = b"".join(varint(int(one) & 2**64 - 1) for one in values[at : at + size].view(bits))
            out += varint(number << 3) + part if size == 1 and nth != 1 else field(number, part)
            at += size
        tensor = b"\x08\x5a\x10" + varint(data_type) + out + field(8, b"w")
        return model_bytes(field(2, b"g") + field(5, tensor) + field(10, b"doc"))

    # zeros take one byte each, ones three or ten: the tensor, graph and their lengths' own widths all grow
    old, new = np.zeros(90, dtype), -np.ones(90, dtype)
    for before, after in ((old, new), (new, old)):
        loaded = on_disk(build(before), tmp_path)
        assert m.read(loaded, W).tobytes() == before.tobytes()
        assert m.to_bytes(m.with_values(loaded, {W: after})) == build(after)


def test_new_values_are_seen_and_the_first_model_keeps_its_own() -> None:
    loaded = m.from_proto(onnx.ModelProto.FromString(model_bytes(
        field(5, b"\x08\x90\x03\x10\x01" + field(9, OLD.tobytes()) + field(8, b"w")))))  # fmt: skip
    given = NEW.astype(">f4")[::-1]
    changed = m.with_values(loaded, {W: given})
    np.testing.assert_array_equal(m.read(changed, W), NEW[::-1])
    np.testing.assert_array_equal(m.read(loaded, W), OLD)
    assert not m.read(changed, W).flags.writeable
    assert m.read(changed, W).dtype.isnative
    after = onnx.ModelProto.FromString(m.to_bytes(changed)).graph.initializer[0]
    assert after.raw_data == NEW[::-1].tobytes()


@pytest.mark.parametrize(
    "value", [np.zeros(399, np.float32), np.zeros((400, 1), np.float32), np.zeros(400, np.float64)]
)
def test_a_value_of_another_shape_or_type_is_refused(value: np.ndarray) -> None:
    loaded = m.from_proto(onnx.ModelProto.FromString(model_bytes(
        field(5, b"\x08\x90\x03\x10\x01" + field(9, OLD.tobytes()) + field(8, b"w")))))  # fmt: skip
    with pytest.raises(UsageError, match=r"tensor 'w' .* should get float32 values of shape \(400,\)"):
        m.with_values(loaded, {W: value})
    with pytest.raises(UsageError, match="no message at site"):
        m.read(loaded, ((7, 0), (5, 1)))


# ---- promoted nodes -----------------------------------------------------------------------------------------------

CONSTANTS = """
<ir_version: {ir}, opset_import: ["": 17, "f": 1]>
g (float[2] x, bool c) => (float[2] y, float[2] z)
<float[2] k = {{5, 6}}>
{{
  s = Constant <value = int64[1] {{2}}> ()
  a = Constant <value = float[2] {{1, 2}}> ()
  b = ConstantOfShape <value = float[1] {{0.5}}> (s)
  e = Constant <value_floats = [1.0, 2.0]> ()
  one = Constant <value_float = 1.0> ()
  t0 = Add(x, a)
  t1 = Add(t0, b)
  t2 = Add(t1, e)
  t3 = Add(t2, one)
  y = f.fn(t3)
  z = If (c) <
    then_branch = then () => (float[2] p) {{ p = Constant <value = float[2] {{3, 4}}> () }},
    else_branch = other () => (float[2] q) {{ d = Constant <value = float[2] {{7, 8}}> ()
                                              q = Add(d, k) }}>
}}
<domain: "f", opset_import: ["": 17]>
fn (v) => (w)
{{
  m = Constant <value = float[2] {{10, 20}}> ()
  n = Constant <value_float = 3.0> ()
  o = Constant <value_floats = [4.0, 5.0]> ()
  v1 = Mul(v, m)
  v2 = Add(v1, n)
  w = Add(v2, o)
}}
"""
A = ((7, 0), (1, 1), (5, 0), (5, 0))
B = ((7, 0), (1, 2))
E = ((7, 0), (1, 3), (5, 0))
ONE = ((7, 0), (1, 4), (5, 0))
THEN = ((7, 0), (1, 10), (5, 0), (6, 0), (1, 0), (5, 0), (5, 0))
OTHER = ((7, 0), (1, 10), (5, 1), (6, 0), (1, 0), (5, 0), (5, 0))
M = ((25, 0), (7, 0), (5, 0), (5, 0))
N = ((25, 0), (7, 1), (5, 0))
O = ((25, 0), (7, 2), (5, 0))  # noqa: E741


def pair(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def run(data: bytes) -> list[list[list[float]]]:
    import onnxruntime as ort  # noqa: PLC0415

    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    x = pair(0, 0)
    return [[out.tolist() for out in session.run(None, {"x": x, "c": np.array(c)})] for c in (True, False)]


@pytest.mark.parametrize("ir", [3, 10])
def test_constants_of_graphs_become_initializers_and_those_of_functions_stay(ir: int) -> None:
    proto = parse(CONSTANTS.format(ir=ir))
    if ir < 4:
        proto.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [2]))
        del proto.functions[:]
        proto.graph.node[9].CopyFrom(helper.make_node("Identity", ["t3"], ["y"]))
    loaded = m.from_proto(proto)
    assert m.fill(loaded, B) == 0.5
    assert m.fill(loaded, B).shape == ()
    np.testing.assert_array_equal(m.read(loaded, E), pair(1, 2))
    assert m.read(loaded, ONE) == 1
    graph_values = {A: pair(100, 200), B: pair(1000, 2000), E: pair(3, 4), ONE: np.float32(7),
                    THEN: pair(30, 40), OTHER: pair(70, 80)}  # fmt: skip
    values = dict(graph_values)
    if ir >= 4:
        np.testing.assert_array_equal(m.read(loaded, O), pair(4, 5))
        assert m.read(loaded, N) == 3
        values |= {M: pair(2, 3), N: np.float32(1), O: pair(10, 20)}
    changed = m.with_values(loaded, values)
    moved = {A, B, E, ONE, THEN, OTHER} if ir >= 4 else {A, B, E, ONE}
    assert m.promoted(changed) == tuple(sorted(moved))
    data = m.to_bytes(changed)
    after = onnx.ModelProto.FromString(data)
    assert [node.output[0] for node in after.graph.node] == ["s", "t0", "t1", "t2", "t3", "y", "z"]
    assert [one.name for one in after.graph.initializer] == ["k", "a", "b", "e", "one"]
    listed = ["x", "c", "k", "a", "b", "e", "one"] if ir < 4 else ["x", "c"]
    assert [one.name for one in after.graph.input] == listed
    sums = pair(0, 0) + pair(100, 200) + pair(1000, 2000) + pair(3, 4) + 7
    y = (sums * pair(2, 3) + 1 + pair(10, 20) if ir >= 4 else sums).tolist()
    assert run(data) == [[y, [30, 40]], [y, [75, 86]]]
    # what is left is as it was
    for graph, old in ((after.graph, proto.graph),):
        for node, was in zip(graph.node[:-1], [old.node[0], *old.node[5:10]], strict=True):
            assert node.SerializeToString() == was.SerializeToString()
    if ir < 4:
        onnx.checker.check_model(after)
    if ir >= 4:
        before, now = proto.functions[0], after.functions[0]
        before.node[0].attribute[0].t.float_data[:] = [2, 3]
        before.node[1].attribute[0].f = 1
        before.node[2].attribute[0].floats[:] = [10, 20]
        assert now.SerializeToString() == before.SerializeToString()


def test_a_promotion_moves_no_other_byte() -> None:
    proto = parse(CONSTANTS.format(ir=10))
    data = proto.SerializeToString()
    node = proto.graph.node[1].SerializeToString()
    out = m.to_bytes(m.with_values(m.from_proto(proto), {A: pair(9, 9)}))
    tensor = field(5, b"\x08\x02\x10\x01" + field(8, b"a") + field(9, pair(9, 9).tobytes()))
    graph = proto.graph.SerializeToString()
    head, tail = graph.split(field(1, node))
    assert out == data.replace(field(7, graph), field(7, head + tail + tensor))


def test_a_constant_of_shape_in_a_function_cannot_be_replaced() -> None:
    loaded = m.from_proto(
        parse("""
        <ir_version: 10, opset_import: ["": 17, "f": 1]> g (float[2] x) => (float[2] y) { y = f.fn(x) }
        <domain: "f", opset_import: ["": 17]> fn (v) => (w) { s = Shape(v)
          w = ConstantOfShape(s) }""")
    )
    site = ((25, 0), (7, 1))
    assert m.fill(loaded, site) == 0
    with pytest.raises(ModelError, match="cannot be replaced there"):
        m.with_values(loaded, {site: pair(1, 2)})


def test_a_constant_of_a_training_graph_keeps_its_place() -> None:
    proto = parse(CONSTANTS.format(ir=10))
    made = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(pair(1, 2)))
    proto.training_info.add().algorithm.node.append(made)
    site = ((20, 0), (2, 0), (1, 0), (5, 0), (5, 0))
    changed = m.with_values(m.from_proto(proto), {site: pair(3, 4)})
    assert m.promoted(changed) == ()
    proto.training_info[0].algorithm.node[0].attribute[0].t.raw_data = pair(3, 4).tobytes()
    assert m.to_bytes(changed) == proto.SerializeToString()


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    result: Any = onnx_lsuv.plan(onnx_lsuv.from_proto(mlp()))
    path: Any = "net.onnx"
    given: Any = onnx_lsuv.to_bytes(result.model)
    for ask in (
        lambda: onnx_lsuv.save(result, tmp_path / "out.onnx"),
        lambda: onnx_lsuv.save_weights(result, tmp_path / "out.npz"),
        lambda: onnx_lsuv.to_bytes(result),
    ):
        with pytest.raises(UsageError, match="a Model is expected, not Result: its field 'model' is one"):
            ask()
    for ask in (onnx_lsuv.plan, onnx_lsuv.forecast, onnx_lsuv.make_portable, onnx_lsuv.to_bytes):
        with pytest.raises(UsageError, match=r"a Model is expected, not str: onnx_lsuv\.load makes one of a file"):
            ask(path)
    with pytest.raises(UsageError, match=r"ModelProto is expected, not bytes: of bytes, onnx\.load_from_string"):
        onnx_lsuv.from_proto(given)
    assert not list(tmp_path.iterdir())


def test_more_than_two_gib_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(saving, "LIMIT", 100)
    loaded = on_disk(model_bytes(field(2, b"g" * 100)), tmp_path)
    with pytest.raises(OutputError, match="save_as_external_data"):
        m.save(loaded, tmp_path / "out.onnx")
    assert [one.name for one in tmp_path.iterdir()] == ["model.onnx"]
