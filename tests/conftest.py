"""One way to run the package on a model and look at the saved file, and the table of what the corpus tests met."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import devices
import numpy as np
import onnx
import oracle
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import onnx_lsuv
from onnx_lsuv import LayerReport, Result, runtime
from onnx_lsuv.errors import DeviceError
from onnx_lsuv.runtime import Device

# A suite that runs in the background may have Ctrl-C ignored, and what it starts would ignore it too.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="where what runs on the CPU runs instead, such as cuda")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") != "cpu":
        devices.turn(config.getoption("--device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hold what a test asked the emulation of CUDA for against the list of what it lacks."""
    before = devices.lacked() if _on_device(item) else None
    try:
        return (yield)
    finally:
        if before is not None:
            devices.settle(item.nodeid, before[0])


def _on_device(item: pytest.Item) -> bool:
    return item.config.getoption("--device") != "cpu" or item.get_closest_marker("cuda") is not None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark as slow all cases of a test but as many as its mark `few` says; leave out what is about the CPU."""
    seen = Counter[str]()
    for item in items:
        if config.getoption("--device") != "cpu" and item.get_closest_marker("cpu") is not None:
            item.add_marker(pytest.mark.skip(reason="it is about the CPU itself"))
        mark = item.get_closest_marker("few")
        if mark is not None:
            seen[test := item.nodeid.partition("[")[0]] += 1
            if seen[test] > mark.args[0]:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def cuda() -> Device:
    """Return CUDA where it opens in this process: on a GPU, or by the emulated libraries on LD_LIBRARY_PATH."""
    try:
        return runtime.open_device("cuda", threads=2)
    except DeviceError as error:
        pytest.skip(f"{error} Its emulation is told of in tests/README.md.")


Array = NDArray[Any]
Batches = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Run:
    """A model before and after, as the files hold it."""

    before: ModelProto
    after: ModelProto
    result: Result  # measured on the saved file
    path: Path
    batches: Batches
    changed: set[str]

    def row(self, name: str) -> LayerReport:
        """Return the row of a layer's node."""
        (found,) = (row for row in self.result.layers if row.name == name)
        return found

    def reasons(self) -> dict[str, str]:
        """Return why which node was left alone."""
        return {row.name: row.reason for row in self.result.skipped}

    def weight(self, name: str) -> Array:
        """Return an initializer of the saved file in float64."""
        return np.asarray(oracle.tensor_of(self.after, name), np.float64)

    def old(self, name: str) -> Array:
        """Return an initializer of the model as it was."""
        return np.asarray(oracle.tensor_of(self.before, name), np.float64)

    def value(self, name: str) -> list[Array]:
        """Return a value of the saved file's graph for each batch, by a plain session."""
        return oracle.values(self.path, self.batches, [name])[name]

    def moments(self, *names: str) -> list[oracle.Moments]:
        """Return the moments of values of the saved file's graph, by a plain session."""
        found = oracle.measure(self.path, self.batches, names)
        return [found[name] for name in names]


@pytest.fixture
def lsuv(tmp_path: Path) -> Callable[..., Run]:
    """Return a function: write a model, initialise it, save, measure the saved file; promise 1 is checked each time."""
    count = 0

    def run(model: ModelProto, batches: Batches | Mapping[str, Array], **options: Any) -> Run:
        nonlocal count
        count += 1
        given = [batches] if isinstance(batches, Mapping) else list(batches)
        source, target = tmp_path / f"in{count}.onnx", tmp_path / f"out{count}.onnx"
        source.write_bytes(model.SerializeToString())
        loaded = onnx_lsuv.load(source)
        result = onnx_lsuv.initialize(loaded, given, **options)
        onnx_lsuv.save(result.model, target)
        result = onnx_lsuv.measure(onnx_lsuv.load(target), given, like=result)
        assert source.read_bytes() == model.SerializeToString(), "the input was written to"
        after = onnx.load(str(target))
        changed = oracle.changed_tensors(model, after, result.changes)
        reported = {change.tensor for change in result.changes}
        assert changed <= reported, f"changed without a word: {changed - reported}"
        assert changed, "nothing changed"
        for name in oracle.all_float_tensors(after):
            assert np.isfinite(oracle.all_float_tensors(after)[name]).all(), f"{name!r} is not finite"
        return Run(model, after, result, target, given, changed)

    return run


# ------------------------------------------------------------------------------------------------- table of the corpus

_met: dict[str, tuple[Counter[str], Counter[str]]] = {}


@pytest.fixture
def record() -> Iterator[Callable[[str, Result], None]]:
    """Return a function that enters a result in the table at the end."""

    def enter(name: str, result: Result) -> None:
        _met[name] = (Counter(row.status for row in result.layers), Counter(row.reason for row in result.skipped))

    return enter


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _met:
        return
    terminalreporter.section("corpus: layers by status, and those left alone by reason")
    width = max(map(len, _met))
    statuses: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for name, (status, reason) in sorted(_met.items()):
        statuses += status
        reasons += reason
        left = "" if not reason else f"   left: {_counts(reason)}"
        terminalreporter.write_line(f"{name:{width}}  {_counts(status)}{left}")
    terminalreporter.write_line(f"{'all':{width}}  {_counts(statuses)}   left: {_counts(reasons) or 'none'}")


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in sorted(counter.items()))
