"""The harness of broken models: its cases are the same everywhere, it sees faults, and there are none."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

FOLDER = Path(__file__).with_name("fuzz")


@pytest.fixture
def case(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the module of a case; those of the harness lie beside each other as scripts do."""
    monkeypatch.syspath_prepend(FOLDER)
    return import_module("case")


def test_a_case_is_its_number(case: ModuleType, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        told = [case.make(number, None, tmp_path / name) for number in range(20)]
        made.append((told, (tmp_path / name / "m.onnx").read_bytes()))
    assert made[0] == made[1]
    assert len({what for what, _ in made[0][0]}) == 20


def test_every_seed_runs_unbroken(case: ModuleType) -> None:
    for name, data in case.seeds().items():
        model = ModelProto.FromString(data)
        assert case._runs(model, case.data_for(model, np.random.default_rng(0))), name


def model(value: float) -> bytes:
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xz")
    weight = numpy_helper.from_array(np.full((2, 2), value, np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"])], "g", [x], [z], [weight])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


SAID = "onnx-lsuv: error: no.\n"
TRACE = 'File "/a/onnx_lsuv/layers/find.py", line 7, in find\nKeyError: 1\n' + SAID


def test_faults_are_seen(case: ModuleType) -> None:
    def faults(status: int, stderr: str, **after: bytes) -> list[str]:
        files = {name.replace("_", "."): data for name, data in after.items()}
        return list(case._faults(status, stderr, {"m.onnx": model(1)}, {"m.onnx": model(1)} | files, []))

    assert faults(3, SAID) == []
    assert faults(70, TRACE) == ["status 70: onnx_lsuv/layers/find.py find: KeyError: 1"]
    assert faults(3, "") == ["status 3 without a sentence: "]
    assert faults(3, SAID, m_onnx=model(2)) == ["the input m.onnx changed"]
    assert faults(3, SAID, o_onnx=b"") == ["status 3 leaves ['o.onnx']"]
    told, untold = b'{"changes": [{"tensor": "w"}]}', b'{"changes": []}'
    assert faults(0, "", m_lsuv_onnx=model(2), r_json=told) == []
    assert faults(0, "", m_lsuv_onnx=model(2), r_json=untold) == ["changed without a word"]


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=580)


def test_a_few_broken_models() -> None:
    ran = fuzz("--cases", "40")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.endswith("40 cases, 0 faults of 0 kinds\n")


@pytest.mark.slow
def test_many_broken_models() -> None:
    ran = fuzz("--cases", "1000", "--first", "100")
    assert ran.returncode == 0, ran.stdout + ran.stderr
