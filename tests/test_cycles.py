"""What was loaded is let go at once: no circle of references keeps a model, and with it a mapped file, for later.

On Windows a file that is mapped cannot be replaced or removed, and in a notebook gigabytes would stay.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import suppress
from mmap import mmap
from pathlib import Path

import onnx
import pytest
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import LsuvError, Model
from onnx_lsuv.model import atomic

HEAD = '<ir_version: 10, opset_import: ["" : 17, "acme" : 1]>'
PLAIN = f"{HEAD} g (float[N,8] x) => (float y) {{ h = MatMul(x, w) y = Relu(h) }}"
X = {"x": normal(64, 8)}


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Model]:
    """Return a function: a model from a file, with the weights v, w and k."""

    def loaded(text: str) -> Model:
        weights = {"v": normal(8, 6), "w": normal(8, 8), "k": normal(1, 6)}
        used = {name: array for name, array in weights.items() if f"{name}," in text or f"{name})" in text}
        onnx.save(parse(text, **used), str(tmp_path / "m.onnx"))
        return onnx_lsuv.load(tmp_path / "m.onnx")

    return loaded


@pytest.fixture
def kept() -> Iterator[Callable[[Callable[[], object]], list[object]]]:
    """Return a function: do something, and return what of it only the garbage collector lets go."""

    def after(action: Callable[[], object]) -> list[object]:
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        with suppress(LsuvError, KeyboardInterrupt):
            action()
        gc.collect()
        return [each for each in gc.garbage if isinstance(each, Model | mmap | Exception)]

    yield after
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


Kept = Callable[[Callable[[], object]], list[object]]
Load = Callable[[str], Model]


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        f"{HEAD} g (float[N,8] x) => (float y) {{ y = acme.Mystery(x) z = MatMul(y, w) }}",
        f"""{HEAD} g (float[N,8] x) => (float y) {{
          i = Cast<to=7>(x) e = Gather(k, i) t = Transpose(v) y = MatMul(e, t) }}""",
        f"""{HEAD} g (float[N,8] x) => (float y) {{
          n = ReduceL2<axes=[0], keepdims=1>(v) d = Div(v, n) u = Mul(d, k) y = MatMul(x, u) }}""",
    ],
    ids=["plain", "unknown operator", "index", "weight normalisation"],
)
@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.few(2)
def test_initialize(load: Load, kept: Kept, text: str, rescale: bool) -> None:
    assert kept(lambda: onnx_lsuv.initialize(load(text), X, rescale=rescale)) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, PermissionError, FileExistsError])
@pytest.mark.few(1)
def test_save(
    load: Load, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(atomic, "_put", refused)
    assert kept(lambda: onnx_lsuv.save(load(PLAIN), tmp_path / "o.onnx")) == []
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.slow
def test_the_other_ways(load: Load, kept: Kept, tmp_path: Path) -> None:
    def all_of_them() -> None:
        result = onnx_lsuv.initialize(load(PLAIN), X)
        onnx_lsuv.save(result.model, tmp_path / "o.onnx")
        onnx_lsuv.measure(onnx_lsuv.load(tmp_path / "o.onnx"), X, like=result)
        onnx_lsuv.forecast(onnx_lsuv.make_portable(result, X).model)
        onnx_lsuv.write_report(result, tmp_path / "r.html")
        (tmp_path / "no.onnx").write_bytes(b"\x08")
        onnx_lsuv.load(tmp_path / "no.onnx")

    assert kept(all_of_them) == []
    assert (tmp_path / "r.html").exists()
