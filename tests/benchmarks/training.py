"""Which start trains which net best: a table and a plot, by one command that goes on where it was ended.

    python tests/benchmarks/training.py --data FOLDER --out FILE.jsonl [--only PATTERN ...] [--plot FILE.svg]

Each net is trained from each of its starts, at rates that samples choose which are not reported, by several seeds; the
parts are in `learning`. Finished trainings are lines of FILE.jsonl, and are not done again; two processes can share a
file, with other nets each. `--table` only prints what is finished. A pattern is for `net/start`: `gpt*/auto`. Needs
PyTorch; nets of the paper's size, with 30 epochs, are trained on a GPU only, or by `--long`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from time import strftime

from learning.cells import Cell, Finished, Plan, run
from learning.table import as_markdown, as_svg

SEEDS = (0, 1, 2)


def plans_of(patterns: Sequence[str], seeds: int, steps: int | None, *, long: bool) -> list[Plan]:
    """The trainings that patterns stand for; all without patterns. Exits where one stands for none."""
    from learning.nets import NETS  # noqa: PLC0415
    from learning.starts import STARTS  # noqa: PLC0415

    every = []
    for name, net in NETS.items():
        for start in net.starts:
            what = f"{net.definition} | {STARTS[start].base} {STARTS[start].settings}"
            every.append(Plan(name, start, net.rates, tuple(range(seeds)), steps or net.steps, what))
    for pattern in patterns:
        if not any(fits(plan, pattern) for plan in every):
            raise SystemExit(f"No training is called {pattern!r}: {', '.join(NETS)}")
    chosen = [plan for plan in every if any(fits(plan, pattern) for pattern in patterns or "*")]
    return [plan for plan in chosen if long or not NETS[plan.net].long]


def fits(plan: Plan, pattern: str) -> bool:
    return fnmatch(f"{plan.net}/{plan.start}", pattern if "/" in pattern else f"{pattern}/*")


def commit() -> str:
    """The commit of the package that initialises."""
    import onnx_lsuv  # noqa: PLC0415

    command = ["git", "-C", str(Path(onnx_lsuv.__file__).parent), "describe", "--always", "--dirty"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or onnx_lsuv.__version__


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), metavar="FOLDER", help="of images")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="what is finished")
    parser.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="nets, or net/start")
    parser.add_argument("--steps", type=int, metavar="N", help="of each training (default: the net's)")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), metavar="N", help="of each cell (default: 3)")
    parser.add_argument("--long", action="store_true", help="nets of the paper's size too")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    args = parser.parse_args()
    import torch  # noqa: PLC0415
    from learning.trained import train  # noqa: PLC0415

    device = "cuda" if args.device == "auto" and torch.cuda.is_available() else args.device.replace("auto", "cpu")
    plans = plans_of(args.only, args.seeds, args.steps, long=args.long or device == "cuda")
    finished = Finished(args.out)
    if not args.table:
        torch.set_num_threads(1)
        tool = {"commit": commit(), "torch": torch.__version__, "cores": os.cpu_count()}

        def trained(cell: Cell) -> dict:
            result = train(cell, args.data, device) | tool | {"ended": strftime("%Y-%m-%d %H:%M")}
            print(f"{cell.net}/{cell.start}, {cell.rate:g}, seed {cell.seed}: {result['report']}", file=sys.stderr)
            return result

        run(plans, finished, trained)
    print(as_markdown(plans, finished.found))
    if args.plot:
        args.plot.write_text(as_svg(plans, finished.found))


if __name__ == "__main__":
    main()
