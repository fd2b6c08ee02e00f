"""Run the sides of a comparison as processes of their own, and see what each took."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Event, Thread
from time import perf_counter

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SIDES = Path(__file__).with_name("sides")
MEMORY = ("VmRSS", "RssAnon", "RssShmem", "RssFile")
INTERVAL = 0.01  # seconds between two looks at a process's memory


class MissingError(Exception):
    """Something that a measurement needs is not there."""


class FailedError(Exception):
    """A process that was to be measured failed."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a process, or a part of it, took: seconds; bytes of memory at the peak of each kind."""

    wall: float
    cpu: float
    output: str = ""
    memory: dict[str, int] = field(default_factory=dict)
    missed: str = ""  # what it said about layers off their target

    def account(self) -> dict:
        """What the process wrote about itself."""
        return json.loads(self.output)

    def part(self) -> "Ran":
        """The part of it that the process measured itself."""
        account = self.account()
        return Ran(account["wall"], account["cpu"], self.output)


def run(
    arguments: Sequence[str | Path], *, python: str = sys.executable, look: bool = False, may_miss: bool = False
) -> Ran:
    """Run Python with these arguments on this checkout; with `look`, watch its memory.

    Raises:
        FailedError: it ended with another status than 0, or than 1 too where it may miss a target.
    """
    command = [python, *map(str, arguments)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # As when installed: modules are compiled once.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment | {"PYTHONPATH": path}, stdout=output, stderr=errors
        )
        peaks: dict[str, int] = {}
        try:
            with watched(process.pid, peaks) if look else nullcontext():
                # Without reaping: what is left of it can be looked at until the watching ends.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
                wall = perf_counter() - start
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        printed, said = output.read(), errors.read()
        last = " ".join((said.strip() or printed.strip()).splitlines()[-1:]) if process.returncode else ""
        if process.returncode > may_miss or process.returncode < 0:
            what = " ".join(Path(each).name for each in command[1:3])
            raise FailedError(f"{what} ended with {process.returncode}: {last}")
        missed = last.removeprefix("onnx-lsuv: ").partition(":")[0]  # without the names of layers and files
        return Ran(wall, usage.ru_utime + usage.ru_stime, printed, peaks, missed)


def warm_memory(size: int = 1 << 30) -> None:
    """Touch and free as much memory as a side needs.

    A virtual machine hands free memory back to its host after a while; the side that runs first, or takes more, would
    wait for it to come again.
    """
    np.ones(size, np.uint8)


def run_side(name: str, *arguments: str | Path, python: str = sys.executable) -> Ran:
    """Run a script of the folder `sides`."""
    return run([SIDES / f"{name}.py", *arguments], python=python)


def run_command(model: Path, data: Path, *options: str | Path, look: bool = False) -> Ran:
    """Run `onnx-lsuv` from start to the verified file, and remove what it wrote; it may miss targets."""
    out = model.with_name("out.onnx")
    try:
        arguments = ["-m", "onnx_lsuv", model, "--data", data, "-o", out, "--device", "cpu", *options]
        return run(arguments, look=look, may_miss=True)
    finally:
        for path in out.parent.glob("out.onnx*"):
            path.unlink()


def middle(runs: Sequence[Ran]) -> Ran:
    """The medians of several runs."""
    return Ran(median(ran.wall for ran in runs), median(ran.cpu for ran in runs))


def spread(runs: Sequence[Ran]) -> dict[str, list[float]]:
    """Every run's times, for the record."""
    return {"wall": [ran.wall for ran in runs], "cpu": [ran.cpu for ran in runs]}


def in_turn(sides: Sequence[Callable[[], Ran]], rounds: int, *, warm: bool = True) -> list[list[Ran]]:
    """Run several sides in turn, every other round backwards.

    With `warm` each runs once before, uncounted, for the file cache, and memory is touched before every run.
    """
    runs: list[list[Ran]] = [[] for _ in sides]
    if warm:
        for side in sides:
            side()
    for number in range(rounds):
        order = list(zip(sides, runs, strict=True))
        for side, kept in order if number % 2 == 0 else order[::-1]:
            if warm:
                warm_memory()
            kept.append(side())
    return runs


@contextmanager
def watched(pid: int, peaks: dict[str, int]) -> Iterator[None]:
    """Look at the memory of a process again and again, as /proc tells it, and keep the greatest values in bytes."""
    status, done = Path(f"/proc/{pid}/status"), Event()

    def watch() -> None:
        while not done.wait(INTERVAL):
            pairs = (line.partition(":")[::2] for line in status.read_text().splitlines())
            found = {name: int(rest.split()[0]) * 1024 for name, rest in pairs if name in MEMORY}
            if not found:  # it has ended
                return
            found["not files"] = found["RssAnon"] + found["RssShmem"]
            for name, value in found.items():
                peaks[name] = max(peaks.get(name, 0), value)

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
