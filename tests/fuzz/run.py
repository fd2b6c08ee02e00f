"""Broken models by the thousand: each ends in a result or in one sentence, whatever the file says.

    python tests/fuzz/run.py [--cases N | --minutes N] [--first N] [--corpus FOLDER] [--keep FOLDER]

A case is a number: a model of `seeds`, broken as `mutations` do, and options of the command, run in a process that
takes many of them with a limit of memory; one that crashes or does not end is replaced. The cases are the same on
every machine with the same versions of NumPy, protobuf and the models. What counts as a fault:

    a defect      an exit status of 70, or any but 0 to 6
    a crash       the process ends by a signal, or runs out of its time
    a lie         a tensor differs from the input's and no change was reported; ONNX Runtime refuses the output
                  although it ran the input
    a mess        an input changed, a file left behind, more or less than one sentence

The exit status is 1 if there is a fault, and the last lines count them by kind. `--keep` saves the files of the first
of each kind.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from time import monotonic
from typing import IO

PATIENCE = 60  # seconds for a case
MEMORY = 6 << 30
LOT = 400  # cases that a process takes before it is replaced


def worker(first: int, step: int, corpus: Path | None) -> None:
    """Run cases one after another, a line before each and one after it."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import case  # noqa: PLC0415

    for number in range(first, first + LOT * step, step):
        with tempfile.TemporaryDirectory() as name:
            os.chdir(name)
            what, faults = case.run(number, corpus, Path(name))
            os.chdir("/")
        print(json.dumps({"case": number, "what": what, "faults": faults}), flush=True)


def main() -> int:
    """Drive workers; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    corpus = options.corpus.resolve() if options.corpus else None
    if options.worker:
        worker(options.first, 1, corpus)
        return 0
    kinds: dict[str, list[tuple[int, str]]] = defaultdict(list)
    number, done, start = options.first, 0, monotonic()

    def more() -> bool:
        return monotonic() - start < 60 * options.minutes if options.minutes else done < options.cases

    while more():
        process = _start(number, corpus)
        assert process.stdout is not None
        what = ""
        while more():
            line = _line(process.stdout)
            if not line:
                break
            told = json.loads(line)
            number, what = told["case"], told["what"]
            if "faults" in told:
                done, what = done + 1, ""
                number += 1
                for fault in told["faults"]:
                    kinds[fault].append((told["case"], told["what"]))
        process.kill()
        status = process.wait()
        if status == 1:
            kinds["the harness itself failed"].append((number, "see --worker --first"))
            number, done = number + 1, done + 1
        elif what and more():
            kinds["no end" if line is None else f"crash {-status}"].append((number, what))
            number, done = number + 1, done + 1
    for fault, cases in sorted(kinds.items(), key=lambda each: -len(each[1])):
        print(f"{len(cases):5}  {fault}   e.g. {cases[0][0]}: {cases[0][1]}"[:300])
        if options.keep:
            _keep(options.keep, fault, cases[0][0], corpus)
    print(f"{done} cases, {sum(map(len, kinds.values()))} faults of {len(kinds)} kinds")
    return 1 if kinds else 0


def _start(first: int, corpus: Path | None) -> subprocess.Popen[bytes]:
    more = ["--corpus", str(corpus)] if corpus else []
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", "--first", str(first), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0)


def _line(stream: IO[bytes]) -> bytes | None:
    """Return the next line, b"" at the end, None where it does not come in time."""
    ready, _, _ = select.select([stream], [], [], PATIENCE)
    return stream.readline() if ready else None


def _keep(folder: Path, fault: str, number: int, corpus: Path | None) -> None:
    import case  # noqa: PLC0415

    name = "".join(c if c.isalnum() else "-" for c in fault)[:80]
    place = folder / f"{number}-{name}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    what, arguments = case.make(number, corpus, place)
    (place / "case.txt").write_text(f"{what}\n{' '.join(arguments)}\n")


if __name__ == "__main__":
    sys.exit(main())
