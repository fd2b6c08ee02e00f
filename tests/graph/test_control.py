"""If, Loop and Scan over several batches, shared weights, and norms in training form, against float64."""

from __future__ import annotations

import math
import sys

import numpy as np
import onnx
import oracle
import pytest
from control_graphs import Case, control_case, executions, shuffled, trace
from onnx import ModelProto
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import Result


def initialised(model: ModelProto, batches: list[dict[str, np.ndarray]], case: Case) -> tuple[Result, ModelProto]:
    # Those of a norm without a layer before it too.
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches, recalibrate=True, **case.options)
    data = onnx_lsuv.to_bytes(result.model)
    after = onnx.load_model_from_string(data)
    return onnx_lsuv.measure(onnx_lsuv.from_proto(after), batches, like=result), after


def weights(model: ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


def check(case: Case, result: Result, after: ModelProto) -> None:
    """Float64 finds the target at the use that the report names, and each norm's statistics in the file."""
    runs = [trace(after, batch) for batch in case.batches]
    for row in result.layers:
        node = row.name.rpartition("/")[2]
        stds = executions(case, after, runs, node)
        usable = [std for std in stds if not math.isnan(std)]
        if row.status == "ok":
            assert usable[0] == pytest.approx(row.target, rel=2e-3), (row, stds)
            assert row.std == pytest.approx(usable[0], rel=1e-4)
        elif row.status == "shared":
            assert any(other.name in row.note and other.weight == row.weight for other in result.layers), row
        elif row.status == "not-reached":
            assert not stds, row
        else:
            assert row.status == "degenerate", row
            assert not usable or case.options["keep_bias"], (row, stds)
    for value, made, mean, var in case.norms.values():
        reached = [run for run in runs if made in run]
        alone = sum(names[2] == mean for names in case.norms.values()) == 1
        # Where it runs more than once, the first time decides; that is known of values that stay the same meanwhile.
        if reached and alone and all(len(run[value]) == 1 for run in reached):
            found = np.concatenate([run[value][0] for run in reached])
            np.testing.assert_allclose(weights(after)[mean], found.mean(0), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(weights(after)[var], found.var(0), rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 60))])
@pytest.mark.few(3)
def test_random_control_flow(seed: int) -> None:
    case = control_case(seed)
    onnx.checker.check_model(case.model, full_check=True)
    many, after = initialised(case.model, case.batches, case)
    check(case, many, after)

    one, whole = initialised(case.model, [case.together], case)
    assert [(row.name, row.status) for row in one.layers] == [(row.name, row.status) for row in many.layers]
    for name, array in weights(whole).items():
        np.testing.assert_allclose(weights(after)[name], array, rtol=1e-4, atol=1e-6, err_msg=name)

    other, moved = initialised(shuffled(case.model, seed), case.batches, case)
    assert {row.name: row.status for row in other.layers} == {row.name: row.status for row in many.layers}
    for name, array in weights(moved).items():
        np.testing.assert_allclose(weights(after)[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


# -------------------------------------------------------------------------------------------------- kinds by name

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def stds(model: ModelProto, batches: list[dict[str, np.ndarray]], value: str, at: int = 0) -> float:
    """Return the std over all batches of a value, the given time that it is made."""
    parts = [trace(model, batch)[value] for batch in batches]
    return float(np.sqrt(oracle.pooled([each[at] for each in parts]).var))


def uneven(*shape: int) -> list[dict[str, np.ndarray]]:
    return [{"x": normal(10, *shape) * np.float32(0.3)}, {"x": normal(8, *shape) * np.float32(2)}]


def saved(model: ModelProto, batches: list[dict[str, np.ndarray]], **options: object) -> tuple[Result, ModelProto]:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches, **options)
    after = onnx.load_model_from_string(onnx_lsuv.to_bytes(result.model))
    return onnx_lsuv.measure(onnx_lsuv.from_proto(after), batches, like=result), after


def test_shared_weight_after_another_layer_of_one_branch() -> None:
    model = parse(
        f"""{HEAD} g (float[N,6] x) => (float y) {{
        y = If (c) <else_branch = e () => (float[N,6] e) {{ e = MatMul(x, w) }},
                    then_branch = t () => (float[N,6] t) {{ a = MatMul(x, w1) t = MatMul(a, w) }}>
    }}""",
        w=normal(6, 6),
        w1=normal(6, 6, seed=1),
        c=np.array(True),
    )
    result, after = saved(model, uneven(6))
    assert stds(after, uneven(6), "a") == pytest.approx(1, abs=1e-5)
    assert stds(after, uneven(6), "t") == pytest.approx(1, abs=1e-5)
    # The row of the use that decided has what was measured, and the other one names it.
    rows = {row.weight + row.name[-1]: (row.status, row.note) for row in result.layers}
    assert rows == {"w1a": ("ok", ""), "wt": ("ok", ""), "we": ("shared", "its weight is scaled at 'y.then_branch/t'")}


@pytest.mark.parametrize("first", ["R", "W"])
def test_recurrent_cell_in_any_order(first: str) -> None:
    products = {"R": "hr = MatMul(s, R)", "W": "xw = MatMul(e, W)"}
    lines = [products.pop(first), *products.values()]
    model = parse(
        f"""{HEAD} g (float[5,N,6] x) => (float last) {{
        none = Constant<value_int=0>()   row = Gather<axis=0>(x, none)   zero = Sub(row, row)   h0 = MatMul(zero, wide)
        last, all = Scan<num_scan_inputs=1, body = b (float[N,8] s, float[N,6] e) => (float[N,8] o, float[N,8] p) {{
            {"  ".join(lines)}
            z = Add(hr, xw)   o = Tanh(z)   p = Identity(o)
        }}>(h0, x)
    }}""",
        R=normal(8, 8),
        W=normal(6, 8),
        wide=normal(6, 8, seed=1),
    )
    batches = [{"x": normal(5, 10, 6) * np.float32(0.5)}, {"x": normal(5, 8, 6) * np.float32(2)}]
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches, exclude=["wide"])
    after = onnx.load_model_from_string(onnx_lsuv.to_bytes(result.model))
    w, r = weights(after)["W"], weights(after)["R"]
    products_of = [(b["x"].astype(np.float64) @ w) for b in batches]
    assert np.concatenate([p[0].ravel() for p in products_of]).std() == pytest.approx(1, abs=1e-5)
    # The state is zero in the first step, which says nothing of R.
    assert np.concatenate([(np.tanh(p[0]) @ r).ravel() for p in products_of]).std() == pytest.approx(1, abs=1e-5)


def test_loop_whose_condition_has_no_shape() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]> g (float[N,6] x) => (float y) {
        one = Constant<value_int=1>()   shape = Shape(x)   count = Gather(shape, one)   c = Cast<to=9>(one)
        y = Loop<body = b (int64 i, bool[] go, float s) => (bool[] on, float t) {
            m = MatMul(s, w)   t = Tanh(m)   on = Identity(go)
        }>(count, c, x)
    }"""
    model = parse(text, w=normal(6, 6))
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    for value in (*loop.attribute[0].g.input[1:], *loop.attribute[0].g.output):
        value.type.tensor_type.ClearField("shape")
    result, after = saved(model, uneven(6))
    assert [row.status for row in result.layers] == ["ok"]
    assert stds(after, uneven(6), "m") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("step", "end"), [("r = Relu(m)", "m"), ("k = Reshape(bias, row)   r = Add(m, k)", "r")])
def test_scan_whose_values_have_no_shape(step: str, end: str) -> None:
    model = parse(
        f"""{HEAD} g (float[N,6] x) => (float y) {{
        last, all = Scan<num_scan_inputs=1, body = b (float s, float e) => (float o, float p) {{
            m = MatMul(s, w)   {step}   o = MatMul(r, v)   p = Identity(o)
        }}>(x, steps)
        y = MatMul(last, u)
    }}""",
        w=normal(6, 4),
        v=normal(4, 6, seed=1),
        u=normal(6, 3, seed=2),
        steps=np.zeros(3, np.float32),
        bias=normal(4, 1, seed=3),
        row=np.array([1, 4]),
    )
    for graph, _ in oracle.scopes(model):
        if graph is not model.graph:
            for value in (*graph.input, *graph.output):
                value.type.tensor_type.ClearField("shape")
    result, after = saved(model, uneven(6), keep_bias=True)
    assert [row.status for row in result.layers] == ["ok"] * 3
    found = oracle.measure(after, uneven(6), [end, "o"])
    assert [found[name].var for name in (end, "o")] == pytest.approx([1, 1], abs=1e-4)


def test_single_numbers_have_a_variance_together() -> None:
    model = parse(
        f"""{HEAD} g (float[1,6] x) => (float y) {{
        last, y = Loop<body = b (int64 i, bool[] go, float[1,6] s) => (bool[] on, float[1,6] t, float[1,1] z) {{
            z = MatMul(s, w)   t = Mul(s, half)   on = Identity(go)
        }}>(three, yes, x)
    }}""",
        w=normal(6, 1),
        three=np.array(3),
        yes=np.array(True),
        half=np.float32(0.5),
    )
    batches = [{"x": normal(1, 6, seed=i)} for i in range(12)]
    result, after = saved(model, batches)
    assert [row.status for row in result.layers] == ["ok"]
    assert stds(after, batches, "z") == pytest.approx(1, abs=1e-5)


STEPS = f"""{HEAD} g (float[N,8] x) => (float y) {{
    h0 = Mul(x, zero)   a0 = Gemm(h0, R, b)   z0 = Add(a0, x)   h1 = Tanh(z0)   a1 = Gemm(h1, R, b)   y = Tanh(a1)
}}"""


@pytest.mark.parametrize("keep_bias", [True, False])
def test_measured_at_the_use_that_decided(keep_bias: bool) -> None:
    model = parse(STEPS, R=normal(8, 8), b=normal(8) * np.float32(0.3), zero=np.float32(0))
    batches = [{"x": normal(64, 8)}]
    result, after = saved(model, batches, keep_bias=keep_bias)
    assert {row.name: row.status for row in result.layers} == {"a0": "shared", "a1": "ok"}
    assert stds(after, batches, "a1") == pytest.approx(1, abs=1e-5)
    checked = onnx_lsuv.measure(onnx_lsuv.from_proto(after), batches)
    assert {row.name: row.status for row in checked.layers} == {"a0": "shared", "a1": "ok"}
    assert checked.good


@pytest.mark.parametrize("swap", [False, True])
def test_of_independent_uses_the_first_name_decides(swap: bool) -> None:
    lines = ["a = MatMul(x, w)", "b = MatMul(half, w)"]
    model = parse(
        f"""{HEAD} g (float[N,8] x) => (float c, float d) {{
        half = Mul(x, x)   {"   ".join(lines[:: -1 if swap else 1])}   t = MatMul(b, v)   c = Relu(a)   d = Relu(t)
    }}""",
        w=normal(8, 8),
        v=normal(8, 8, seed=1),
    )
    result, after = saved(model, uneven(8))
    assert {row.name: row.status for row in result.layers} == {"a": "ok", "b": "shared", "t": "ok"}
    assert stds(after, uneven(8), "a") == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("swap", [False, True])
def test_the_first_name_decides_where_no_shape_is_trusted(swap: bool) -> None:
    """ONNX Runtime leaves out the last window of p, so that the graph is made for inputs of open lengths."""
    lines = ["a = Conv(p, w)", "b = Conv(half, w)"]
    model = parse(
        f"""{HEAD} g (float[N,4,9,9] x) => (float y) {{
        p = MaxPool <kernel_shape=[2,2], strides=[3,3], ceil_mode=1, pads=[0,0,1,1]> (x)
        half = Mul(p, p)   {"   ".join(lines[:: -1 if swap else 1])}   y = Add(a, b)
    }}""",
        w=normal(4, 4, 1, 1),
    )
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), uneven(4, 9, 9))
    assert {row.name: row.status for row in result.layers} == {"a": "scaled", "b": "shared"}


if __name__ == "__main__":  # python tests/graph/test_control.py 0 4000
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            test_random_control_flow(seed)
        except Exception as error:
            print(seed, type(error).__name__, str(error)[:300], flush=True)
