"""Whether a change of the code leaves all results the same, to the byte.

    python tests/equal/run.py record --out FILE [--models FOLDER] [--only KIND ...] [--match GLOB] [--part I/N]
                                     [--jobs N] [--extra=OPTION ...]
    python tests/equal/run.py compare BASE NEW [-v]

`record` calls the command line of the `onnx_lsuv` that Python finds first (PYTHONPATH says which) on some thousand
cases, each in a folder of its own, and writes a JSON line for each: the exit status, the digest of every file that
was written, and the JSON report and all printed text without what differs from run to run (times, versions).
`compare` says which cases two recordings differ in; the exit status is 1 if that is in bytes or in the exit status.
A difference in the report or in text alone is listed (-v shows the lines) and is for the reader to judge.

The models are made once in --models (beside FILE by default), so that both sides read the same files. --part 1/20 is
a twentieth, mixed over all kinds. Files are the same only on one machine, with the same packages.

    PYTHONPATH=OLD python tests/equal/run.py record --out /tmp/equal/old.jsonl
    PYTHONPATH=NEW python tests/equal/run.py record --out /tmp/equal/new.jsonl
    python tests/equal/run.py compare /tmp/equal/old.jsonl /tmp/equal/new.jsonl -v
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import difflib
import hashlib
import io
import json
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import onnx
import onnxruntime
from inputs import KINDS, Entry, entries

# DATA and RANDOM stand for a model's own arguments. Sets are dealt round robin.
SETS = {
    "default": "DATA",
    "fresh": "DATA --fresh",
    "portable": "DATA --portable",
    "fresh-portable-center": "DATA --fresh --portable --center --weights-out w.npz",
    "center": "DATA --center",
    "dry-run": "--dry-run",
    "delta": "DATA --init delta --seed 3",
    "default-2": "DATA --seed 2 --report r.md --report r.html",
    "he": "DATA --init he --weights-out w.safetensors",
    "xavier": "DATA --init xavier --no-rescale --fresh",
    "keep": "DATA --init keep",
    "check": "DATA --check",
    "fresh-random": "RANDOM --fresh --samples 5 --batch-size 2",
    "no-rescale": "RANDOM --no-rescale --no-verify",
    "keep-bias": "DATA --keep-bias --memory 4KB",
    "target": "DATA --target-std 0.5 --target *1*=2",
    "fresh-portable": "DATA --fresh --portable --weights-out w.safetensors",
    "include": "DATA --include *[1-5]*",
    "exclude": "DATA --exclude *2* --center",
    "random": "RANDOM --seed 3",
    "cut": "DATA --samples 3 --batch-size 1 --memory 1KB",
    "portable-keep": "DATA --portable --init keep --no-rescale",
    "dry-run-more": "RANDOM --dry-run --fresh --portable --format json",
    "json": "DATA --fresh --center --format json",
    "github": "DATA --init he --tolerance 0.00000001 --format github --report r.md",
    "compare": "DATA --check --compare other.onnx --report r.html --report r.md",
    "check-json": "RANDOM --check --format json",
    "fresh-exclude": "DATA --fresh --exclude *1* --portable -v",
    "target-fresh": "DATA --fresh --target-std 2 -q",
}
DEALT = {"sample": 8, "zoo": 4, "corpus": 4, "random": 3, "control": 4, "quantised": 3}  # sets a model
WHOLE = {"sample/mlp", "random/0003", "random/0011", "control/0005", "quantised/0002"}  # models that meet all sets
MASKS = (
    (re.compile(r'(?<="seconds": \{)[^{}]*'), "TIMES"),
    (re.compile(r'(?<="versions": \{)[^{}]*'), "VERSIONS"),
    (re.compile(r"(?<=<dt>seconds</dt><dd>)[^<]*"), "TIMES"),
    (re.compile(r"\b\d[\d.,]* (ms|s|min)\b"), "TIME"),
    (re.compile(r"/tmp/[\w./-]+"), "PATH"),
)


@dataclass(frozen=True)
class Case:
    """A call of the command: the folder with its files, and the arguments."""

    name: str
    folder: Path
    arguments: list[str]


# ----------------------------------------------------------------------------------------------------------- cases


def cases(models: Path, kinds: Sequence[str], extra: Sequence[str] = ()) -> Iterator[Case]:
    turn = 0
    for kind in KINDS:
        for entry in entries(kind, models) if kind in kinds else ():
            where = models / kind / entry.name
            if entry.arguments is not None:
                yield Case(f"{kind}/{entry.name}", where, [*entry.arguments, *extra])
                continue
            dealt = [list(SETS)[(turn + i) % len(SETS)] for i in range(DEALT[kind])]
            turn += DEALT[kind]
            for name in SETS if f"{kind}/{entry.name}" in WHOLE else dealt:
                yield Case(f"{kind}/{entry.name}/{name}", where, [*arguments(entry, SETS[name]), *extra])


def arguments(entry: Entry, options: str) -> list[str]:
    words = ["m.onnx"]
    for word in options.split():
        words += entry.data if word == "DATA" else entry.random if word == "RANDOM" else [word]
    if "--dry-run" not in words:
        words += ["--device", "cpu", "--threads", "1"]
    return [*words, "--report", "r.json"]


def part(found: Sequence[Case], share: str) -> list[Case]:
    """Return one of N parts of the cases; each is mixed over all of them."""
    which, of = map(int, share.split("/"))
    return sorted(found, key=lambda case: zlib.crc32(case.name.encode()))[which - 1 :: of]


# ---------------------------------------------------------------------------------------------------------- record


def run(case: Case) -> dict[str, Any]:
    """Run a case in a folder of its own; return its line."""
    from onnx_lsuv.cli import run as command  # noqa: PLC0415

    stdout, stderr, start = io.StringIO(), io.StringIO(), monotonic()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python says each once a process, wherever that is
        folder = Path(name)
        shutil.copytree(case.folder, folder, dirs_exist_ok=True)
        if "--compare" in case.arguments:
            shutil.copy(folder / "m.onnx", folder / "other.onnx")
        before = {path.relative_to(folder): digest(path) for path in files(folder)}
        os.chdir(folder)
        sys.argv[1:] = case.arguments  # a report says what was called
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                status: int | str = command(case.arguments)
        except Exception as error:
            status = repr(error)  # a defect, and one case more
        finally:
            os.chdir("/")
        after = {path.relative_to(folder): digest(path) for path in files(folder)}
        texts = {"stdout": stdout.getvalue(), "stderr": stderr.getvalue()}
        for path in folder.glob("r.*"):
            texts[path.name] = path.read_text("utf-8")
        known = {of: f"DIGEST of {path}" for path, of in after.items()} | {str(folder): "FOLDER"}
        texts = {key: masked(text, known) for key, text in texts.items()}
    return {
        "case": case.name,
        "arguments": shlex.join(case.arguments),
        "seconds": round(monotonic() - start, 2),
        "status": status,
        "inputs": hashlib.sha256(repr(sorted(before.items())).encode()).hexdigest(),
        "files": {str(p): d for p, d in sorted(after.items()) if before.get(p) != d and not fnmatch(p.name, "r.*")},
        "gone": sorted(str(path) for path in before.keys() - after.keys()),
        "texts": {key: {"sha256": hashlib.sha256(t.encode()).hexdigest(), "z": packed(t)} for key, t in texts.items()},
    }


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def masked(text: str, known: Mapping[str, str]) -> str:
    """Return a text without what differs from run to run or is compared elsewhere."""
    for each, word in known.items():
        text = text.replace(each, word)
    for pattern, word in MASKS:
        text = pattern.sub(word, text)
    return text


def packed(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def unpacked(text: str) -> str:
    return zlib.decompress(base64.b64decode(text)).decode()


def prepare() -> None:
    """Set what the command reads of its surroundings."""
    os.environ.update(COLUMNS="160", NO_COLOR="1", TERM="dumb")
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS", "FORCE_COLOR"):
        os.environ.pop(name, None)


def record(options: argparse.Namespace) -> int:
    import onnx_lsuv  # noqa: PLC0415

    prepare()
    start = monotonic()
    models = (options.models or options.out.parent / "models").resolve()
    found = [
        each for each in cases(models, options.only or list(KINDS), options.extra) if fnmatch(each.name, options.match)
    ]
    found = part(found, options.part)
    print(f"{len(found)} cases with {Path(onnx_lsuv.__file__).parent}", file=sys.stderr)
    about = {module.__name__: module.__version__ for module in (np, onnx, onnxruntime)}
    statuses: Counter[str] = Counter()
    unfinished = options.out.with_name(f"{options.out.name}.part")
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(unfinished.open("w"))
        each: Any = map
        if options.jobs > 1:
            context = multiprocessing.get_context("spawn")
            each = stack.enter_context(context.Pool(options.jobs, prepare)).imap_unordered
        print(json.dumps({"about": about | {"python": platform.python_version(), "machine": processor()}}), file=out)
        for line in each(run, found):
            print(json.dumps(line), file=out, flush=True)
            statuses[str(line["status"])] += 1
            if line["status"] not in (0, 1) and not line["case"].startswith("broken/"):
                print(f"{line['case']}: {unpacked(line['texts']['stderr']['z']).strip()[-200:]}", file=sys.stderr)
    unfinished.replace(options.out)
    counts = ", ".join(f"{n} of status {status}" for status, n in sorted(statuses.items()))
    print(f"{counts}; {monotonic() - start:.0f} seconds; {options.out}", file=sys.stderr)
    return 0


def processor() -> str:
    """Return the name of the processor, which BLAS chooses its code by."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(": ")[2]
    return platform.machine()


# --------------------------------------------------------------------------------------------------------- compare


def compare(options: argparse.Namespace) -> int:
    (about, base), (about_new, new) = lines(options.base), lines(options.new)
    for name in about:
        if about[name] != about_new.get(name):
            print(f"the two are not of one {name}: {about[name]}, {about_new.get(name)}")
    both = [name for name in base if name in new]
    counts: Counter[str] = Counter()
    for name in both:
        found = differences(base[name], new[name])
        counts.update({kind for kind, _ in found})
        if found:
            print(f"{name}: {'; '.join(f'{kind} {detail}'.strip() for kind, detail in found)}")
            if options.verbose:
                print(f"    {new[name]['arguments']}")
                show(base[name]["texts"], new[name]["texts"], options.lines)
    alone = [f"{len(one.keys() - other.keys())} only in {path}" for one, other, path in
             ((base, new, options.base), (new, base, options.new)) if one.keys() - other.keys()]  # fmt: skip
    same = sum(not differences(base[name], new[name]) for name in both)
    parts = [f"{len(both)} cases in both", f"{same} the same"]
    parts += [f"{n} differ in {kind}" for kind, n in sorted(counts.items())] + alone
    print("; ".join(parts))
    return 1 if not both or {"bytes", "status", "inputs"} & counts.keys() else 0


def lines(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    first, *rest = path.read_text().splitlines()
    found = [json.loads(line) for line in rest]
    return json.loads(first)["about"], {line["case"]: line for line in found}


def differences(base: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what differs between two lines of a case, and where."""
    found = []
    if base["inputs"] != new["inputs"]:
        found.append(("inputs", "(make both with one --models)"))
    if base["status"] != new["status"]:
        found.append(("status", f"{base['status']} -> {new['status']}"))
    one, other = base["files"], new["files"]
    wrong = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    wrong += sorted(set(base["gone"]) ^ set(new["gone"]))
    if wrong:
        found.append(("bytes", ", ".join(wrong)))
    one, other = ({key: text["sha256"] for key, text in line["texts"].items()} for line in (base, new))
    wrong = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    for kind, of in (("report", {"r.json"}), ("text", set(wrong) - {"r.json"})):
        if of & set(wrong):
            found.append((kind, ", ".join(sorted(of & set(wrong)))))
    return found


def show(base: dict[str, Any], new: dict[str, Any], most: int) -> None:
    """Print the first lines that differ of each text."""
    for name in sorted(base.keys() | new.keys()):
        one, other = (
            unpacked(side[name]["z"]).replace("><", ">\n<").splitlines() if name in side else [] for side in (base, new)
        )
        diff = list(difflib.unified_diff(one, other, "base", "new", lineterm="", n=1))[2:]
        for line in diff[:most]:
            print(f"    {name}: {line[:200]}")
        if len(diff) > most:
            print(f"    {name}: ... {len(diff) - most} more lines")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(required=True)
    mode = modes.add_parser("record", help="run the cases and write a line for each")
    mode.set_defaults(run=record)
    mode.add_argument("--out", type=Path, required=True)
    mode.add_argument("--models", type=Path, help="where the models are, or are made; default: models beside --out")
    mode.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=f"of {', '.join(KINDS)}")
    mode.add_argument("--match", default="*", help="only the cases of these names, such as 'random/00*/fresh*'")
    mode.add_argument("--part", default="1/1", help="such as 1/20: only the first of twenty parts")
    mode.add_argument("--jobs", type=int, default=1)
    mode.add_argument("--extra", action="append", default=[], help="one more argument for each call: --extra=--fresh")
    mode = modes.add_parser("compare", help="say which cases differ")
    mode.set_defaults(run=compare)
    mode.add_argument("base", type=Path)
    mode.add_argument("new", type=Path)
    mode.add_argument("-v", "--verbose", action="store_true", help="show the lines that differ")
    mode.add_argument("--lines", type=int, default=12, help="how many of each text, with -v")
    options = parser.parse_args()
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
