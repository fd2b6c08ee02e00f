"""The recorder of results: twice the same code is the same to the byte, another draw is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TOOL = Path(__file__).with_name("equal") / "run.py"


def tool(*arguments: object, status: int = 0) -> str:
    words = [sys.executable, str(TOOL), *map(str, arguments)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("equal") / "base.jsonl")


def record(out: Path, *more: str) -> Path:
    tool("record", "--out", out, "--only", "sample", "--match", "sample/mlp/fresh-p*", *more)
    return out


def test_the_same_code_gives_the_same(base: Path) -> None:
    new = record(base.with_name("again.jsonl"))
    assert tool("compare", base, new) == "2 cases in both; 2 the same\n"


def test_another_draw_differs_in_bytes_and_report(base: Path) -> None:
    new = record(base.with_name("other.jsonl"), "--extra=--seed=9")
    lines = tool("compare", base, new, "-v", status=1).splitlines()
    heads = [line for line in lines if line.startswith("sample/mlp/fresh-portable")]
    assert len(heads) == 2
    assert all(" bytes m.lsuv.onnx" in head and "report r.json" in head for head in heads)
    assert any('"seed": 9' in line for line in lines)
    assert lines[-1].startswith("2 cases in both; 0 the same; 2 differ in bytes;")


def test_a_refusal_differs_in_status(base: Path) -> None:
    new = record(base.with_name("refused.jsonl"), "--extra=--keep-bias")
    assert tool("compare", base, new, status=1).count(": status 0 -> 2; bytes ") == 2
