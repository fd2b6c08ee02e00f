"""The full restart: nothing learned remains, and nothing of the architecture is touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import Run
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import UsageError

Lsuv = Callable[..., Run]
Array = NDArray[Any]
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
EPS = "<float eps = {1e-5}, float half = {0.5}, float two = {2.0}>"


def roles(run: Run) -> dict[str, str]:
    return {change.tensor: change.role for change in run.result.changes}


def kept(run: Run) -> str:
    return " ".join(note for note in run.result.notes if note.startswith("fresh: ") and "keep their values" in note)


def all_equal(run: Run, names: str, value: float) -> None:
    for name in names.split():
        assert (run.weight(name) == value).all(), name
        assert name in run.changed


# ---------------------------------------------------------------------------------------------------------- operators


@pytest.mark.parametrize("batches", [1, 3])
def test_norms_slopes_and_biases(lsuv: Lsuv, batches: int) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,4,6,6] x) => (float y) {
      a = Conv(x, w1, b1) n = BatchNormalization(a, s1, t1, m1, v1) p = PRelu(n, slope)
      b = Conv(p, w2) i = InstanceNormalization(b, s2, t2) c = Conv(i, w3)
      g = GroupNormalization<num_groups=2>(c, s3, t3) d = Flatten(g) e = MatMul(d, w4)
      l = LayerNormalization(e, s4, t4) y = MatMul(l, w5) }"""
    model = parse(
        text,
        {f"s{i}": 1 + 0.3 * normal(8, seed=i) for i in (1, 2, 3, 4)}
        | {f"t{i}": normal(8, seed=9 + i) for i in (1, 2, 3, 4)},
        w1=normal(8, 4, 3, 3),
        b1=normal(8),
        m1=normal(8),
        v1=normal(8) ** 2 + 1,
        slope=0.1 * normal(8, 1, 1),
        w2=normal(8, 8, 1, 1),
        w3=normal(8, 8, 1, 1),
        w4=normal(128, 8),
        w5=normal(8, 3),
    )
    given = [{"x": 2 * part + 1} for part in np.split(normal(66, 4, 6, 6), batches)]
    run = lsuv(model, given, fresh=True)
    all_equal(run, "s1 s2 s3 s4", 1)
    all_equal(run, "t1 t2 t3 t4 b1", 0)
    all_equal(run, "slope", 0.25)
    assert run.changed == {t.name for t in model.graph.initializer}
    found = roles(run)
    assert [found[n] for n in ("s1", "t1", "b1", "m1", "slope", "w1")] == [
        "scale", "shift", "bias", "statistics", "slope", "weight",
    ]  # fmt: skip
    # The calibration saw the fresh values: all that follows is measured, and right, on the saved file.
    assert run.result.good
    assert [m.var for m in run.moments("a", "b", "c", "e", "y")] == pytest.approx([1] * 5, abs=0.005)
    a = np.concatenate(run.value("a")).astype(np.float64)
    np.testing.assert_allclose(run.weight("m1"), a.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(run.weight("v1"), a.var((0, 2, 3)), rtol=1e-3)
    assert run.result.settings.fresh
    assert not kept(run)


def test_a_second_restart_changes_no_norm_and_is_the_same(lsuv: Lsuv) -> None:
    text = (
        f"{HEAD} g (float[N,8] x) => (float y) {{ a = MatMul(x, w) l = LayerNormalization(a, s, t) y = MatMul(l, u) }}"
    )
    model = parse(text, w=normal(8, 8), u=normal(8, 8), s=normal(8), t=normal(8))
    batch = {"x": normal(64, 8)}
    once = lsuv(model, batch, fresh=True)
    twice = lsuv(once.after, batch, fresh=True, seed=1)
    assert set(roles(once)) == {"w", "u", "s", "t"}
    assert set(roles(twice)) == {"w", "u"}
    again = onnx_lsuv.initialize(onnx_lsuv.from_proto(once.after), batch, fresh=True)
    assert onnx_lsuv.to_bytes(again.model) == once.path.read_bytes()


def test_without_fresh_all_this_stays(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      a = MatMul(x, w) l = LayerNormalization(a, s, t) p = PRelu(l, k) y = MatMul(p, u) }}"""
    model = parse(text, w=normal(8, 8), u=normal(8, 8), s=normal(8), t=normal(8), k=normal(8))
    run = lsuv(model, {"x": normal(64, 8)})
    assert run.changed == {"w", "u"}
    assert not kept(run)


def test_microsoft_operators(lsuv: Lsuv) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]> g (float[N,5,16] x) => (float y) {
      a = MatMul(x, w1) g = com.microsoft.BiasGelu(a, b1) c = MatMul(g, w2)
      s = com.microsoft.SkipLayerNormalization<epsilon=1e-5>(c, x, gamma, beta, b2) d = MatMul(s, w3)
      r = SimplifiedLayerNormalization<epsilon=1e-5, stash_type=1, axis=-1>(d, k)
      q = com.microsoft.SkipSimplifiedLayerNormalization(r, x, k2) y = MatMul(q, w4) }"""
    model = parse(
        text,
        {f"w{i}": normal(16, 16, seed=i) for i in (1, 2, 3, 4)},
        **{name: normal(16, seed=i) for i, name in enumerate(["b1", "gamma", "beta", "b2", "k", "k2"])},
    )
    run = lsuv(model, {"x": normal(16, 5, 16)}, fresh=True)
    all_equal(run, "gamma k k2", 1)
    all_equal(run, "beta b1 b2", 0)
    assert run.result.good


def test_recurrent_states_and_peepholes(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[T,3,4] x) => (float z) {{
      y, h, c = LSTM<hidden_size = 4>(x, w, r, b, , h0, c0, p) s = Squeeze(h, zero) z = MatMul(s, u) }}"""
    tensors = {"w": normal(1, 16, 4), "r": normal(1, 16, 4), "b": normal(1, 32), "p": normal(1, 12)}
    tensors |= {"h0": normal(1, 3, 4), "c0": normal(1, 3, 4), "u": normal(4, 4), "zero": np.array([0])}
    run = lsuv(parse(text, tensors), [{"x": normal(6, 3, 4, seed=i)} for i in range(8)], fresh=True)
    all_equal(run, "h0 c0 p", 0)
    assert [roles(run)[name] for name in ("h0", "c0", "p")] == ["state", "state", "bias"]
    assert run.weight("b").reshape(2, 4, 4)[0, 2].tolist() == [1] * 4
    assert run.weight("b").sum() == 4


# ------------------------------------------------------------------------------------------------- norms written out


LAYER_NORM = """mu = ReduceMean<axes=[-1]>(h) c = Sub(h, mu) sq = Pow(c, two) va = ReduceMean<axes=[-1]>(sq)
  ve = Add(va, eps) sd = Sqrt(ve) n = Div(c, sd) ng = Mul(n, gamma) o = Add(ng, beta)"""
RMS_NORM = """sq = Mul(h, h) ms = ReduceMean<axes=[-1]>(sq) me = Add(ms, eps) sd = Sqrt(me) r = Reciprocal(sd)
  n = Mul(h, r) ng = Mul(gamma, n) o = Add(ng, beta)"""
TENSORFLOW = """mu = ReduceMean<axes=[-1]>(h) c = Sub(h, mu) sq = Mul(c, c) va = ReduceMean<axes=[-1]>(sq)
  ve = Add(va, eps) sd = Sqrt(ve) r = Reciprocal(sd) k = Mul(r, gamma) hk = Mul(h, k) mk = Mul(mu, k)
  bk = Sub(beta, mk) o = Add(hk, bk)"""


@pytest.mark.parametrize("norm", [LAYER_NORM, RMS_NORM, TENSORFLOW], ids=["layer", "rms", "tensorflow"])
@pytest.mark.parametrize("last", [False, True])
def test_norms_written_out(lsuv: Lsuv, norm: str, last: bool) -> None:
    end = "y = Identity(o)" if last else "y = MatMul(o, u)"
    text = f"{HEAD} g (float[N,16] x) => (float y) {EPS} {{ h = MatMul(x, w) {norm} {end} }}"
    model = parse(text, w=normal(16, 16), u=normal(16, 16), gamma=normal(16), beta=normal(16))
    run = lsuv(model, {"x": normal(64, 16)}, fresh=True)
    all_equal(run, "gamma", 1)
    all_equal(run, "beta", 0)
    assert roles(run)["gamma"] == "scale"
    for name, value in (("eps", 1e-5), ("two", 2)):
        assert run.weight(name) == pytest.approx(value)


@pytest.mark.parametrize(("gain", "role"), [(1.0, "scale"), (0.8371942, "scale"), (0.5, None), (0.70710677, None)])
def test_one_number_behind_a_norm_is_its_scale_where_nobody_wrote_it(lsuv: Lsuv, gain: float, role: str | None) -> None:
    text = f"{HEAD} g (float[N,16] x) => (float y) {EPS} {{ h = MatMul(x, w) {RMS_NORM} y = MatMul(o, u) }}"
    tensors = {"w": normal(16, 16), "u": normal(16, 16), "gamma": np.array([gain]), "beta": normal(16)}
    run = lsuv(parse(text, {n: a.astype(np.float32) for n, a in tensors.items()}), {"x": normal(64, 16)}, fresh=True)
    assert run.weight("gamma") == pytest.approx(1 if role else gain)
    assert run.result.plan.roles["gamma"].role == (role or "setting")


def test_group_norm_as_an_instance_norm(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8,4,4] x) => (float y) {{ h = Conv(x, w) a = Reshape(h, grouped)
      i = InstanceNormalization(a, ones, zeros) hs = Shape(h) b = Reshape(i, hs)
      m = Mul(b, gamma) y = Add(m, beta) }}"""
    tensors = {
        "w": normal(8, 8, 1, 1),
        "grouped": np.array([0, 2, -1]),
        "gamma": normal(8, 1, 1),
        "beta": normal(8, 1, 1),
    }
    tensors |= {"ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32)}
    run = lsuv(parse(text, tensors), {"x": normal(16, 8, 4, 4)}, fresh=True)
    all_equal(run, "gamma", 1)
    all_equal(run, "beta", 0)
    assert set(roles(run)) == {"w", "gamma", "beta"}


# ----------------------------------------------------------------------------------------------------- zero residuals


def test_a_state_of_a_loop_beside_that_of_a_layer_is_not_behind_it(lsuv: Lsuv) -> None:
    model = parse(
        f"""{HEAD} g (float[N,8] x, float[N,8] z) => (float u, float y) <int64 n = {{2}}, bool go = {{1}}>
        {{ u, v = Loop(n, go, x, z) <body = b (int64 i, bool c, float[N,8] s, float[N,8] t) =>
           (bool d, float[N,8] p, float[N,8] q) {{ d = Identity(c) p = MatMul(s, w1) q = Mul(t, decay) }}>
           y = MatMul(v, w2) }}""",
        w1=normal(8, 8),
        decay=1 + 0.3 * normal(8, seed=1),
        w2=normal(8, 8, seed=2),
    )
    run = lsuv(model, {"x": normal(32, 8, seed=3), "z": normal(32, 8, seed=4)}, fresh=True)
    assert roles(run) == {"w1": "weight", "w2": "weight"}
    assert "'decay'" in kept(run)


def test_zero_at_the_end_of_a_branch_is_kept(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8,4,4] x) => (float y) {{
      a = Conv(x, w1) n = BatchNormalization(a, s1, t1, m1, v1) r = Relu(n)
      b = Conv(r, w2) o = BatchNormalization(b, s2, t2, m2, v2) z = Add(o, a) q = Relu(z)
      c = Conv(q, w3) p = BatchNormalization(c, s3, t3, m3, v3) y = Relu(p) }}"""
    tensors: dict[str, Array] = {f"w{i}": normal(8, 8, 1, 1, seed=i) for i in (1, 2, 3)}
    for i in (1, 2, 3):
        zero = np.zeros(8, np.float32)
        tensors |= {f"s{i}": zero if i > 1 else normal(8), f"t{i}": normal(8), f"m{i}": zero, f"v{i}": zero + 1}
    run = lsuv(parse(text, tensors), {"x": normal(32, 8, 4, 4)}, fresh=True)
    all_equal(run, "s1 s3", 1)
    all_equal(run, "t1 t2 t3", 0)
    assert not run.weight("s2").any()
    assert "s2" not in run.changed
    (note,) = (note for note in run.result.notes if "by zero" in note)
    assert "'s2'" in note
    assert "'s3'" not in note
    assert run.result.good


# Both operands of the first sum end in zeros, one of the second.
ENDS = """a = Conv(x, w1) n = BatchNormalization(a, s1, t1, m1, v1) b = Conv(x, w2) g = Relu(b) c = Conv(g, w3)
  o = BatchNormalization(c, s2, t2, m2, v2) z = Add(n, o) p = Conv(z, w4) q = BatchNormalization(p, s3, t3, m3, v3)
  u = Add(z, q) y = Conv(u, w5)"""


def zeros_of(run: Run) -> list[str]:
    return [name for name in ("s1", "s2", "s3") if not run.weight(name).any()]


@pytest.mark.parametrize(
    ("ones", "stay"), [((), ["s3"]), (("s2",), ["s1", "s3"]), (("s3",), []), (("s1", "s3"), ["s2"])]
)
def test_zeros_stay_where_the_sum_lives(lsuv: Lsuv, ones: tuple[str, ...], stay: list[str]) -> None:
    tensors: dict[str, Array] = {f"w{i}": normal(8, 8, 1, 1, seed=i) for i in range(1, 6)}
    zero = np.zeros(8, np.float32)
    for i in (1, 2, 3):
        tensors |= {f"s{i}": zero + (f"s{i}" in ones), f"t{i}": normal(8), f"m{i}": zero, f"v{i}": zero + 1}
    model = parse(f"{HEAD} g (float[N,8,4,4] x) => (float y) {{ {ENDS} }}", tensors)
    run = lsuv(model, {"x": normal(32, 8, 4, 4)}, fresh=True)
    assert zeros_of(run) == stay
    assert run.result.good
    assert run.moments("z", "y")[0].var > 0.1


def test_a_zero_beside_a_branch_that_is_multiplied_by_zero(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{ a = MatMul(x, w) l = LayerNormalization(a, s1) d = Identity(l)
      b = MatMul(a, v) k = LayerNormalization(b, s2) e = Mul(k, two) f = Add(e, shift) z = Add(d, f)
      y = MatMul(z, u) }}"""
    tensors = {"w": normal(8, 8), "v": normal(8, 8), "u": normal(8, 8), "s1": np.zeros(8, np.float32)}
    tensors |= {"s2": np.zeros(8, np.float32), "two": np.array(2, np.float32), "shift": normal(8)}
    run = lsuv(parse(text, tensors), {"x": normal(64, 8)}, fresh=True)
    all_equal(run, "s1 s2", 1)
    all_equal(run, "shift", 0)


# --------------------------------------------------------------------------------------------------------- embeddings


def sinusoid(length: int, width: int) -> Array:
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, width).astype(np.float32)


def language_model(**other: Array) -> ModelProto:
    text = f"""{HEAD} g (int64[N,12] ids) => (float y) {{ e = Gather(table, ids) p = Add(e, places)
      q = Concat<axis=1>(tokens, p) l = LayerNormalization(q, s, t) f = MatMul(l, w) d = Add(f, b) r = Relu(d)
      u2 = MatMul(r, u) y = MatMul(u2, v) }}"""
    tensors = {"table": 0.02 * normal(50, 16, seed=1) + 0.3, "places": 0.05 * normal(1, 12, 16, seed=2)}
    # One token for each of the eight samples.
    tensors |= {"tokens": 0.1 * normal(8, 1, 16, seed=3), "s": normal(16), "t": normal(16), "b": normal(32)}
    tensors |= {"w": normal(16, 32), "u": normal(32, 16), "v": normal(16, 4)}
    tensors["table"][3] = 0
    return parse(text, tensors | other)


IDS = np.random.default_rng(0).integers(0, 50, (8, 12))


def test_embeddings_are_drawn(lsuv: Lsuv) -> None:
    model = language_model()
    run = lsuv(model, {"ids": IDS}, fresh=True)
    assert run.changed == {t.name for t in model.graph.initializer}
    for name, role in (("table", "embedding"), ("places", "embedding"), ("tokens", "token")):
        assert roles(run)[name] == role
        values = run.weight(name)
        rows = values[values.any(-1)] if name == "table" else values
        assert rows.mean() == pytest.approx(0, abs=4 / np.sqrt(rows.size))
        assert rows.std() == pytest.approx(1, abs=4 / np.sqrt(2 * rows.size))
        assert abs(np.corrcoef(rows.reshape(-1), run.old(name)[values.any(-1)].reshape(-1))[0, 1]) < 0.35
    assert not run.weight("table")[3].any()
    assert run.weight("table").any(-1).sum() == 49
    assert run.result.good


def test_fixed_tables_are_not_touched(lsuv: Lsuv) -> None:
    fixed = {
        "table": np.eye(50, 16, dtype=np.float32),
        "places": sinusoid(12, 16)[None],
        "tokens": np.linspace(-1, 1, 16, dtype=np.float32) * np.ones((8, 1, 1), np.float32),
    }
    run = lsuv(language_model(**fixed), {"ids": IDS}, fresh=True)
    assert not run.changed & set(fixed)
    assert not kept(run)
    half = sinusoid(12, 16).astype(np.float16).astype(np.float32)
    assert "places" not in lsuv(language_model(places=half[None]), {"ids": IDS}, fresh=True).changed


def test_a_table_tied_to_the_output_is_drawn_small(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (int64[N,12] ids) => (float y) {{ e = Gather(table, ids) l = LayerNormalization(e, s, t)
      f = MatMul(l, w) r = LayerNormalization(f, s, t) o = Transpose(table) m = MatMul(r, o) y = Add(m, b) }}"""
    tensors = {"table": normal(300, 64) + 1, "s": normal(64), "t": normal(64), "w": normal(64, 64), "b": normal(300)}
    run = lsuv(parse(text, tensors), {"ids": np.random.default_rng(0).integers(0, 300, (16, 12))}, fresh=True)
    assert run.changed == set(tensors)
    assert run.weight("table").std() == pytest.approx(1 / 8, rel=0.05)
    assert run.reasons() == {"m": "tied"}
    assert "drawn as an embedding" in run.result.skipped[0].detail
    all_equal(run, "b t", 0)
    # Rows of about unit length give about unit variance.
    assert run.moments("m")[0].var == pytest.approx(1, abs=0.3)


def test_draws_depend_on_seed_and_name_alone(lsuv: Lsuv) -> None:
    model, batch = language_model(), {"ids": IDS}
    one, two = lsuv(model, batch, fresh=True, threads=1), lsuv(model, batch, fresh=True, threads=2)
    assert one.path.read_bytes() == two.path.read_bytes()
    without = lsuv(model, batch, fresh=True, exclude=["places", "w"])
    np.testing.assert_array_equal(without.weight("table"), one.weight("table"))
    assert not without.changed & {"places", "w"}
    assert (lsuv(model, batch, fresh=True, seed=1).weight("table")[:3] != one.weight("table")[:3]).all()
    assert not np.isin(one.weight("places"), one.weight("tokens")).any()


def test_a_large_table_in_pieces(lsuv: Lsuv) -> None:
    text = f"{HEAD} g (int64[N] ids) => (float y) {{ e = Gather(table, ids) y = MatMul(e, w) }}"
    model = parse(text, table=normal(9000, 64), w=normal(64, 8))
    batch = {"ids": np.arange(0, 9000, 7)}
    one, two = lsuv(model, batch, fresh=True, threads=1), lsuv(model, batch, fresh=True, threads=2, memory=0)
    assert one.path.read_bytes() == two.path.read_bytes()
    table = one.weight("table").reshape(-1)
    assert np.unique(table).size > 0.9 * table.size
    assert [table[: 1 << 18].std(), table[1 << 18 :].std()] == pytest.approx([1, 1], abs=0.01)


@pytest.mark.parametrize("looked", ["g = Gather(table, places)", "i = Unsqueeze(places, last) g = GatherND(table, i)"])
def test_a_looked_up_position_bias(lsuv: Lsuv, looked: str) -> None:
    text = f"""{HEAD} g (float[N,9,16] x) => (float y) {{ a = MatMul(x, w) {looked}
      r = Reshape(g, square) p = Transpose<perm = [2, 0, 1]>(r) t = Transpose<perm = [0, 2, 1]>(a) s = MatMul(a, t)
      b = Add(s, p) m = Softmax(b) z = MatMul(m, a) y = MatMul(z, u) }}"""
    places = np.random.default_rng(0).integers(0, 25, 81)
    tensors = {"table": 0.02 * normal(25, 1), "places": places, "square": np.array([9, 9, 1]), "last": np.array([1])}
    run = lsuv(parse(text, tensors, w=normal(16, 16), u=normal(16, 4)), {"x": normal(16, 9, 16)}, fresh=True)
    assert roles(run)["table"] == "embedding"
    assert run.weight("table").std() == pytest.approx(0.02, rel=0.5)


# -------------------------------------------------------------------------------------------- parameters by their place


def test_free_standing_scales_and_biases_between_layers(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float y) {{ a = MatMul(x, w) g = Mul(a, layer_scale) h = Add(x, g)
      r = Tanh(h) k = Add(r, free) b = MatMul(k, u) c = Reshape(b, shape) y = Add(c, head_bias) }}"""
    tensors = {"w": normal(16, 16), "u": normal(16, 8), "layer_scale": 1e-4 * normal(16), "free": normal(16)}
    tensors |= {"shape": np.array([-1, 2, 4]), "head_bias": normal(4)}
    run = lsuv(parse(text, tensors), {"x": normal(64, 16)}, fresh=True)
    all_equal(run, "layer_scale", 1)
    all_equal(run, "free head_bias", 0)
    assert run.result.good


def test_the_architectures_own_constants_stay(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,3,8,8] x) => (float y) {{ i = Sub(x, image_mean) j = Div(i, image_std) a = Conv(j, w)
      b = Mul(a, mask) c = Add(b, grid) d = Div(c, root) e = Flatten(d) q = Clip(e, low, high) f = MatMul(q, u)
      g = Mul(f, output_std) y = Add(g, output_mean) }}"""
    tensors = {"w": normal(8, 3, 1, 1), "u": normal(512, 4), "root": np.array(2.83, np.float32)}
    tensors |= {"image_mean": normal(3, 1, 1) + 0.5, "image_std": normal(3, 1, 1) ** 2 + 0.2}
    tensors |= {"mask": np.array([1, 0, 1, 1, 1, 0, 1, 1], np.float32).reshape(8, 1, 1)}
    tensors |= {"grid": np.arange(8, dtype=np.float32).reshape(8, 1) + 0.5, "low": np.array(-9.1, np.float32)}
    tensors |= {"high": np.array(9.1, np.float32), "output_std": normal(4) + 3, "output_mean": normal(4)}
    run = lsuv(parse(text, tensors), {"x": normal(32, 3, 8, 8)}, fresh=True)
    assert run.changed == {"w", "u"}
    note = kept(run)
    for name in ("image_mean", "image_std", "output_std", "output_mean"):
        assert repr(name) in note
    for name in ("mask", "grid", "root", "low"):
        assert repr(name) not in note


def test_looked_up_by_what_the_network_found(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,16] x) => (float z) {{ a = MatMul(x, w) i = ArgMax<axis=1, keepdims=0>(a)
      box = Gather(anchors, i) s = Add(a, box) z = MatMul(s, u) }}"""
    model = parse(text, w=normal(16, 16), u=normal(16, 4), anchors=normal(16, 16, seed=5))
    run = lsuv(model, {"x": normal(64, 16)}, fresh=True)
    assert "anchors" not in run.changed
    assert "'anchors'" in kept(run)


def test_what_two_roles_share_is_named(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      a = MatMul(x, w) l = LayerNormalization(a, both, both) y = MatMul(l, u) }}"""
    run = lsuv(parse(text, w=normal(8, 8), u=normal(8, 8), both=normal(8)), {"x": normal(64, 8)}, fresh=True)
    assert "both" not in run.changed
    assert "'both'" in kept(run)


def test_the_gain_of_a_normalised_weight(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      n = ReduceL2<axes=[0], keepdims=1>(v) d = Div(v, n) w = Mul(d, k) y = MatMul(x, w) }}"""
    model = parse(text, v=normal(8, 6), k=normal(1, 6) + 3)
    run = lsuv(model, {"x": normal(256, 8)}, fresh=True)
    assert np.ptp(run.weight("k")) == 0
    assert run.moments("y")[0].var == pytest.approx(1, abs=0.005)
    assert run.changed == {"v", "k"}


# --------------------------------------------------------------------------------------------------- where they stand


def test_constants_functions_and_inner_graphs(lsuv: Lsuv) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17, "f" : 1]> g (float[N,4] x, bool c) => (float z) {
      gamma = Constant<value = float[4] {3, 4, 5, 6}>() h = MatMul(x, w) l = LayerNormalization(h, gamma)
      y = If (c) <then_branch = t () => (p) { p = PRelu(l, slope) }, else_branch = e () => (q) { q = Relu(l) }>
      z = f.Dense(y) }
      <domain: "f", opset_import: ["" : 17]> Dense (x) => (y) {
        k = Constant<value = float[4,2] {1, 2, 3, 4, 5, 6, 7, 8}>() s = Constant<value = float[4] {7, 8, 9, 8}>()
        m = LayerNormalization(x, s) y = MatMul(m, k) }"""
    model = parse(text, w=normal(4, 4))
    branch = next(a.g for a in model.graph.node[3].attribute if a.name == "then_branch")
    branch.initializer.append(numpy_helper.from_array(np.full(4, 0.7, np.float32), "slope"))
    run = lsuv(model, {"x": normal(64, 4), "c": np.array(True)}, fresh=True)
    all_equal(run, "gamma", 1)
    assert {c.tensor: (c.role, c.became_initializer) for c in run.result.changes} == {
        "w": ("weight", False), "gamma": ("scale", True), "slope": ("slope", False),
        "k": ("weight", False), "s": ("scale", False),
    }  # fmt: skip
    inside = numpy_helper.to_array(run.after.functions[0].node[1].attribute[0].t)
    assert inside.tolist() == [1] * 4
    assert run.result.good


def test_half_precision(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (int64[N,12] ids) => (float16 y) {{ e = Gather(table, ids) l = LayerNormalization(e, s, t)
      y = MatMul(l, w) }}"""
    tensors = {"table": normal(50, 16), "s": normal(16), "t": normal(16), "w": normal(16, 16)}
    model = parse(text, {name: array.astype(np.float16) for name, array in tensors.items()})
    run = lsuv(model, {"ids": IDS}, fresh=True)
    assert run.weight("table").std() == pytest.approx(1, abs=0.15)
    all_equal(run, "s", 1)
    assert run.result.good


def test_bfloat16(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (int64[N,12] ids) => (float y) {{ e = Gather(table, ids) f = Cast<to=1>(e) k = Cast<to=1>(s)
      l = LayerNormalization(f, k) y = MatMul(l, w) }}"""
    bf = ml_dtypes.bfloat16
    model = parse(text, table=normal(50, 16).astype(bf), s=normal(16).astype(bf), w=normal(16, 16))
    run = lsuv(model, {"ids": IDS}, fresh=True)
    assert run.weight("table").std() == pytest.approx(1, abs=0.15)
    all_equal(run, "s", 1)


def test_statistics_that_stay_are_named(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4,3,3] x) => (float y) {{ h = Conv(x, w) n = BatchNormalization(h, s, t, one, one)
      y = Conv(n, u) }}"""
    tensors = {"w": normal(4, 4, 1, 1), "u": normal(4, 4, 1, 1), "s": normal(4), "t": normal(4), "one": normal(4) ** 2}
    run = lsuv(parse(text, tensors), {"x": normal(16, 4, 3, 3)}, fresh=True)
    assert "one" not in run.changed
    assert "'one'" in kept(run)


def test_an_excluded_layer_keeps_its_bias(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{
      a = Gemm(x, w, b) c = MatMul(a, u) d = Add(c, e) y = MatMul(d, v) }}"""
    tensors = {"w": normal(8, 8), "u": normal(8, 8), "v": normal(8, 8), "b": normal(8), "e": normal(8)}
    model, batch = parse(text, tensors), {"x": normal(64, 8)}
    for exclude in (["w", "u"], ["a", "c"]):
        run = lsuv(model, batch, fresh=True, exclude=exclude)
        assert run.changed == {"v"}
        assert kept(run) == "fresh: 'w', 'u', 'b', 'e' keep their values: excluded by the user"


ATTENTION = """a = MatMul(x, w) t = Transpose<perm = [0, 2, 1]>(a) s = MatMul(a, t) h = Unsqueeze(s, one) {bias}
  m = Softmax(b) r = ReduceMean<axes = [1], keepdims = 0>(m) z = MatMul(r, a) y = MatMul(z, u)"""
PLACES = np.abs(np.arange(9)[:, None] - np.arange(9))


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        ("b = Add(h, bias)", (1, 4, 9, 9)),
        ("k = Add(h, bias) b = Add(k, mask)", (4, 9, 9)),
        ("q = Reshape(bias, square) p = Transpose<perm = [2, 0, 1]>(q) b = Add(h, p)", (81, 4)),
    ],
    ids=["whole", "before a mask", "moved"],
)
@pytest.mark.parametrize("kind", ["looked up by distance", "slopes"])
def test_an_attention_bias_that_was_folded(lsuv: Lsuv, way: str, shape: tuple[int, ...], kind: str) -> None:
    table = 0.5 ** np.arange(1, 5)[:, None] * -np.arange(9) if kind == "slopes" else normal(4, 9, seed=7)
    heads = table[:, PLACES].astype(np.float32)
    bias = np.moveaxis(heads, 0, -1).reshape(shape) if len(shape) == 2 else heads.reshape(shape)
    tensors = {"w": normal(16, 16), "u": normal(16, 4), "one": np.array([1]), "bias": bias}
    tensors |= {"square": np.array([9, 9, 4]), "mask": np.triu(np.full((9, 9), -1e9, np.float32), 1)}
    model = parse(f"{HEAD} g (float[N,9,16] x) => (float y) {{ {ATTENTION.format(bias=way)} }}", tensors)
    run = lsuv(model, {"x": normal(16, 9, 16)}, fresh=True)
    if kind == "slopes":
        assert run.changed == {"w", "u"}
        assert not kept(run)
    else:
        assert run.changed == {"w", "u", "bias"}
        all_equal(run, "bias", 0)


def test_mask_tokens_and_tables_that_are_parted(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,5,8] x) => (float y) {{ a = MatMul(x, w) c = Greater(a, zero) b = Where(c, token, a)
      d = Where(c, b, low) e = ReduceMean<axes = [1]>(d) f = Add(e, table) g, h = Split<axis = 1>(f) k = Mul(d, g)
      l = Add(k, h) y = MatMul(l, u) }}"""
    tensors = {"w": normal(8, 16), "u": normal(16, 4), "token": normal(1, 1, 16) + 3, "table": normal(1, 2, 16) + 3}
    tensors |= {"zero": np.zeros((), np.float32), "low": np.full(16, -9.1, np.float32)}
    run = lsuv(parse(text, tensors), {"x": normal(64, 5, 8)}, fresh=True)
    assert run.changed == {"w", "u", "token", "table"}
    for name in ("token", "table"):
        assert roles(run)[name] == "embedding"
        assert run.weight(name).std() == pytest.approx(0.02, rel=0.5)


def test_masks_of_attention_stay(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float16[N,6,8] x) => (float16 y) {{ q = MatMul(x, w) k = Transpose<perm = [0, 2, 1]>(q)
      s = MatMul(q, k) m = Add(s, mask) n = Add(m, slopes) p = Softmax(n) v = MatMul(p, q) y = MatMul(v, u) }}"""
    tensors = {"w": normal(8, 8), "u": normal(8, 8), "slopes": np.linspace(0, -0.7, 6, dtype=np.float32)}
    tensors |= {"mask": np.where(np.arange(6) % 3, 0, -65504)}
    model = parse(text, {name: array.astype(np.float16) for name, array in tensors.items()})
    run = lsuv(model, {"x": normal(64, 6, 8, dtype=np.float16)}, fresh=True)
    assert run.changed == {"w", "u"}


def test_patterns_are_for_parameters_too(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,8] x) => (float y) {{ a = MatMul(x, w) l = LayerNormalization(a, s, t) b = MatMul(l, u)
      m = LayerNormalization(b, s2, t2) y = MatMul(m, v) }}"""
    tensors = {"w": normal(8, 8), "u": normal(8, 8), "v": normal(8, 8)}
    tensors |= {"s": normal(8), "t": normal(8), "s2": normal(8), "t2": normal(8)}
    model, batch = parse(text, tensors), {"x": normal(64, 8)}
    assert lsuv(model, batch, fresh=True, exclude=["m", "s"]).changed == {"w", "u", "v", "t"}
    assert lsuv(model, batch, fresh=True, include=["b", "m"]).changed == {"u", "s2", "t2"}
    assert lsuv(model, batch, exclude=["m"]).changed == {"w", "u", "v"}  # where nothing would change it anyway
    with pytest.raises(UsageError, match="'m' matches no layer, but 's2' \\(scale\\): give --fresh"):
        lsuv(model, batch, include=["m"])


def test_fresh_without_rescaling(lsuv: Lsuv) -> None:
    run = lsuv(language_model(), {"ids": IDS}, fresh=True, rescale=False, init="xavier")
    all_equal(run, "s", 1)
    assert run.weight("table").std() == pytest.approx(1, abs=0.1)
    assert {row.status for row in run.result.layers} == {"drawn"}


@pytest.mark.parametrize(
    ("options", "word"), [({"keep_bias": True}, "keep_bias=True"), ({"init": "keep"}, "init='keep'")]
)
def test_fresh_and_old_exclude_each_other(lsuv: Lsuv, options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=f"a new value and {word} keeps some"):
        lsuv(language_model(), {"ids": IDS}, fresh=True, **options)


def test_nothing_learned_remains(tmp_path: Path) -> None:
    """Two trainings of one architecture restart as the same file, whatever they learned."""
    files = []
    for seed in (1, 2):
        model = language_model()
        for i, tensor in enumerate(model.graph.initializer):
            noise = normal(*tensor.dims, seed=100 * seed + i)
            tensor.CopyFrom(numpy_helper.from_array(noise, tensor.name))
        result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), {"ids": IDS}, fresh=True)
        files.append(onnx_lsuv.to_bytes(result.model))
    assert files[0] == files[1]
