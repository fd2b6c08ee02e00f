"""Tensors that exporters merged: parted where values differ, or all when asked; a plain session says what is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import oracle
import pytest
from conftest import Run
from onnx import ModelProto, NodeProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import UsageError

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
CONVS = {"w0": normal(8, 3, 3, 3), "w1": normal(8, 8, 3, 3, seed=1), "w2": normal(8, 8, 3, 3, seed=2)}
ONES, ZEROS = np.ones(8, np.float32), np.zeros(8, np.float32)

Lsuv = Callable[..., Run]


def data(n: int = 24, seed: int = 3) -> np.ndarray:
    return normal(n, 3, 8, 8, seed=seed) + normal(1, 3, 1, 1, seed=9)


def normed(operands: str = "ones, zeros, zeros, ones", ir: int = 8, **tensors: np.ndarray) -> ModelProto:
    """Return three convolutions, each with a BatchNormalization of these operands."""
    head = f'<ir_version: {ir}, opset_import: ["" : 17]>' if ir != 8 else HEAD
    body = " ".join(
        f"c{i} = Conv(r{i}, w{i}) b{i} = BatchNormalization(c{i}, {operands}) r{i + 1} = Relu(b{i})" for i in range(3)
    )
    model = parse(f"{head} g (float[N,3,8,8] x) => (float y) {{ r0 = Identity(x) {body} y = Identity(r3) }}", CONVS)
    given = {"ones": ONES, "zeros": ZEROS} | tensors
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in given.items())
    if ir < 4:
        for tensor in model.graph.initializer:
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model


def norms(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == "BatchNormalization"]


def expect_statistics(model: ModelProto, path: Path, batches: Iterable[Mapping[str, Any]]) -> None:
    """Expect in each BatchNormalization of a saved model the statistics of what it reads, by a plain session."""
    found = oracle.values(path, list(batches), [node.input[0] for node in norms(model)])
    for node in norms(model):
        whole = np.concatenate([np.asarray(part, np.float64) for part in found[node.input[0]]])
        axes = (0, *range(2, whole.ndim))
        mean, var = (np.asarray(oracle.tensor_of(model, name), np.float64) for name in node.input[3:5])
        np.testing.assert_allclose(mean, whole.mean(axes), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(var, whole.var(axes), rtol=1e-4, atol=1e-4)


def copies(run: Run) -> dict[str, str]:
    """Return what was parted from what."""
    return {c.tensor: c.parted_from for c in run.result.changes if c.parted_from is not None}


def merged_notes(notes: Iterable[str]) -> list[str]:
    return [note for note in notes if "merged" in note]


# ------------------------------------------------------------------------------------------ norms that share statistics


@pytest.mark.parametrize("operands", ["ones, zeros, zeros, ones", "s, t, zeros, ones", "s, zeros, zeros, ones"])
@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("ir", [3, 8])
def test_each_norm_gets_its_own_statistics(lsuv: Lsuv, operands: str, batches: int, ir: int) -> None:
    given = {name: array for name, array in (("s", 1 + normal(8) / 5), ("t", normal(8, seed=5))) if name in operands}
    model = normed(operands, ir, **given)
    run = lsuv(model, [{"x": data(seed=i)} for i in range(batches)])
    onnx.checker.check_model(run.after)
    assert run.result.good
    expect_statistics(run.after, run.path, run.batches)
    assert len({name for node in norms(run.after) for name in node.input[3:5]}) == 6
    # What reads a scale or a bias reads it still, with the values that it had.
    for old, new in zip(norms(run.before), norms(run.after), strict=True):
        assert old.input[1:3] == new.input[1:3]
        for name in old.input[1:3]:
            if name in operands.split(", ")[:2]:
                np.testing.assert_array_equal(run.weight(name), run.old(name))
    assert set(copies(run).values()) == {"ones", "zeros"}
    assert set(copies(run)) <= {f"{name}.{i}" for name in ("ones", "zeros") for i in (1, 2, 3)}
    assert not run.result.kept_statistics


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(normed().SerializeToString())
    made = []
    for _ in range(2):
        planned = onnx_lsuv.plan(onnx_lsuv.load(tmp_path / "m.onnx"))
        made.append(onnx_lsuv.to_bytes(onnx_lsuv.initialize(planned, {"x": data()}).model))
    made.append(onnx_lsuv.to_bytes(onnx_lsuv.initialize(onnx_lsuv.from_proto(normed()), {"x": data()}).model))
    assert made[0] == made[1] == made[2]


def test_external_data_and_weights_alone(tmp_path: Path) -> None:
    wide = {name: np.repeat(array, 64) for name, array in (("ones", ONES), ("zeros", ZEROS))}
    weights = {"w0": normal(512, 3, 1, 1), "w1": normal(512, 512, 1, 1, seed=1), "w2": normal(512, 512, 1, 1, seed=2)}
    model = normed(**wide)
    del model.graph.initializer[:]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in (weights | wide).items())
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    result = onnx_lsuv.initialize(onnx_lsuv.load(tmp_path / "m.onnx"), {"x": data()})
    (tmp_path / "out").mkdir()
    target = tmp_path / "out" / "m.onnx"
    onnx_lsuv.save(result.model, target)
    onnx_lsuv.save_weights(result.model, tmp_path / "w.npz")
    after = onnx.load(target)
    expect_statistics(after, target, [{"x": data()}])
    outside = onnx.load(target, load_external_data=False)
    assert all(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in outside.graph.initializer)
    assert target.stat().st_size < 5000
    with np.load(tmp_path / "w.npz") as held:
        assert set(held) == {tensor.name for tensor in after.graph.initializer}
        np.testing.assert_array_equal(held["zeros.2"], oracle.tensor_of(after, "zeros.2"))


def test_in_the_portable_form(tmp_path: Path) -> None:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(normed()), {"x": data()})
    form = onnx_lsuv.make_portable(result, {"x": data()})
    onnx_lsuv.save(form.model, tmp_path / "p.onnx")
    after = onnx.load(tmp_path / "p.onnx")
    expect_statistics(after, tmp_path / "p.onnx", [{"x": data()}])
    assert len({name for node in norms(after) for name in node.input[1:]}) == 12


def test_in_branches_of_an_if(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,3,8,8] x, bool c) => (float y) {{
            c0 = Conv(x, w0) b0 = BatchNormalization(c0, ones, zeros, zeros, ones)
            y = If (c) <
                then_branch = t () => (float[n,8,4,4] u) {{
                    c1 = Conv(b0, w1) u = BatchNormalization(c1, ones, zeros, zeros, ones) }},
                else_branch = e () => (float[n,8,4,4] v) {{
                    c2 = Conv(b0, w2) v = BatchNormalization(c2, ones, zeros, zeros, ones) }}
            >
        }}""",
        CONVS | {"ones": ONES, "zeros": ZEROS},
    )
    batches = [{"x": data(seed=i), "c": np.array(i == 1)} for i in range(2)]
    run = lsuv(model, batches)
    onnx.checker.check_model(run.after)
    (choice,) = (node for node in run.after.graph.node if node.op_type == "If")
    for attribute in choice.attribute:
        node, batch = attribute.g.node[1], batches[attribute.name == "then_branch"]
        (flat,) = oracle.values(run.path, [batch], [node.input[0]])[node.input[0]]
        found = flat.reshape(24, 8, 4, 4)
        np.testing.assert_allclose(run.weight(node.input[3]), found.astype(np.float64).mean((0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(run.weight(node.input[4]), found.astype(np.float64).var((0, 2, 3)), rtol=1e-4)
    assert len(copies(run)) == 6


def test_constants_of_nodes_are_parted_too(lsuv: Lsuv) -> None:
    model = normed()
    del model.graph.initializer[3:]
    made = [
        onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))
        for name, array in (("ones", ONES), ("zeros", ZEROS))
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    run = lsuv(model, {"x": data()})
    expect_statistics(run.after, run.path, run.batches)
    assert [node.op_type for node in run.after.graph.node][:2] == ["Constant", "Constant"]


def test_an_identity_gives_its_name_back(lsuv: Lsuv) -> None:
    """As TorchScript writes what it merged."""
    handed = "m1 = Identity(zeros) v1 = Identity(ones) m0 = Identity(zeros) v0 = Identity(ones) s1 = Identity(ones)"
    model = parse(
        f"""{HEAD} g (float[N,3,8,8] x) => (float y) {{ {handed}
            c0 = Conv(x, w0) b0 = BatchNormalization(c0, ones, zeros, m0, v0) r0 = Relu(b0)
            c1 = Conv(r0, w1) y = BatchNormalization(c1, s1, zeros, m1, v1) }}""",
        {name: CONVS[name] for name in ("w0", "w1")} | {"ones": ONES, "zeros": ZEROS},
    )
    run = lsuv(model, {"x": data()})
    onnx.checker.check_model(run.after)
    expect_statistics(run.after, run.path, run.batches)
    assert copies(run) == {"m0": "zeros", "m1": "zeros", "v0": "ones", "v1": "ones"}
    assert [list(node.output) for node in run.after.graph.node if node.op_type == "Identity"] == [["s1"]]
    assert all(c.became_initializer for c in run.result.changes if c.parted_from)
    run = lsuv(model, {"x": data()}, untie=True)
    assert copies(run).keys() == {"m0", "m1", "v0", "v1", "s1", "zeros.1"}


def test_pytorch_s_names_where_the_file_tells_the_module(lsuv: Lsuv) -> None:
    model = normed()
    del model.graph.initializer[3:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array, name) for name, array in (("bn0.weight", ONES), ("bn0.bias", ZEROS))
    )
    for i, node in enumerate(norms(model)):
        node.input[1:] = ["bn0.weight", "bn0.bias", "bn0.bias", "bn0.weight"]
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', 'bn{i}', 'batch_norm_{i}']")
    run = lsuv(model, {"x": data()})
    expect_statistics(run.after, run.path, run.batches)
    assert copies(run).keys() == {f"bn{i}.running_{what}" for i in range(3) for what in ("mean", "var")}
    run = lsuv(model, {"x": data()}, untie=True)
    for i, node in enumerate(norms(run.after)):
        assert node.input[1:] == [f"bn{i}.{what}" for what in ("weight", "bias", "running_mean", "running_var")]


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("/bn/BatchNormalization", "/bn_1/BatchNormalization", "/b/BatchNormalization"), 2),  # one is called twice
        (("/a/bn/BatchNormalization", "/a/bn_1/BatchNormalization", "/a/bn_2/BatchNormalization"), 1),
        (("/bn_1/BatchNormalization", "/bn_2/BatchNormalization", "/bn_3/BatchNormalization"), 3),
        (("stage/bn1", "stage/bn2", "stage/bn3"), 3),  # the nodes are named as modules
        (("bn", "bn_1", "bn_2"), 3),  # tells nothing
    ],
)
def test_one_norm_called_twice_keeps_one_pair(lsuv: Lsuv, names: tuple[str, ...], pairs: int) -> None:
    model = normed()
    for node, name in zip(norms(model), names, strict=True):
        node.name = name
    run = lsuv(model, {"x": data()})
    found = [tuple(node.input[3:5]) for node in norms(run.after)]
    assert len(set(found)) == pairs
    assert pairs != 2 or found[0] == found[1]
    if pairs == 3:
        expect_statistics(run.after, run.path, run.batches)


def test_only_what_changes_is_parted(lsuv: Lsuv) -> None:
    run = lsuv(normed(), {"x": data()}, include=["c2"])
    assert copies(run) == {"zeros.1": "zeros", "ones.1": "ones"}
    assert [node.input[3] for node in norms(run.after)] == ["zeros", "zeros", "zeros.1"]
    assert {row.name: row.reason for row in run.result.kept_statistics} == dict.fromkeys(("b0", "b1"), "unchanged")
    # A pattern for the merged tensor means all that come of it.
    run = lsuv(normed(), {"x": data()}, exclude=["zeros"])
    assert not copies(run)
    assert [row.reason for row in run.result.kept_statistics] == ["excluded"] * 3


def test_a_vector_that_is_bias_and_mean(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,3,8,8] x) => (float y) {{
            c0 = Conv(x, w0, zeros) r0 = Relu(c0) b0 = BatchNormalization(r0, s, t, zeros, ones)
            c1 = Conv(b0, w1, zeros) y = Mul(c1, k) }}""",
        {name: CONVS[name] for name in ("w0", "w1")}
        | {"ones": ONES, "zeros": ZEROS, "s": 1 + normal(8) / 9, "t": normal(8, seed=4), "k": ONES[:, None, None]},
    )
    run = lsuv(model, {"x": data()})
    expect_statistics(run.after, run.path, run.batches)
    assert copies(run) == {"zeros.1": "zeros"}  # nothing else reads `ones`
    assert not run.weight("zeros").any()
    centred = lsuv(model, {"x": data()}, center=True)
    expect_statistics(centred.after, centred.path, centred.batches)
    for name in ("c0", "c1"):
        (found,) = centred.value(name)
        np.testing.assert_allclose(found.astype(np.float64).mean((0, 2, 3)), 0, atol=1e-5)
    assert len(copies(centred)) == 2


def test_a_function_called_several_times(lsuv: Lsuv) -> None:
    function = """<domain: "own", opset_import: ["" : 17]>
        Norm (x, s, t, m, v) => (y) { y = BatchNormalization(x, s, t, m, v) }"""
    twice = """<domain: "own", opset_import: ["" : 17]>
        Norm (x, s, t, m, v) => (y) { z = BatchNormalization(x, s, t, m, v) y = BatchNormalization(z, s, t, m, v) }"""
    text = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[N,3,8,8] x) => (float y) {
        c0 = Conv(x, w0) b0 = own.Norm(c0, s, t, zeros, ones)
        c1 = Conv(b0, w1) y = own.Norm(c1, s, t, zeros, ones) }"""
    given = {name: CONVS[name] for name in ("w0", "w1")} | {"ones": ONES, "zeros": ZEROS}
    given |= {"s": 1 + normal(8) / 9, "t": normal(8, seed=4)}
    run = lsuv(parse(f"{text} {function}", given), {"x": data()})
    onnx.checker.check_model(run.after)
    for node in (node for node in run.after.graph.node if node.op_type == "Norm"):
        (found,) = run.value(node.input[0])
        np.testing.assert_allclose(run.weight(node.input[3]), found.astype(np.float64).mean((0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(run.weight(node.input[4]), found.astype(np.float64).var((0, 2, 3)), rtol=1e-4)
    assert len(copies(run)) == 2  # of four: the first call keeps what there was
    # Within a body they cannot be parted: both norms of a call have one pair, pooled.
    run = lsuv(parse(f"{text} {twice}", given), {"x": data()})
    assert len(copies(run)) == 2
    assert not run.result.kept_statistics


def test_fresh_values_that_differ(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,8] x) => (float y) {{
            h = MatMul(x, w0) p = PRelu(h, k) n = LayerNormalization(p, k, t) y = MatMul(n, w1) }}""",
        {"w0": normal(8, 8), "w1": normal(8, 8, seed=1), "k": ONES / 2, "t": normal(8, seed=4)},
    )
    run = lsuv(model, {"x": normal(32, 8)}, fresh=True)
    (slope,) = (node.input[1] for node in run.after.graph.node if node.op_type == "PRelu")
    (scale,) = (node.input[1] for node in run.after.graph.node if node.op_type == "LayerNormalization")
    np.testing.assert_array_equal(run.weight(slope), ONES / 4)
    np.testing.assert_array_equal(run.weight(scale), ONES)


# ------------------------------------------------------------------------------------------------------ merged and tied


def blocks(*names: str, wide: int = 8, **tensors: np.ndarray) -> ModelProto:
    """Return layers of these names that share all they have: a norm's pair, a weight and a bias."""
    body = " ".join(
        f"""n{i} = LayerNormalization(r{i}, s, t) m{i} = MatMul(n{i}, w) a{i} = Add(m{i}, b) r{i + 1} = Relu(a{i})"""
        for i in range(len(names))
    )
    given = {"s": np.ones(wide, np.float32), "t": np.zeros(wide, np.float32), "w": normal(wide, wide)}
    given |= {"b": normal(wide, seed=7)} | tensors
    model = parse(
        f"{HEAD} g (float[N,{wide}] x) => (float y) {{ r0 = Identity(x) {body} y = Identity(r{len(names)}) }}"
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in given.items())
    for i, name in enumerate(names):
        for at, op in enumerate(("LayerNormalization", "MatMul", "Add")):
            model.graph.node[1 + 4 * i + at].name = f"{name}/{op}" if name else ""
    return model


@pytest.mark.parametrize("name", ["/layers.{}/fc", "net/dense_{}"])
def test_layers_that_are_copies_are_parted_when_asked(lsuv: Lsuv, name: str, tmp_path: Path) -> None:
    model = blocks(*(name.format(i) for i in range(3)))
    run = lsuv(model, {"x": normal(64, 8)})
    assert not copies(run)
    (note,) = merged_notes(run.result.notes)
    assert note.startswith("an exporter merged equal tensors: 'w', 's', 't' and 1 more are 12 parameters")
    assert "untie=True" in note
    assert "optimize=False" in note
    assert [row.status for row in run.result.layers] == ["ok", "shared", "shared"]

    run = lsuv(model, {"x": normal(64, 8)}, untie=True)
    assert run.result.good
    assert [row.status for row in run.result.layers] == ["ok"] * 3
    weights = [run.weight(row.weight) for row in run.result.layers]
    unit = [weight / np.linalg.norm(weight) for weight in weights]
    assert all(abs((one * other).sum()) < 0.9 for one, other in pairwise(unit))
    for value in ("a0", "a1", "a2"):
        (found,) = run.moments(value)
        assert abs(found.var - 1) < 0.005
    used = [name for node in run.after.graph.node for name in node.input if name in oracle.all_float_tensors(run.after)]
    assert len(used) == len(set(used)) == 12
    (note,) = merged_notes(run.result.notes)
    assert "parted, as asked: 8 new initializers" in note
    # The first of them is drawn as without.
    assert run.result.layers[0].weight == "w"
    assert {c.tensor for c in run.result.changes if not c.has_new_values} == {"s.1", "s.2", "t.1", "t.2"}


@pytest.mark.parametrize("names", [("/fc", "/fc_1", "/fc_2"), ("", "", "")])
def test_what_no_name_tells_apart_stays_tied(lsuv: Lsuv, names: tuple[str, ...]) -> None:
    run = lsuv(blocks(*names), {"x": normal(64, 8)}, untie=True)
    assert not {"w.1", "b.1"} & copies(run).keys()
    (note,) = (note for note in run.result.notes if "left so" in note)
    assert note.endswith("'w'")
    assert [row.status for row in run.result.layers] == ["ok", "shared", "shared"]
    # Vectors of equal numbers need no name, but for one that names the same module.
    assert copies(run).keys() == (set() if names[0] else {"s.1", "s.2", "t.1", "t.2"})


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("net/dense/MatMul", "net/dense_1/MatMul", "net/dense_2/MatMul"), 3),
        (("net/dense/MatMul", "net/dense/MatMul_1", "net/dense/MatMul_2"), 1),
    ],
)
def test_keras_numbers_its_layers(lsuv: Lsuv, names: tuple[str, ...], weights: int) -> None:
    """And the calls of one layer behind the operator; tensors are named after what reads them first."""
    weight = "net/dense/MatMul/ReadVariableOp:0"
    model = blocks("", "", "")
    model.graph.initializer[2].name = weight
    for node, name in zip((n for n in model.graph.node if n.op_type == "MatMul"), names, strict=True):
        node.input[1], node.name = weight, name
    run = lsuv(model, {"x": normal(64, 8)}, untie=True)
    assert [row.weight for row in run.result.layers] == [
        weight,
        *(f"{weight}.{i}" if weights > 1 else weight for i in (1, 2)),
    ]


def test_what_torchscript_hands_on_was_merged_and_what_is_read_directly_is_tied(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,8] x) => (float y) {{ c_weight = Identity(a_weight)
            h = MatMul(x, a_weight) r = Relu(h) k = MatMul(r, a_weight) s = Relu(k) y = MatMul(s, c_weight) }}""",
        {"a_weight": normal(8, 8)},
    )
    model.graph.initializer[0].name = "a.weight"
    for node in model.graph.node:
        node.input[:] = [name.replace("_weight", ".weight") for name in node.input]
        node.output[:] = [name.replace("_weight", ".weight") for name in node.output]
    for path in ("/{}/MatMul", "MatMul_{}"):  # up to PyTorch 1.12 a node's name has no path
        for node, name in zip((n for n in model.graph.node if n.op_type == "MatMul"), "abc", strict=True):
            node.name = path.format(name)
        run = lsuv(model, {"x": normal(64, 8)}, untie=True)
        assert copies(run) == {"c.weight": "a.weight"}
        assert [(row.weight, row.status) for row in run.result.layers] == [
            ("a.weight", "ok"),
            ("a.weight", "shared"),
            ("c.weight", "ok"),
        ]


def test_tied_parameters_have_the_last_name_in_pytorch(lsuv: Lsuv) -> None:
    for label, weights in (("layers.0.fc.weight", 2), ("layers.1.fc.weight", 1)):
        model = blocks("", "")
        model.graph.initializer[2].name = label
        for i, node in enumerate(n for n in model.graph.node if n.op_type == "MatMul"):
            node.input[1] = label
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', 'layers.{i}.fc', 'linear_{i}']")
        run = lsuv(model, {"x": normal(64, 8)}, untie=True)
        assert len({row.weight for row in run.result.layers}) == weights
        assert any("left so" in note for note in run.result.notes) == (weights == 1)


def test_a_table_that_is_the_head_too_is_never_parted(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (int64[N,4] x) => (float y) {{
            e = Gather(table, x) r = Relu(e) h = MatMul(r, w)
            back = Transpose<perm=[1,0]>(table) y = MatMul(h, back) }}""",
        {"table": normal(10, 8), "w": normal(8, 8, seed=1)},
    )
    for node, name in zip(
        model.graph.node, ("/wte/Gather", "/Relu", "/fc/MatMul", "/head/T", "/head/MatMul"), strict=True
    ):
        node.name = name
    run = lsuv(model, {"x": np.arange(40).reshape(10, 4) % 10}, untie=True)
    assert not copies(run)
    assert run.reasons() == {"/head/MatMul": "tied"}


def test_one_use_in_a_loop_stays_one(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,8] x) => (float y) <int64 trips = {{3}}> {{
            yes = Constant<value = bool {{1}}>()
            y = Loop(trips, yes, x) <body = l (int64 i, bool go, float[N,8] h) => (bool on, float[N,8] r) {{
                on = Identity(go) m = MatMul(h, w) n = BatchNormalization(m, s, t, zeros, ones) r = Relu(n) }}> }}""",
        {"w": normal(8, 8), "s": ONES, "t": ZEROS, "zeros": ZEROS, "ones": ONES},
    )
    run = lsuv(model, {"x": normal(64, 8)}, untie=True)
    assert not copies(run)


def test_constants_that_are_no_parameters_stay_one(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,8] x) => (float y) {{
            a = Mul(x, k) h = MatMul(a, w0) b = Mul(h, k) c = Sub(b, k) y = MatMul(c, w1) }}""",
        {"w0": normal(8, 8), "w1": normal(8, 8, seed=1), "k": ONES},
    )
    run = lsuv(model, {"x": normal(32, 8)}, untie=True)
    assert not copies(run)
    assert not merged_notes(run.result.notes)


def test_zeros_beside_computed_filters_are_no_parameters() -> None:
    text = f"""{HEAD} g (float[N,1,64] x) => (float z) {{
        r = Conv<strides=[16]>(x, re, none) i = Conv<strides=[16]>(x, im, none) s = Add(r, i) z = Conv(s, w) }}"""
    frames = np.fft.rfft(np.eye(32))[:, :16].T[:, None]
    parts = {"re": frames.real.astype(np.float32), "im": frames.imag.astype(np.float32)}
    model = parse(text, parts | {"none": np.zeros(16, np.float32), "w": normal(4, 16, 1)})
    planned = onnx_lsuv.plan(onnx_lsuv.from_proto(model))
    assert [each.reason for each in planned.plan.skipped] == ["fixed", "fixed"]
    assert not merged_notes(planned.notes)


def test_results_are_planned_again_from_the_model_as_it_was() -> None:
    batch = {"x": normal(64, 8)}
    model = onnx_lsuv.from_proto(blocks("/a/fc", "/b/fc"))
    asked = onnx_lsuv.plan(model, untie=True)
    assert len({row.weight for row in asked.layers}) == 2
    again = onnx_lsuv.initialize(asked, batch, untie=False)
    assert len({row.weight for row in again.layers}) == 1
    assert onnx_lsuv.to_bytes(again.model) == onnx_lsuv.to_bytes(onnx_lsuv.initialize(model, batch).model)
    whole = onnx_lsuv.initialize(onnx_lsuv.plan(model), batch, untie=True)
    assert onnx_lsuv.to_bytes(whole.model) == onnx_lsuv.to_bytes(onnx_lsuv.initialize(asked, batch).model)


def test_patterns_for_a_merged_tensor_mean_all_that_come_of_it(lsuv: Lsuv) -> None:
    model = blocks("/a/fc", "/b/fc")
    run = lsuv(model, {"x": normal(64, 8)}, untie=True, include=["w"], target={"w": 0.5})
    assert [(row.weight, row.target, row.status) for row in run.result.layers] == [("w", 0.5, "ok"), ("w.1", 0.5, "ok")]
    with pytest.raises(UsageError, match="matches the whole name of no layer"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model), untie=True, include=["v"])


def test_the_outputs_stay_where_nothing_is_drawn(tmp_path: Path) -> None:
    """Parting changes no value by itself."""
    model = blocks("/a/fc", "/b/fc")
    planned = onnx_lsuv.plan(onnx_lsuv.from_proto(model), untie=True)
    assert planned.plan.parting.copies
    onnx_lsuv.save(planned.model, tmp_path / "m.onnx")
    batch = [{"x": normal(5, 8)}]
    (one,), (other,) = (oracle.values(source, batch, ["y"])["y"] for source in (model, tmp_path / "m.onnx"))
    np.testing.assert_array_equal(one, other)
    assert merged_notes(planned.notes)
