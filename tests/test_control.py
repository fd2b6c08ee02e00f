"""If, Loop and Scan over several batches, shared weights, and norms in training form, against float64."""

from __future__ import annotations

import math
import sys

import numpy as np
import onnx
import pytest
from control_graphs import Case, control_case, executions, shuffled, trace
from onnx import ModelProto

import onnx_lsuv
from onnx_lsuv import Result


def initialised(model: ModelProto, batches: list[dict[str, np.ndarray]], case: Case) -> tuple[Result, ModelProto]:
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(model), batches, **case.options)
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


@pytest.mark.parametrize("seed", range(60))
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


if __name__ == "__main__":  # python tests/test_control.py 0 4000
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        try:
            test_random_control_flow(seed)
        except Exception as error:
            print(seed, type(error).__name__, str(error)[:300], flush=True)
