"""How fast and how large: everything that is promised about time and memory, measured by one command.

    python tests/benchmarks/run.py [--only NAME ...] [--quick] [--json PATH] [--markdown PATH] [--folder FOLDER]

It makes its own models, runs both sides of each comparison in turn as processes of this Python, on the CPU, and prints
medians and their ratios as Markdown tables. `--quick` takes small models and one round: to see that everything works,
its numbers mean nothing. Everything takes about 25 minutes on two cores, and 10 GB of disk in FOLDER. Let the machine
do nothing else. It needs Linux. The rows of `lsuv` need PyTorch: `pip install '.[bench]'`, or, where torchvision has no
wheel for it, `pip install torch==2.13.0 lsuv==0.3.0 . && pip install --no-deps onnx2torch==1.5.15`, which needs none
here; or name another Python that has torch, onnx2torch and lsuv by `--torch-python`; else they say that they were not
measured.

A benchmark is no test: the exit status is 0 whatever was measured, and 1 only where something could not be run. The
last line names the rows over their bars.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path
from time import perf_counter

import calibration
import command
import draw
import growth
import startup
from bench import Bench, Case
from machine import describe
from processes import FailedError, MissingError
from rows import Row, as_markdown

PARTS = (startup, draw, calibration, command, growth)
CASES = list(chain.from_iterable(part.CASES for part in PARTS))
GROUPS = list(chain.from_iterable(part.GROUPS for part in PARTS))


def chosen(patterns: Sequence[str]) -> list[Case]:
    """The cases that a name, a group or a pattern stands for; all without patterns."""
    for pattern in patterns:
        if not any(fits(case, pattern) for case in CASES):
            raise SystemExit(f"No measurement is called {pattern!r}: {', '.join(case.name for case in CASES)}")
    return [case for case in CASES if not patterns or any(fits(case, pattern) for pattern in patterns)]


def fits(case: Case, pattern: str) -> bool:
    return fnmatch(case.name, pattern) or case.name.startswith(f"{pattern}/")


def measure(case: Case, bench: Bench) -> list[Row]:
    try:
        return case.measure(case, bench)
    except (MissingError, FailedError) as error:
        return [Row(case.name, case.title, bar=case.bar, note=str(error), failed=isinstance(error, FailedError))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="measurements, groups of them, patterns")
    parser.add_argument("--list", action="store_true", help="print the names of the measurements")
    parser.add_argument("--quick", action="store_true", help="small models, one round")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every number there, after each measurement")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="write there what is printed")
    parser.add_argument("--folder", type=Path, help="for models; they are removed (default: the system's own)")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH", help="Python with torch and lsuv")
    args = parser.parse_args()
    cases = chosen(args.only)
    if args.list:
        print("\n".join(case.name for case in cases))
        return
    machine = describe()
    rows: list[Row] = []
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        bench = Bench(Path(folder), args.quick, args.torch_python)
        for case in cases:
            start = perf_counter()
            rows += measure(case, bench)
            print(f"{case.name}: {perf_counter() - start:.1f} s", file=sys.stderr)
            if args.json:
                document = {
                    "machine": machine,
                    "quick": args.quick,
                    "groups": {group.name: group.columns() for group in GROUPS},
                    "rows": [row.document() for row in rows],
                }
                args.json.write_text(json.dumps(document, indent=1) + "\n")
    text = as_markdown(GROUPS, rows, machine)
    if args.quick:
        text = f"A quick look at small models and batches: the numbers mean nothing.\n\n{text}"
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n")
    raise SystemExit(int(any(row.failed for row in rows)))


if __name__ == "__main__":
    main()
