"""The models and the data of the cases, as files: a folder a model, and an index a kind.

    MODELS/KIND/index.json     a list of entries: name, data, random; or the whole arguments
    MODELS/KIND/NAME/m.onnx    the model, side files beside it
    MODELS/KIND/NAME/data      a batch a file; or NAME/x.npy, where there is one batch of one input

Nothing here imports `onnx_lsuv`, save through tests/fuzz for the broken models.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
LARGE = 50_000  # values of a sample beyond which two samples do
SAMPLES = 8

Batches = Sequence[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Entry:
    """A model in a folder, and the command's arguments for its data: stored, and drawn."""

    name: str
    data: list[str]
    random: list[str]
    arguments: list[str] | None = None  # these alone, whatever the sets of options


def entries(kind: str, models: Path) -> list[Entry]:
    """Return the entries of a kind, which is made where it is not there."""
    index = models / kind / "index.json"
    if not index.is_file():
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=models) as name:
            made = Path(name) / kind
            made.mkdir()
            found = [entry.__dict__ for entry in KINDS[kind](made)]
            (made / "index.json").write_text(json.dumps(found, indent=0))
            made.rename(models / kind)
    return [Entry(**entry) for entry in json.loads(index.read_text())]


# ------------------------------------------------------------------------------------------------------- each kind


def sample(folder: Path) -> Iterator[Entry]:
    for source in sorted((ROOT / "sample_models").glob("*.onnx")):
        place = new(folder, source.stem)
        shutil.copy(source, place / "m.onnx")
        data = source.with_suffix(".npz" if source.with_suffix(".npz").is_file() else ".npy")
        arrays = np.load(data)
        array = arrays[arrays.files[0]] if data.suffix == ".npz" else arrays
        name = onnx.load(str(source)).graph.input[0].name
        yield Entry(source.stem, **stored(place, [{name: array[:SAMPLES]}]))


def zoo(folder: Path) -> Iterator[Entry]:
    for name in ("squeezenet", "shufflenet", "inception_v1", "inception_v2", "zfnet512"):
        place = new(folder, name)
        shutil.copy(LIGHT / f"light_{name}.onnx", place / "m.onnx")
        (value,) = needed(onnx.load(str(place / "m.onnx")))
        shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
        yield Entry(name, **stored(place, [{value.name: normal(shape, seed)} for seed in range(2)]))


def corpus(folder: Path) -> Iterator[Entry]:
    source = ROOT.parent / "shared" / "corpus"
    if not source.is_dir():
        print(f"no corpus: {source} is not there", file=sys.stderr)
        return
    for entry in json.loads((source / "manifest.json").read_text()):
        name = Path(entry["file"]).stem if entry["file"].count("/") == 0 else entry["file"].partition("/")[0]
        place = new(folder, name)
        shutil.copy(source / entry["file"], place / "m.onnx")
        for side in entry["external_files"]:
            shutil.copy(source / side, place)
        yield Entry(name, **stored(place, batches_of(entry)))


def random(folder: Path) -> Iterator[Entry]:
    yield from generated(folder, "random_graphs", "random_case", 500)


def control(folder: Path) -> Iterator[Entry]:
    yield from generated(folder, "control_graphs", "control_case", 150)


def quantised(folder: Path) -> Iterator[Entry]:
    yield from generated(folder, "quantised_graphs", "case", 100)


def broken(folder: Path) -> Iterator[Entry]:
    module = imported("case", TESTS / "fuzz")
    for number in range(200):
        place = new(folder, f"{number:04}")
        _, arguments = module.make(number, None, place)
        # -vv prints where in the code an error arose.
        yield Entry(place.name, [], [], [word for word in arguments if word != "-vv"])


KINDS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    each.__name__: each for each in (sample, zoo, corpus, random, control, quantised, broken)
}


def generated(folder: Path, module: str, function: str, count: int) -> Iterator[Entry]:
    make = getattr(imported(module, TESTS), function)
    for seed in range(count):
        case = make(seed)
        place = new(folder, f"{seed:04}")
        onnx.save(case.model, str(place / "m.onnx"))
        yield Entry(place.name, **stored(place, case.batches))


# ------------------------------------------------------------------------------------------------------------ data


def stored(place: Path, batches: Batches) -> dict[str, list[str]]:
    """Write batches into a model's folder; return the arguments that name them, and those that draw alike."""
    random = ["--random"]
    for name, array in batches[0].items() if batches else ():
        random += ["--shape", f"{name}={','.join(map(str, array.shape))}"] if array.ndim else []
    if len(batches) == 1 and len(batches[0]) == 1:
        (array,) = batches[0].values()
        np.save(place / "x.npy", array)
        return {"data": ["-d", "x.npy"], "random": random}
    (place / "data").mkdir()
    for number, batch in enumerate(batches):
        np.savez(place / "data" / f"{number:02}.npz", **batch)  # type: ignore[arg-type]
    return {"data": ["-d", "data"] if batches else ["--random"], "random": random}


def batches_of(entry: dict[str, Any]) -> Batches:
    """Return one batch of samples where a model of the corpus takes more than one at a time, else several."""
    ort = entry.get("ort") or {}
    inputs = ort.get("inputs") or {}
    size = max((int(np.prod(value["shape"])) for value in inputs.values()), default=0)
    samples = 2 if size > LARGE else SAMPLES
    if not inputs:
        return []
    if not ort.get("batch4"):
        return [
            {n: draw(v, v["shape"], 100 * b + i) for i, (n, v) in enumerate(inputs.items())} for b in range(samples)
        ]
    more = ort["inputs_batch4"]
    batch = {}
    for i, (name, value) in enumerate(inputs.items()):
        wide = more.get(name, value["shape"])
        shape = [samples if (a, b) == (1, 4) else a for a, b in zip(value["shape"], wide, strict=True)]
        batch[name] = draw(value, shape, i)
    return [batch]


def draw(info: dict[str, Any], shape: Sequence[int], seed: int) -> np.ndarray:
    """Draw what the manifest says: floats standard normal, integers between its bounds, strings alike."""
    dtype = info["dtype"]
    if dtype == "string":
        return np.full(shape, "word")
    if dtype.startswith("float"):
        return normal(shape, seed).astype(dtype)
    low, high = (0, 1) if dtype == "bool" else (info["min"], info["max"])
    return np.asarray(np.random.default_rng(seed).integers(low, high + 1, shape)).astype(dtype)


def normal(shape: Sequence[int], seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def needed(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that nothing in the model gives a value."""
    given = {tensor.name for tensor in model.graph.initializer}
    made = {node.output[0] for node in model.graph.node if node.op_type == "ConstantOfShape"}
    return [value for value in model.graph.input if value.name not in given | made]


def new(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    return place


def imported(name: str, *folders: Path) -> Any:
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    return __import__(name)
