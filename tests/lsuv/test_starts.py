"""Weights that start at zero or as the identity: what is in the file, what follows, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from commands import call
from conftest import Run
from onnx import ModelProto
from oracle import forward_moments, normal, orthonormality, parse

import onnx_lsuv
from onnx_lsuv import UsageError

Lsuv = Callable[..., Run]
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
ZERO = [{"target": {"u": 0}}, {"init": {"u": "zero"}}]


def residual(**tensors: Any) -> ModelProto:
    """Return a stream to which the layer `u` adds its branch, and a layer `v` after it."""
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
        h = Gemm(x, w, b) r = Relu(h) y = Gemm(r, u, c) s = Add(h, y) z = Gemm(s, v, d) }}"""
    weights = {name: normal(8, 8, seed=i) for i, name in enumerate("wuv")}
    return parse(text, weights | {name: normal(8, seed=9) for name in "bcd"} | tensors)


@pytest.mark.parametrize("choice", ZERO)
@pytest.mark.parametrize("sizes", [[64], [20, 20, 7]])
def test_a_zero_branch_leaves_the_stream_alive(lsuv: Lsuv, choice: dict[str, Any], sizes: list[int]) -> None:
    run = lsuv(residual(), [{"x": normal(n, 8, seed=n)} for n in sizes], **choice)
    assert not run.weight("u").any()
    assert not run.weight("c").any()
    found = forward_moments(run.after, run.batches, ["h", "y", "z"])
    assert [m.var for m in found.values()] == pytest.approx([1, 0, 1], abs=0.005)
    row = run.row("y")
    assert (row.init, row.target, row.std_drawn, row.scale, row.std, row.status) == ("zero", 0, 0, None, 0, "ok")
    assert row.note == "zero, as asked"
    assert run.result.good
    # Whether it is zero changes no other draw.
    plain = lsuv(residual(), run.batches)
    np.testing.assert_array_equal(run.weight("w"), plain.weight("w"))


def test_what_is_added_to_a_zero_weight_stays(lsuv: Lsuv) -> None:
    run = lsuv(residual(), {"x": normal(64, 8)}, target={"u": 0}, keep_bias=True)
    assert not run.weight("u").any()
    row = run.row("y")
    assert row.std == pytest.approx(float(np.std(run.old("c"))), rel=1e-5)
    assert (row.status, row.note) == ("ok", "zero, as asked; its output is what is added to it")
    assert run.result.good


@pytest.mark.parametrize("sizes", [[64], [20, 20, 7]])
def test_layers_that_get_zeros_alone_say_from_where(lsuv: Lsuv, sizes: list[int]) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
        h = MatMul(x, w) y = MatMul(h, u) r = Relu(y) k = MatMul(r, v) z = MatMul(k, t) }}"""
    model = parse(text, {name: normal(8, 8, seed=i) for i, name in enumerate("wuvt")})
    run = lsuv(model, [{"x": normal(n, 8, seed=n)} for n in sizes], target={"u": 0})
    assert [row.status for row in run.result.layers] == ["ok", "ok", "degenerate", "degenerate"]
    for row in run.result.layers[2:]:
        assert row.note == "its output is constant: its input is, as 'y' before it is zero"
        assert (row.scale, row.std) == (None, 0)
    assert orthonormality(run.weight("v")[None]) < 1e-5  # as drawn
    assert not run.result.good


@pytest.mark.parametrize("shape", [(6, 6), (6, 4), (4, 6)])
def test_identity_of_a_matrix(lsuv: Lsuv, shape: tuple[int, int]) -> None:
    text = f"{HEAD} g (float[N,{shape[0]}] x) => (float z) {{ y = MatMul(x, w) r = Relu(y) z = MatMul(r, u) }}"
    model = parse(text, {"w": normal(*shape), "u": normal(shape[1], 8)})
    run = lsuv(model, {"x": 3 * normal(64, shape[0])}, init={"w": "identity"})
    np.testing.assert_array_equal(run.weight("w"), np.eye(*shape))
    (out,) = run.value("y")
    x = np.asarray(run.batches[0]["x"])
    np.testing.assert_array_equal(out[:, : min(shape)], x[:, : min(shape)])
    row = run.row("y")
    assert (row.init, row.scale, row.status, row.note) == ("identity", None, "drawn", "the identity, as asked")
    assert row.std_drawn == pytest.approx(float(np.std(out)), rel=1e-5)
    assert row.std == pytest.approx(float(np.std(out)), rel=1e-5)
    assert run.row("z").std == pytest.approx(1, abs=0.003)
    assert run.result.good
    assert "the identity, as asked, and not scaled: 'y'" in run.result.notes


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 4, 3, 3), "pads=[1,1,1,1]"),
        ((6, 4, 1, 1), "pads=[0,0,0,0]"),
        ((4, 4, 5, 5), "pads=[2,2,2,2]"),
        ((4, 2, 3, 3), "pads=[1,1,1,1],group=2"),
        ((4, 1, 3, 3), "pads=[1,1,1,1],group=4"),
    ],
)
@pytest.mark.parametrize("batches", [1, 2])
def test_identity_of_a_convolution(lsuv: Lsuv, shape: tuple[int, ...], attributes: str, batches: int) -> None:
    text = f"""{HEAD} g (float[N,4,8,8] x) => (float z) {{
        h = Conv<pads=[1,1,1,1]>(x, v) y = Conv<{attributes}>(h, w) r = Relu(y) z = Conv(r, u) }}"""
    model = parse(text, {"v": normal(4, 4, 3, 3), "w": normal(*shape), "u": normal(5, shape[0], 3, 3)})
    data = [{"x": normal(4, 4, 8, 8, seed=i)} for i in range(batches)]
    run = lsuv(model, data, init={"w": "identity"})
    for before, after in zip(run.value("h"), run.value("y"), strict=True):
        np.testing.assert_array_equal(after[:, :4], before)
    assert [row.status for row in run.result.layers] == ["ok", "drawn", "ok"]


@pytest.mark.parametrize("group", [1, 2])
def test_identity_of_a_transposed_convolution(lsuv: Lsuv, group: int) -> None:
    text = f"""{HEAD} g (float[N,4,8,8] x) => (float y) {{
        h = Conv(x, v) y = ConvTranspose<pads=[1,1,1,1],group={group}>(h, w) }}"""
    run = lsuv(
        parse(text, {"v": normal(4, 4, 1, 1), "w": normal(4, 4 // group, 3, 3)}),
        {"x": normal(2, 4, 8, 8)},
        init={"w": "identity"},
    )
    np.testing.assert_array_equal(run.value("y")[0], run.value("h")[0])


def test_identity_and_zero_of_a_recurrent_net(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (float[S,N,5] x) => (float y) {{ y, s = GRU<hidden_size=4>(x, w, r, b) }}"
    model = parse(text, {"w": normal(1, 12, 5), "r": normal(1, 12, 4), "b": normal(1, 24)})
    run = lsuv(model, {"x": normal(3, 8, 5)}, init=[("w", "zero"), ("r", "identity")])
    assert not run.weight("w").any()
    np.testing.assert_array_equal(run.weight("r"), np.tile(np.eye(4), (1, 3, 1)))
    assert {row.status for row in run.result.layers} == {"drawn"}
    again = lsuv(model, {"x": normal(3, 8, 5)}, target={"w": 0})
    assert not again.weight("w").any()
    assert again.weight("r").any()


def test_a_target_that_names_an_identity_scales_it(lsuv: Lsuv) -> None:
    run = lsuv(residual(), {"x": normal(64, 8)}, init={"u": "identity"}, target={"u": 0.5})
    scale = run.row("y").scale
    assert scale is not None
    np.testing.assert_allclose(run.weight("u"), scale * np.eye(8), rtol=1e-6)
    assert run.row("y").std == pytest.approx(0.5, rel=0.003)
    assert run.row("y").status == "ok"


def test_the_last_method_that_matches_counts(lsuv: Lsuv) -> None:
    run = lsuv(residual(), {"x": normal(64, 8)}, init=[("*", "he"), ("[uv]", "keep"), ("v", "xavier")])
    assert [row.init for row in run.result.layers] == ["he", "keep", "xavier"]
    scale = run.row("y").scale
    assert scale is not None
    np.testing.assert_allclose(run.weight("u"), run.old("u") * scale, rtol=1e-5)
    assert [row.status for row in run.result.layers] == ["ok"] * 3


def test_identity_is_centred_like_any_other(lsuv: Lsuv) -> None:
    batch = {"x": normal(64, 8) + 5}
    run = lsuv(residual(), batch, init={"u": "identity"}, center=True)
    np.testing.assert_array_equal(run.weight("u"), np.eye(8))
    np.testing.assert_allclose(run.value("y")[0].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(run.value("z")[0].mean(0), 0, atol=1e-5)


BRANCH = f"""{HEAD} g (float[N,8] x, bool k) => (float z) {{
    h = MatMul(x, w)
    y = If(k) <then_branch = t () => (float a) {{ a = MatMul(h, u) }},
               else_branch = e () => (float b) {{ b = MatMul(h, u) }}>
    s = Add(h, y) z = MatMul(s, v) }}"""
LOOP = f"""{HEAD} g (float[N,8] x) => (float z)
    <int64 n = {{3}}, bool true = {{1}}> {{
    h = MatMul(x, w)
    y = Loop(n, true, h) <body = l (int64 i, bool c, float[N,8] before) => (bool go, float[N,8] after) {{
        go = Identity(c) p = MatMul(before, u) after = Add(before, p) }}>
    z = MatMul(y, v) }}"""


@pytest.mark.parametrize("scopes", ["branch", "loop"])
@pytest.mark.parametrize("method", ["zero", "identity"])
@pytest.mark.parametrize("batches", [1, 2])
def test_in_branches_and_loops(lsuv: Lsuv, scopes: str, method: str, batches: int) -> None:
    weights = {name: normal(8, 8, seed=i) for i, name in enumerate("wuv")}
    data: list[dict[str, Any]] = [{"x": normal(16, 8, seed=i)} for i in range(batches)]
    if scopes == "branch":
        data = [batch | {"k": np.array(True)} for batch in data]
    run = lsuv(parse(BRANCH if scopes == "branch" else LOOP, weights), data, init={"u": method})
    np.testing.assert_array_equal(run.weight("u"), np.eye(8) * (method == "identity"))
    inside = [row for row in run.result.layers if row.weight == "u" and row.status != "shared"]
    assert {row.status for row in inside} == {"ok" if method == "zero" else "drawn"}
    assert run.row("z").std == pytest.approx(1, abs=0.003)
    assert run.result.good


@pytest.mark.parametrize("method", ["zero", "identity"])
def test_a_weight_that_two_layers_use(lsuv: Lsuv, method: str) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float z) {{
        a = MatMul(x, u) b = MatMul(x, w) s = Add(a, b) y = MatMul(s, u) t = Add(s, y) z = MatMul(t, v) }}"""
    model = parse(text, {name: normal(8, 8, seed=i) for i, name in enumerate("wuv")})
    run = lsuv(model, {"x": normal(64, 8)}, init={"y": method})
    np.testing.assert_array_equal(run.weight("u"), np.eye(8) * (method == "identity"))
    assert run.row("y").status == "shared"
    assert run.row("z").std == pytest.approx(1, abs=0.003)
    assert run.result.good


NORMED = f"""{HEAD} g (float[N,8] x) => (float z) {{
    n = ReduceL2<axes=[1]>(v) d = Div(v, n) w = Mul(d, g) t = Transpose<perm=[1,0]>(w)
    y = MatMul(x, t) s = Add(x, y) z = MatMul(s, u) }}"""


def test_a_weight_with_a_gain_is_zero_by_it(lsuv: Lsuv) -> None:
    model = parse(NORMED, {"v": normal(8, 8), "g": normal(8, 1, seed=1), "u": normal(8, 4)})
    run = lsuv(model, {"x": normal(64, 8)}, target={"y": 0})
    assert not run.weight("g").any()
    assert orthonormality(run.weight("v")[None]) < 1e-5  # |v| is never 0
    assert (run.row("y").std, run.row("y").status) == (0, "ok")
    with pytest.raises(UsageError, match=r"'y' cannot start as the identity: its weight is computed from several"):
        onnx_lsuv.plan(onnx_lsuv.from_proto(model), init={"y": "identity"})


def test_the_command_verifies_and_checks_what_starts_at_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = residual()
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "x.npy", normal(64, 8))
    given = ["--init", "y=identity", "--target", "y=0", "--init", "he", "--init", "z=zero"]
    out = call("m.onnx", "-d", "x.npy", *given, "--report", "r.json", "-o", "o.onnx").stdout
    assert "3 layers: 3 ok" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["settings"]["init"] == [["*", "he"], ["y", "identity"], ["z", "zero"]]
    assert [(row["init"], row["target"]) for row in report["layers"]] == [("he", 1.0), ("zero", 0.0), ("zero", 0.0)]
    after = onnx.load(str(tmp_path / "o.onnx"))
    assert not any(onnx.numpy_helper.to_array(t).any() for t in after.graph.initializer if t.name in "uv")
    off = call("o.onnx", "-d", "x.npy", "--check", status=1)
    assert "its weight is zero: --target 'y=0' where that is meant" in off.stdout
    assert "3 layers: 3 ok" in call("o.onnx", "-d", "x.npy", "--check", "--target", "[yz]=0").stdout
    wrong = call("m.onnx", "-d", "x.npy", "--check", "--target", "y=0", status=1)
    assert "wanted 0.0000" in wrong.stdout
    planned = call("m.onnx", "--dry-run", *given).stdout
    assert "set to zero, not scaled, bias set to zero: 2 (y, z)" in planned
