"""Which BatchNormalizations are calibrated: those behind what changes. Float64 in NumPy says what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import control_graphs
import numpy as np
import onnx
import oracle
import pytest
from conftest import Run
from onnx import ModelProto, numpy_helper
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.report.github import as_github
from onnx_lsuv.report.text import as_text

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
NORMS = ("n0", "n1", "n2", "n3")
BODY = """c0 = Conv<pads=[1,1,1,1]>(x, w0) n0 = BatchNormalization(c0, s0, t0, m0, v0) r0 = Relu(n0)
      c1 = Conv<pads=[1,1,1,1]>(r0, w1) n1 = BatchNormalization(c1, s1, t1, m1, v1) a1 = Add(n1, r0) r1 = Relu(a1)
      c2 = Conv<pads=[1,1,1,1]>(r1, w2) n2 = BatchNormalization(c2, s2, t2, m2, v2) r2 = Relu(n2)
      c3 = Conv<pads=[1,1,1,1]>(r2, w3) n3 = BatchNormalization(c3, s3, t3, m3, v3) a3 = Add(n3, r1) r3 = Relu(a3)
      p = GlobalAveragePool(r3) f = Flatten(p)"""

Lsuv = Callable[..., Run]


def data(n: int = 48, seed: int = 3) -> np.ndarray:
    return normal(n, 3, 8, 8, seed=seed) + normal(1, 3, 1, 1, seed=9)


def statistics(model: ModelProto, batch: np.ndarray, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the variance of each channel of what a norm reads, in float64."""
    at = next(i for i, node in enumerate(model.graph.node) if node.output[0] == norm)
    part = onnx.ModelProto.FromString(model.SerializeToString())
    del part.graph.node[at:]
    x = oracle.forward(part, {"x": batch})[model.graph.node[at].input[0]]
    axes = (0, *range(2, x.ndim))
    return x.mean(axes), x.var(axes)


def trained(head: str = "y = Gemm(f, fw, fb)", **tensors: np.ndarray) -> ModelProto:
    """Return a residual net whose running statistics are those of its data, as training leaves them."""
    given = {"w0": normal(8, 3, 3, 3), **{f"w{i}": normal(8, 8, 3, 3, seed=i) for i in (1, 2, 3)}}
    for i in range(4):
        given |= {f"s{i}": 1 + normal(8, seed=i) / 5, f"t{i}": normal(8, seed=i + 9) / 3}
        given |= {f"m{i}": np.zeros(8, np.float32), f"v{i}": np.ones(8, np.float32)}
    given |= tensors or {"fw": normal(8, 5), "fb": normal(5)}
    model = parse(f"{HEAD} g (float[N,3,8,8] x) => (float y) {{ {BODY} {head} }}", given)
    for norm in NORMS:
        for name, array in zip("mv", statistics(model, data(), norm), strict=True):
            tensor = next(t for t in model.graph.initializer if t.name == name + norm[1])
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), tensor.name))
    return model


def expect_statistics(run: Run, *norms: str) -> None:
    """Expect of these norms the statistics that their inputs have over all batches, and of all others the old ones."""
    whole = np.concatenate([batch["x"] for batch in run.batches])
    for norm in NORMS:
        found = [run.weight(name + norm[1]) for name in "mv"]
        if norm in norms:
            for one, other in zip(found, statistics(run.after, whole, norm), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * abs(other).max())
        else:
            for one, name in zip(found, "mv", strict=True):
                np.testing.assert_array_equal(one, run.old(name + norm[1]))


def kept(run: Run) -> dict[str, str]:
    return {row.name: row.reason for row in run.result.kept_statistics}


def std_of(run: Run, value: str = "y") -> float:
    return float(np.concatenate([oracle.forward(run.after, batch)[value] for batch in run.batches]).std())


@pytest.mark.parametrize("batches", [1, 3])
def test_of_a_trained_net_the_head_alone_starts_anew(lsuv: Lsuv, batches: int) -> None:
    run = lsuv(trained(), [{"x": x} for x in np.split(data(), batches)], include=["fw"])
    assert run.changed == {"fw", "fb"}
    assert {change.tensor for change in run.result.changes} == {"fw", "fb"}
    assert kept(run) == dict.fromkeys(NORMS, "unchanged")
    assert min(np.ptp(run.weight(f"{name}{i}")) for name in "mv" for i in range(4)) > 0.1
    assert std_of(run) == pytest.approx(1, abs=1e-4)
    assert run.row("y").status == "ok"
    assert not any("BatchNormalization" in note for note in run.result.notes)
    # One line, however many they are.
    assert "statistics kept: n0, n1, n2, n3: no changed weight lies before it" in as_text(run.result, 160)
    told = [line for line in as_github(run.result) if "statistics kept" in line]
    assert [line.partition(" ")[0] for line in told] == ["::notice"]
    assert told[0].endswith("n0 and 3 more: no changed weight lies before it")


def test_a_head_without_values_starts_too(lsuv: Lsuv) -> None:
    head = "fw = ConstantOfShape<value=float[1]{0}>(shape) y = MatMul(f, fw)"
    run = lsuv(trained(head, shape=np.array([8, 5])), {"x": data()}, include=["fw"])
    assert {change.tensor for change in run.result.changes} == {"fw"}
    assert kept(run) == dict.fromkeys(NORMS, "unchanged")
    expect_statistics(run)
    assert run.row("y").std == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("batches", [1, 2])
def test_statistics_that_do_not_fit_are_named_and_can_be_set(lsuv: Lsuv, batches: int) -> None:
    far = [{"x": 30 * x} for x in np.split(data(), batches)]
    run = lsuv(trained(), far, include=["fw"])
    assert run.changed == {"fw", "fb"}
    (note,) = (note for note in run.result.notes if "BatchNormalizations" in note)
    assert note.startswith("the stored statistics of 4 of 4 BatchNormalizations before scaled layers do not fit")
    assert note.endswith("or recalibrate=True to set them")
    ratio = []
    for norm in NORMS:
        mean, var = statistics(run.before, np.concatenate([batch["x"] for batch in far]), norm)
        m, v = (run.old(name + norm[1]) for name in "mv")
        ratio.append(np.median(np.sqrt((var + (mean - m) ** 2) / (v + 1e-5))))
    assert f"should bring to a std of 1 has one of {max(ratio):.3g};" in note

    run = lsuv(trained(), far, include=["fw"], recalibrate=True)
    assert run.changed == {"fw", "fb", *(f"{name}{i}" for name in "mv" for i in range(4))}
    assert not kept(run)
    assert not any("recalibrate" in note for note in run.result.notes)
    expect_statistics(run, *NORMS)
    assert std_of(run) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("batches", [1, 3])
def test_norms_behind_a_changed_layer_follow_it(lsuv: Lsuv, batches: int) -> None:
    run = lsuv(trained(), [{"x": x} for x in np.split(data(), batches)], include=["w2"])
    assert run.changed == {"w2", "m2", "v2", "m3", "v3"}
    assert kept(run) == {"n0": "unchanged", "n1": "unchanged"}
    expect_statistics(run, "n2", "n3")
    assert std_of(run, "c2") == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("pattern", ["n1", "m1", "v?", "[mn]1"])
@pytest.mark.parametrize("more", [{}, {"recalibrate": True}, {"include": ["w*"]}, {"init": "keep", "rescale": False}])
def test_an_excluded_norm_keeps_its_statistics(lsuv: Lsuv, pattern: str, more: dict[str, Any]) -> None:
    run = lsuv(trained(), {"x": data()}, exclude=[pattern], **more)
    out = NORMS if pattern == "v?" else ("n1",)
    assert kept(run) == dict.fromkeys(out, "excluded")
    expect_statistics(run, *(norm for norm in NORMS if norm not in out))
    if "init" not in more:
        # What comes behind is scaled on what the norm gives with them.
        assert [std_of(run, f"c{i}") for i in range(4)] == pytest.approx([1] * 4, abs=1e-3)
        assert all(row.status == "ok" for row in run.result.layers)


def test_a_norm_that_is_excluded_and_does_not_fit_is_named(lsuv: Lsuv) -> None:
    run = lsuv(trained(), {"x": 100 * data()}, exclude=["n0"], init="keep", target_std=50)
    (note,) = (note for note in run.result.notes if "BatchNormalization" in note)
    assert note.startswith("the stored statistics of 1 of 1 BatchNormalizations before scaled layers")
    assert note.endswith("or leave out exclude")


def test_where_nothing_changes_all_statistics_are_what_is_asked_for(lsuv: Lsuv) -> None:
    alone = {"init": "keep", "rescale": False, "keep_bias": True}
    run = lsuv(trained(), {"x": 3 * data()}, **alone)
    assert run.changed == {f"{name}{i}" for name in "mv" for i in range(4)}
    expect_statistics(run, *NORMS)
    assert not kept(run)
    assert lsuv(trained(), {"x": 3 * data()}, **alone, recalibrate=True).after == run.after
    # A plan of other choices is made anew.
    model = onnx_lsuv.from_proto(parse(BEFORE, **before()))
    planned = onnx_lsuv.plan(model)
    assert [row.reason for row in planned.kept_statistics] == ["unchanged"]
    again = onnx_lsuv.initialize(planned, {"x": normal(32, 4)}, **alone)
    assert {change.tensor for change in again.changes} == {"m", "v"}


def test_recalibrating_adds_nothing_where_all_is_drawn(lsuv: Lsuv) -> None:
    batch = {"x": data()}
    assert lsuv(trained(), batch).after == lsuv(trained(), batch, recalibrate=True).after


BEFORE = f"""{HEAD} g (float[N,4] x) => (float y) {{ n = BatchNormalization(x, s, t, m, v) y = MatMul(n, w) }}"""


def before(**more: np.ndarray) -> dict[str, np.ndarray]:
    return {"s": normal(4) ** 2, "t": normal(4), "m": normal(4), "v": normal(4) ** 2 + 1, "w": normal(4, 3), **more}


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("form", ["", "<training_mode=1>"])
def test_what_normalises_the_input_stays_in_either_form(lsuv: Lsuv, form: str, batches: int) -> None:
    text = BEFORE.replace("n = BatchNormalization", f"n{', a, b' if form else ''} = BatchNormalization{form}")
    given = [{"x": x} for x in np.split(normal(64, 4) * 2 + 1, batches)]
    run = lsuv(parse(text, **before()), given)
    assert run.changed == {"w"}
    assert kept(run) == {"n": "unchanged"}
    x = np.concatenate([batch["x"] for batch in given]).astype(np.float64)
    s, t, m, v, w = (run.weight(name) for name in "stmvw")
    assert (((x - m) / np.sqrt(v + 1e-5) * s + t) @ w).std() == pytest.approx(1, abs=1e-4)
    # Without a layer to scale there is nothing to run.
    model = onnx_lsuv.from_proto(parse(text, **before()))
    drawn = onnx_lsuv.initialize(model, None, rescale=False)
    assert [change.tensor for change in drawn.changes] == ["w"]


def test_norms_that_share_their_statistics_go_together(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4] x) => (float y) {{
      n = BatchNormalization(x, s, t, m, v) k = BatchNormalization(n, s, t, m2, v2) h = MatMul(k, w)
      o = BatchNormalization(h, s, t, m, v) y = MatMul(o, u)
      q = BatchNormalization(x, s, t, m3, v3) z = MatMul(q, u2) }}"""
    tensors = before(w=normal(4, 4), u=normal(4, 3), u2=normal(4, 3, seed=2))
    tensors |= {f"{name}{i}": normal(4, seed=i) ** 2 + 1 for name in "mv" for i in (2, 3)}
    run = lsuv(parse(text, **tensors), {"x": 2 * normal(64, 4)})
    # The first one follows the third, and the second what the first gives.
    assert run.changed == {"w", "u", "u2", "m", "v", "m2", "v2"}
    assert kept(run) == {"q": "unchanged"}
    run = lsuv(parse(text, **tensors), {"x": 2 * normal(64, 4)}, exclude=["o"])
    assert run.changed == {"w", "u", "u2"}
    assert kept(run) == {"n": "excluded", "o": "excluded", "k": "unchanged", "q": "unchanged"}


def test_what_starts_anew_beside_the_layers_counts(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (int64[N] i) => (float y) {{
      h = Gather(table, i) n = BatchNormalization(h, s, t, m, v) y = MatMul(n, w) }}"""
    model, batch = parse(text, **before(table=normal(20, 4) + 3)), {"i": np.arange(60) % 20}
    run = lsuv(model, batch)
    assert run.changed == {"w"}
    assert kept(run) == {"n": "unchanged"}
    run = lsuv(model, batch, fresh=True)
    assert run.changed == {"table", "s", "t", "m", "v", "w"}
    np.testing.assert_allclose(run.weight("m"), run.weight("table").mean(0), atol=1e-5)
    np.testing.assert_allclose(run.weight("v"), run.weight("table").var(0), rtol=1e-4)


def test_a_shape_is_not_a_value_that_changes(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4,6,6] x) => (float y) {{ c = Conv(x, k) d = Shape(c) r = Reshape(x, d)
      n = BatchNormalization(r, s, t, m, v) a = Add(n, c) y = Conv(a, u) }}"""
    run = lsuv(parse(text, **before(k=normal(4, 4, 1, 1), u=normal(3, 4, 1, 1))), {"x": normal(16, 4, 6, 6)})
    assert kept(run) == {"n": "unchanged"}


def test_a_function_is_asked_at_each_call(lsuv: Lsuv) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]> g (float[N,4] x) => (float y) {
      n = f.norm(x, s, t, m, v) h = MatMul(n, u) o = f.norm(h, s, t, m2, v2) y = MatMul(o, w) }
      <domain: "f", opset_import: ["" : 17]> norm (a, b, c, d, e) => (z) { z = BatchNormalization(a, b, c, d, e) }"""
    tensors = before(u=normal(4, 4), m2=normal(4), v2=normal(4) ** 2 + 1)
    run = lsuv(parse(text, **tensors), {"x": normal(64, 4)})
    assert run.changed == {"u", "m2", "v2", "w"}
    assert list(kept(run).values()) == ["unchanged"]


@pytest.mark.parametrize("batches", [1, 2])
def test_in_a_loop_the_state_comes_back(batches: int) -> None:
    """What is sliced from the data stays; the state does not, from the second turn on, nor what it ends with."""
    text = f"""{HEAD} g (float[5,N,4] x, float[N,4] h) => (float y, float q) {{
      last, all = Scan<num_scan_inputs=1, body = b (float[N,4] state, float[N,4] e)
        => (float[N,4] next, float[N,4] o) {{ a = BatchNormalization(e, s, t, m, v)
        c = BatchNormalization(state, s, t, m2, v2)
        z = MatMul(a, w) r = Add(z, c) next = Tanh(r) o = Identity(e) }}>(h, x)
      k = BatchNormalization(last, s, t, m3, v3) y = MatMul(k, u)
      i = ReduceMean<axes=[0], keepdims=0>(all) j = BatchNormalization(i, s, t, m4, v4) q = MatMul(j, u2) }}"""
    tensors = before(w=normal(4, 4), u=normal(4, 3), u2=normal(4, 3, seed=1))
    tensors |= {f"{name}{i}": normal(4, seed=i) ** 2 + 1 for name in "mv" for i in (2, 3, 4)}
    given = [{"x": normal(5, 16, 4, seed=i), "h": normal(16, 4, seed=i + 5)} for i in range(batches)]
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(parse(text, **tensors)), given)
    assert {row.weight for row in result.kept_statistics if row.reason == "unchanged"} == {"m", "m4"}
    assert {c.tensor for c in result.changes} == {"w", "u", "u2", "m2", "v2", "m3", "v3"}
    measured = onnx_lsuv.measure(result.model, given, like=result)
    assert all(row.status == "ok" for row in measured.layers)


@pytest.mark.slow
def test_a_norm_keeps_its_statistics_where_its_input_stays() -> None:
    spared = needed = needless = 0
    for seed in range(60):
        case = control_graphs.control_case(seed)
        weight = case.uses[sorted(case.uses)[seed % len(case.uses)]].weight
        result = onnx_lsuv.initialize(onnx_lsuv.from_proto(case.model), case.batches, include=[weight])
        after = onnx.load_model_from_string(onnx_lsuv.to_bytes(result.model))
        runs = [[control_graphs.trace(model, batch) for model in (case.model, after)] for batch in case.batches]
        constants, plan = result.plan.program.constants, result.plan
        stored, anew = ({constants[norm.mean].label for norm in norms} for norms in (plan.stored, plan.norms))
        for value, _, mean, _ in case.norms.values():
            same = all(value not in old or all(map(np.array_equal, old[value], new[value])) for old, new in runs)
            assert same or mean not in stored
            alone = sum(names[2] == mean for names in case.norms.values()) == 1
            reached = any(value in old and any(map(np.any, old[value])) for old, _ in runs)
            spared += mean in stored
            needed += not same and mean in anew
            needless += same and mean in anew and alone and reached
    assert spared > 20
    # A loop may run once, and ends before its state comes back.
    assert needed > 40
    assert needless <= 5
