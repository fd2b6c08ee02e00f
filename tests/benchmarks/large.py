"""A decoder larger than memory, through the whole command: its memory, its time, and what a kill leaves behind.

    python tests/benchmarks/large.py --folder FOLDER [--layers 32] [--width 4096] [--memory 3G] [--json PATH]

The model is made layer by layer in float16, its values in one external file: 32 layers of 4096 have 6.7 billion
parameters, 13.5 GB, and FOLDER needs three times as much; all is removed at the end. What the command cannot do without
is measured alone, before and after it: the draw of each shape of weight, one read and one write of the file, and two
forward passes of a plain ONNX Runtime session, by models of one layer and of two. Then the command is run once more,
and ended by SIGTERM after half of its time. Linux only.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter, process_time, sleep

import numpy as np
from machine import describe
from onnx import TensorProto, helper, numpy_helper, save_model
from processes import ROOT, run_command, run_side
from rows import Bar, Group, Row, as_markdown

HEAD, TOKENS, SAMPLES, VOCABULARY = 128, 128, 4, 32000
GROUP = Group(
    "large",
    "A decoder in float16, external data: drawn, calibrated on 4 x 128 tokens, saved, verified",
    "command",
    "alone, GB of model",
    "ratio, GB of memory",
    "ratio of CPU time",
)
CHUNK = 1 << 24
COPIED = 2 * 10**9  # bytes of the file that are read and written to find the rates
GIGABYTE = 1e9
Times = tuple[float, float]  # seconds: by the clock, and of all cores


class Decoder:
    """A file that grows layer by layer: norms of mean squares, attention without positions, gated units."""

    def __init__(self, path: Path, width: int, layers: int, vocabulary: int = VOCABULARY) -> None:
        self.path, self.width, self.layers, self.vocabulary = path, width, layers, vocabulary
        self.inner = -(-width * 43 // 16 // 64) * 64
        self.data = path.with_name(f"{path.name}.data")
        self.nodes, self.initializers, self.shapes = [], [], Counter()
        self.rng = np.random.default_rng(0)
        # One row of chance, cut anew for each weight: making as much as the file has takes longer than writing it.
        self.values = self.rng.standard_normal((1 << 24) + 9973, dtype=np.float32).astype(np.float16)

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, values: object, dtype: type = np.float16) -> str:
        if all(tensor.name != name for tensor in self.initializers):
            self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Write a tensor to the file of values, in pieces that the system need not keep in memory."""
        self.file.write(bytes(-self.file.tell() % 4096))
        start, left = self.file.tell(), shape[0] * shape[1]
        while left:
            first = int(self.rng.integers(9973))
            piece = self.values[first : first + min(left, 1 << 24)]
            self.file.write((piece * np.float16(shape[0] ** -0.5)).data)
            left -= piece.size
        drop(self.file.fileno())
        length = 2 * shape[0] * shape[1]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT16, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", self.data.name), ("offset", start), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
        return name

    def linear(self, x: str, name: str, fan_in: int, out: int) -> str:
        self.shapes[out, fan_in] += 1
        return self.node("MatMul", x, self.weight(f"{name}.weight", fan_in, out))

    def norm(self, x: str, name: str) -> str:
        wide = self.node("Cast", x, to=TensorProto.FLOAT)
        mean = self.node("ReduceMean", self.node("Mul", wide, wide), axes=[-1])
        root = self.node("Sqrt", self.node("Add", mean, self.constant("epsilon", 1e-6, np.float32)))
        scaled = self.node("Cast", self.node("Div", wide, root), to=TensorProto.FLOAT16)
        return self.node("Mul", scaled, self.constant(f"{name}.weight", np.ones(self.width)))

    def attention(self, x: str, name: str) -> str:
        heads = self.constant("heads", [0, 0, self.width // HEAD, HEAD], np.int64)
        query, key, value = (
            self.node(
                "Transpose",
                self.node("Reshape", self.linear(x, f"{name}.{each}_proj", self.width, self.width), heads),
                perm=[0, 2, 3, 1] if each == "k" else [0, 2, 1, 3],
            )
            for each in "qkv"
        )
        scores = self.node("Mul", self.node("MatMul", query, key), self.constant("scale", HEAD**-0.5))
        future = np.triu(np.full((TOKENS, TOKENS), -60000), 1)
        scores = self.node("Softmax", self.node("Add", scores, self.constant("future", future)), axis=-1)
        mixed = self.node("Transpose", self.node("MatMul", scores, value), perm=[0, 2, 1, 3])
        mixed = self.node("Reshape", mixed, self.constant("together", [0, 0, self.width], np.int64))
        return self.linear(mixed, f"{name}.o_proj", self.width, self.width)

    def gated(self, x: str, name: str) -> str:
        gate, up = (self.linear(x, f"{name}.{each}_proj", self.width, self.inner) for each in ("gate", "up"))
        gate = self.node("Mul", gate, self.node("Sigmoid", gate))
        return self.linear(self.node("Mul", gate, up), f"{name}.down_proj", self.inner, self.width)

    def write(self) -> "Decoder":
        """Write both files."""
        with self.data.open("wb") as self.file:
            x = self.node("Gather", self.weight("model.embed_tokens.weight", self.vocabulary, self.width), "tokens")
            for i in range(self.layers):
                layer = f"model.layers.{i}"
                x = self.node("Add", x, self.attention(self.norm(x, f"{layer}.input_norm"), f"{layer}.self_attn"))
                x = self.node("Add", x, self.gated(self.norm(x, f"{layer}.mlp_norm"), f"{layer}.mlp"))
            logits = self.linear(self.norm(x, "model.norm"), "lm_head", self.width, self.vocabulary)
        assert logits == self.nodes[-1].output[0]
        self.nodes[-1].output[0] = "logits"
        tokens = helper.make_tensor_value_info("tokens", TensorProto.INT64, ["N", TOKENS])
        out = helper.make_tensor_value_info("logits", TensorProto.FLOAT16, ["N", TOKENS, self.vocabulary])
        graph = helper.make_graph(self.nodes, "decoder", [tokens], [out], self.initializers)
        opsets = [helper.make_opsetid("", 17)]
        save_model(helper.make_model(graph, ir_version=8, opset_imports=opsets, producer_name="benchmarks"), self.path)
        return self

    @property
    def size(self) -> int:
        return self.data.stat().st_size

    @property
    def parameters(self) -> float:
        return self.size / 2

    def remove(self) -> None:
        for path in (self.path, self.data):
            path.unlink(missing_ok=True)


def tokens_in(folder: Path, vocabulary: int = VOCABULARY) -> Path:
    """A file of samples."""
    path = folder / "tokens.npy"
    np.save(path, np.random.default_rng(1).integers(0, vocabulary, (SAMPLES, TOKENS)))
    return path


def drop(descriptor: int) -> None:
    """Write a file out and let the system forget its pages, which other work on the machine may need more."""
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def draws(decoder: Decoder) -> dict[str, Times]:
    """What drawing all weights takes, by shape."""
    found = {}
    for (out, fan_in), count in decoder.shapes.items():
        (ran,) = run_side("draw", f"1x{out}x{fan_in}", "--alone").account()["ours"]
        found[f"{count} of ({out}, {fan_in})"] = count * ran["wall"], count * ran["cpu"]
    return found


def copying(path: Path) -> Times:
    """What one read and one write of a file take, from a part of it."""
    size, done, start, cpu = path.stat().st_size, 0, perf_counter(), process_time()
    with path.open("rb") as source, tempfile.TemporaryFile(dir=path.parent) as target:
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while done < COPIED and (piece := source.read(CHUNK)):
            done += target.write(piece)
        target.flush()
        os.fsync(target.fileno())
        seconds, cpu = perf_counter() - start, process_time() - cpu
        for file in (source, target):
            drop(file.fileno())
    return seconds * size / done, cpu * size / done


def forwards(folder: Path, tokens: Path, width: int, layers: int) -> Times:
    """What two forward passes take by a plain session, from those of one layer and of two."""
    found = []
    for count in (1, 2):
        small = Decoder(folder / "small.onnx", width, count).write()
        ran = run_side("plain", small.path, tokens).account()
        found.append((ran["forward"], ran["forward cpu"]))
        small.remove()
    wall, cpu = (2 * (one + (layers - 1) * max(0.0, two - one)) for one, two in zip(*found, strict=True))
    return wall, cpu


def ended(decoder: Decoder, tokens: Path, memory: str, after: float) -> dict[str, object]:
    """End a run by SIGTERM after so many seconds; say what that took, and what is there that was not there before."""
    folder = decoder.path.parent
    before, free = set(folder.iterdir()), shutil.disk_usage(folder).free
    status = [(path.stat().st_mtime_ns, path.stat().st_size) for path in (decoder.path, decoder.data)]
    command = [*command_of(decoder, tokens, memory), "-o", folder / "out.onnx"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
    sleep(after)
    start = perf_counter()
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    return {
        "after": after,
        "seconds": perf_counter() - start,
        "status": process.returncode,
        "said": said.strip(),
        "left": sorted(path.name for path in set(folder.iterdir()) - before),
        "bytes gone": max(0, free - shutil.disk_usage(folder).free),
        "input as it was": status == [(p.stat().st_mtime_ns, p.stat().st_size) for p in (decoder.path, decoder.data)],
    }


def command_of(decoder: Decoder, tokens: Path, memory: str) -> list[str | Path]:
    return [sys.executable, "-m", "onnx_lsuv", decoder.path, "--data", tokens, "--memory", memory, "--device", "cpu"]


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[Row], dict[str, object]]:
    tokens = tokens_in(folder)
    start = perf_counter()
    decoder = Decoder(folder / "decoder.onnx", args.width, args.layers).write()
    name, title = f"large/{decoder.parameters / 1e9:.2g}", f"{decoder.parameters / 1e9:.2f} billion parameters"
    told: dict[str, object] = {"made": perf_counter() - start, "bytes": decoder.size}
    say(f"{title}, {decoder.size / GIGABYTE:.1f} GB, made in {told['made']:.0f} s")
    alone = [rates(decoder, folder, tokens)]
    ran = run_command(decoder.path, tokens, "--memory", args.memory, "--format", "json", look=True)
    say(f"the command took {ran.wall:.0f} s, {ran.memory['not files'] / GIGABYTE:.2f} GB that no file backs")
    alone.append(rates(decoder, folder, tokens))
    wall, cpu = (sum(times[i] for each in alone for times in each.values()) / len(alone) for i in (0, 1))
    told |= {"alone": alone, "phases": json.loads(ran.output)["seconds"], "peaks": ran.memory}
    if not args.no_kill:
        told["ended"] = ended(decoder, tokens, args.memory, ran.wall / 2)
        say(f"ended half-way: {told['ended']}")
    memory = ran.memory["not files"] / GIGABYTE
    return [
        Row(f"{name}/time", f"{title}: seconds", ran.wall, wall, ran.wall / wall, ran.cpu / cpu, Bar(1.5), ran.missed),
        Row(f"{name}/memory", f"{title}: GB of memory", memory, told["bytes"] / GIGABYTE, memory, bar=Bar(4)),
    ], told


def rates(decoder: Decoder, folder: Path, tokens: Path) -> dict[str, Times]:
    """What cannot be done without, each alone."""
    found = draws(decoder)
    found["read and write"] = copying(decoder.data)
    found["two forward passes"] = forwards(folder, tokens, decoder.width, decoder.layers)
    say(f"alone: {found}")
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096, help="a multiple of 128")
    parser.add_argument("--memory", default="3G", help="what the command is given")
    parser.add_argument("--no-kill", action="store_true", help="without the run that is ended")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write every number there")
    parser.add_argument("--folder", type=Path, help="for the model; it is removed (default: the system's own)")
    args = parser.parse_args()
    machine = describe()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        rows, told = measure(args, Path(folder))
    if args.json:
        document = {"machine": machine, "rows": [row.document() for row in rows], **told}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    print(as_markdown([GROUP], rows, machine))


if __name__ == "__main__":
    main()
