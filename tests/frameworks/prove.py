"""Prove what trains where: `python tests/frameworks/prove.py FOLDER [--json PATH] [--table] [IMPORTER ...]`.

Makes an environment for each importer in the folder (once; some gigabytes), writes the models of `classifiers.py`
there, initialises each with onnx-lsuv on 256 digits, writes it as it is and in its portable form, trains each file
through each importer (each in a process of its own), and prints one Markdown table. Nothing is fitted to an importer:
Adam at 0.001, 100 steps of 64 digits, the same digits in the same order for all. Run it in the environment in which
onnx-lsuv and scikit-learn are installed. tinygrad needs a C compiler by the name of clang.

`--measure` makes the table of importers, `onnx_lsuv/importers/table.json`, instead: what each package registers
(`registered.py`), its version and the date go into its row. For another version, change it in `ENVIRONMENTS` first. The
other fields of a row are what trying showed: `--table` holds all of it against the importers. For every file of
`variants.py` the number of weights that three steps train has to be the number foretold; the status is 1 where not, and
what is printed says which trait, operator or window of a row to change. `--table --json tests/frameworks/measured.json`
records what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import classifiers
import numpy as np
import onnx
import variants

import onnx_lsuv
from onnx_lsuv import importers
from onnx_lsuv.importers import IMPORTERS, forecast
from onnx_lsuv.portable import make_portable

HERE = Path(__file__).resolve().parent
TABLE = Path(importers.__file__).with_name("table.json")
TORCH = "torch==2.13.0"
# For each environment the calls of pip that make it.
ENVIRONMENTS: dict[str, list[list[str]]] = {
    "torch": [[TORCH, "onnx2torch==1.5.15", "onnx2pytorch==0.6.0", "onnx"]],
    "ort": [["onnxruntime-training-cpu==1.19.2", TORCH, "onnx<1.18"]],
    "jax": [["jaxonnxruntime==0.3.0", "onnx", "optax"]],
    "tinygrad": [["tinygrad==0.14.0", "numpy", "onnx"]],
    "keras": [["tensorflow-cpu==2.19.1", "onnx"], ["--no-deps", "onnx2keras==0.0.25"]],
    "onnxsim": [["onnxsim==0.8.1", "onnxruntime==1.32.0"]],
    # The package names none of what it needs.
    "onnx2tf": [
        ["tensorflow-cpu==2.19.1", "tf_keras==2.19.0", "onnx2tf==1.29.24"],
        ["onnx", "onnxruntime", "onnx-graphsurgeon", "sng4onnx", "psutil", "ai-edge-litert"],
    ],
}
HOMES = {
    "onnx2torch": "torch",
    "onnx2pytorch": "torch",
    "onnxruntime-training": "ort",
    "jaxonnxruntime": "jax",
    "tinygrad": "tinygrad",
    "onnx2keras": "keras",
    "onnxsim": "onnxsim",
    "onnx2tf": "onnx2tf",
}
FORMS = ("as is", "--portable")
WORDS = ("kinds", "cures", "exports", "written", "beside")  # what the table has beside its rows


def environment(folder: Path, name: str) -> Path:
    """Return the Python of an environment, made where it is not there yet."""
    home, done = folder / name, folder / f"{name}.done"
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not done.exists():
        print(f"making {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        for arguments in ENVIRONMENTS[name]:
            subprocess.run([python, "-m", "pip", "install", "-q", *arguments], check=True)
        done.touch()
    return python


def write_files(folder: Path) -> list[tuple[str, str, dict[str, Any]]]:
    """Write every model in both forms; return its name, its form, and its job."""
    jobs = []
    for name, build in classifiers.MODELS.items():
        proto = build()
        shape = tuple(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim[1:])
        train_x, train_y, test_x, test_y = classifiers.digits(shape)
        data = folder / f"{name}.npz"
        np.savez(data, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
        result = onnx_lsuv.initialize(onnx_lsuv.from_proto(proto), [{"image": train_x[:256]}], seed=0, threads=1)
        for form in FORMS:
            path = folder / f"{name}{'-portable' if form == FORMS[1] else ''}.onnx"
            onnx_lsuv.save(make_portable(result.model).model if form == FORMS[1] else result.model, path, force=True)
            jobs.append((name, form, job_of(path, data)))
    return jobs


def write_variants(folder: Path) -> list[tuple[str, dict[str, Any], dict[str, int]]]:
    """Write every file of `variants.py`; return its name, its job, and for each importer the weights foretold."""
    jobs = []
    for number, (name, build) in enumerate(variants.VARIANTS.items()):
        proto = build()
        shape = {"c": (1, 8, 8), "t": (8, 8), "w": (8, 8)}.get(name[0], (64,))
        train_x, train_y, test_x, test_y = classifiers.digits(shape)
        data = folder / f"{'x'.join(map(str, shape))}.npz"
        np.savez(data, train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)
        path = folder / f"variant{number}.onnx"
        model = onnx_lsuv.from_proto(proto)
        plan = onnx_lsuv.plan(model).plan
        if any(weight.constant.origin == "Constant" for weight in plan.weights.values()):
            # The table speaks of the file that onnx-lsuv saves, in which these are initializers.
            model = onnx_lsuv.initialize(model, [{"image": train_x[:256]}], init="keep", threads=1).model
        onnx_lsuv.save(model, path, force=True)
        foretold = {each.importer: each.as_is.trainable for each in forecast(plan)}
        jobs.append((name, job_of(path, data) | {"steps": 3}, foretold))
    return jobs


def job_of(path: Path, data: Path) -> dict[str, Any]:
    """Return what `train.py` is to do with a file."""
    parameters, statistics = classifiers.parameters(onnx.load(str(path)))
    weights = [w.constant.label for w in onnx_lsuv.plan(onnx_lsuv.load(path)).plan.weights.values()]
    return {
        "model": str(path),
        "data": str(data),
        "weights": weights,
        "parameters": parameters,
        "statistics": statistics,
    }


def run(python: Path, importer: str, jobs: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Train files through an importer; a crash of the process counts against the file that it was at."""
    rows: list[dict[str, Any]] = []
    while len(rows) < len(jobs):
        todo = folder / f"{importer}.jsonl"
        todo.write_text("".join(json.dumps(job) + "\n" for job in jobs[len(rows) :]))
        # The importers' own chatter goes to standard error; what counts are the lines of JSON.
        command = [python, HERE / "train.py", importer, todo]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rows += [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"trainable"')]
        if len(rows) < len(jobs):
            job = jobs[len(rows)]
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            crash = {"trainable": 0, "weights": len(job["weights"]), "of": len(job["parameters"]), "trained": 0}
            rows.append(crash | {"error": f"the process ended with status {done.returncode}: {last}"[:300]})
    return rows


def cell(row: dict[str, Any]) -> str:
    """Return a row's cell: weights trained, loss, accuracy; or why not."""
    count = f"{row['trainable']}/{row['weights']}"
    if "accuracy" not in row:
        return f"{count}: {row['error'][:80]}"
    off = "" if row["difference"] == 0 else f", off by {row['difference']:.1e}"
    rest = "" if row["trained"] == row["of"] else f" ({row['trained']} of {row['of']} tensors)"
    return f"{count}{rest}{off}, {row['first']:.2f} -> {row['last']:.2f}, {row['accuracy']:.3f}"


def markdown(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table: importers down, for each model both forms."""
    lines = ["| importer | model | as is | --portable |", "|---|---|---|---|"]
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        cells.setdefault((row["importer"], row["model"]), {})[row["form"]] = cell(row).replace("|", "\\|")
    lines += [
        f"| {i} | {m} | " + " | ".join(found.get(f, "-") for f in FORMS) + " |" for (i, m), found in cells.items()
    ]
    return "\n".join(lines)


def prove(folder: Path, files: Path, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Train every model in both forms through the importers; return a row for each."""
    jobs = write_files(files)
    rows = []
    for importer in chosen:
        found = run(environment(folder, HOMES[importer]), importer, [job for *_, job in jobs], files)
        rows += [
            {"importer": importer, "version": IMPORTERS[importer].version, "model": name, "form": form} | row
            for (name, form, _), row in zip(jobs, found, strict=True)
        ]
        print(f"{importer} done", file=sys.stderr)
    print(markdown(rows))
    return rows


def hold(folder: Path, files: Path, chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Hold the table against the importers; return a row for each importer and file, with what was foretold."""
    jobs = write_variants(files)
    rows = []
    for importer in chosen:
        found = run(environment(folder, HOMES[importer]), importer, [job for _, job, _ in jobs], files)
        for (name, _, foretold), row in zip(jobs, found, strict=True):
            rows.append({"importer": importer, "model": name, "foretold": foretold[importer]} | row)
            if row["trainable"] != foretold[importer]:
                count = f"{row['trainable']}/{row['weights']}"
                print(f"{importer}, {name}: foretold {foretold[importer]}, found {count}: {row.get('error', '')}")
        print(f"{importer} done", file=sys.stderr)
    wrong = sum(row["trainable"] != row["foretold"] for row in rows)
    print(f"{len(rows) - wrong} passed, {wrong} failed")
    return rows


def measure(folder: Path, chosen: Sequence[str]) -> None:
    """Write what the packages register, and their versions, into the table."""
    table = json.loads(TABLE.read_text())
    for importer in chosen:
        command = [environment(folder, HOMES[importer]), HERE / "registered.py", importer]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        row = table["importers"][importer]
        for field in found.keys() - {"version"}:
            before, after = set(row[field]), set(found[field])
            print(
                f"{importer} {found['version']}, {field}: new {sorted(after - before)}, gone {sorted(before - after)}"
            )
        table["importers"][importer] = updated(row, found)
    TABLE.write_text(written(table))


def updated(row: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return an importer's row with what its package says, as of today."""
    unknown = found.keys() - row.keys()
    if unknown:
        raise ValueError(f"a row has no {', '.join(sorted(unknown))}")
    return {**row, **found, "date": datetime.now(UTC).date().isoformat()}


def written(table: Mapping[str, Any]) -> str:
    """Return the table as JSON: a line for each field, wrapped where it is long."""

    def block(name: str, rows: Mapping[str, str]) -> str:
        lines = ",\n".join(f"  {json.dumps(key)}: {row}" for key, row in rows.items())
        return f" {json.dumps(name)}: {{\n{lines}\n }}"

    def fields(row: Mapping[str, Any]) -> str:
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in row.items())
        shape: dict[str, Any] = {"initial_indent": "   ", "subsequent_indent": "    ", "break_on_hyphens": False}
        wrapped = (textwrap.fill(line, 119, **shape) for line in lines)
        return "{\n" + ",\n".join(wrapped) + "\n  }"

    words = [block(name, {key: json.dumps(text) for key, text in table[name].items()}) for name in WORDS]
    rows = ",\n".join(f"  {json.dumps(name)}: {fields(row)}" for name, row in table["importers"].items())
    return "{\n" + ",\n".join([*words, f' "importers": {{\n{rows}\n }}']) + "\n}\n"


def recorded(rows: Sequence[dict[str, Any]]) -> str:
    """Return what was found as JSON: a line for each file, with the weights trained by each importer."""
    versions, dates = (
        {row["importer"]: getattr(IMPORTERS[row["importer"]], field) for row in rows} for field in ("version", "date")
    )
    files: dict[str, dict[str, int]] = {}
    for row in rows:
        files.setdefault(row["model"], {})[row["importer"]] = row["trainable"]
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found)}" for name, found in files.items())
    trained = f'"trained": {{\n{lines}\n }}'
    return f'{{\n "versions": {json.dumps(versions)},\n {trained},\n "dates": {json.dumps(dates)}\n}}\n'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the environments and the files go")
    parser.add_argument("importers", nargs="*", help=f"of {', '.join(HOMES)}; all where none is named")
    parser.add_argument("--measure", action="store_true", help="write what the importers register into the table")
    parser.add_argument("--table", action="store_true", help="hold the table against the importers")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    arguments = parser.parse_intermixed_args()
    folder = arguments.folder.resolve()
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    chosen = arguments.importers or list(HOMES)
    if arguments.measure:
        measure(folder, chosen)
        return 0
    rows = (hold if arguments.table else prove)(folder, files, chosen)
    if arguments.json:
        arguments.json.write_text(recorded(rows) if arguments.table else json.dumps(rows, indent=1) + "\n")
    return int(any(row["trainable"] != row.get("foretold", row["trainable"]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
