"""Random graphs with If, Loop and Scan, and what float64 NumPy says about the files that come out of them.

Nothing here imports `onnx_lsuv`. `control_case(seed)` is the same for the same seed and NumPy. Which branch runs and
how often depends on constants alone, so that a set of batches and all their samples in one batch say the same. Values
have the shape (N, D); weights are (D, D) and shared at random, between scopes as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import oracle
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Array = NDArray[Any]
Batch = dict[str, Array]
D = 6
NOISE = 1e-7  # the part of a squared mean below which float32 has no variance


@dataclass(frozen=True)
class Use:
    """A layer: which weight it uses, the value that the weight gives, and the value with what is added to it."""

    weight: str
    product: str  # the value without its bias; of a Gemm with a bias the same as `output`
    output: str
    bias: str | None = None  # to be taken off `product`


@dataclass
class Case:
    """A model, data in several batches, and what stands where in it."""

    model: ModelProto
    batches: list[Batch]
    options: dict[str, Any]
    uses: dict[str, Use]  # by node name
    norms: dict[str, tuple[str, str, str, str]]  # by node name: what it reads and gives, its mean and its variance

    @property
    def together(self) -> Batch:
        """All samples in one batch."""
        axes = {"x": 0, "xs": 1}
        return {name: np.concatenate([b[name] for b in self.batches], axes[name]) for name in self.batches[0]}


@dataclass
class Maker:
    """A random model in the making."""

    rng: np.random.Generator
    tensors: dict[str, Array] = field(default_factory=dict)
    uses: dict[str, Use] = field(default_factory=dict)
    norms: dict[str, tuple[str, str, str, str]] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    statistics: list[tuple[str, ...]] = field(default_factory=list)
    count: int = 0

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def tensor(self, array: Any, kind: str = "t") -> str:
        name = self.name(kind)
        self.tensors[name] = np.asarray(array)
        return name

    def normal(self, *shape: int, kind: str = "t") -> str:
        return self.tensor(self.rng.standard_normal(shape).astype(np.float32), kind)

    def weight(self) -> str:
        if not self.weights or not self.chance(0.45):
            self.weights.append(self.normal(D, D, kind="W"))
        return str(self.rng.choice(self.weights))

    def layer(self, nodes: list[NodeProto], x: str) -> str:
        name, z, weight = self.name("layer"), self.name("z"), self.weight()
        kind = self.rng.choice(["MatMul", "MatMul", "Gemm", "Add", "Conv"])
        if kind == "Gemm":
            bias = self.normal(D)
            nodes.append(helper.make_node("Gemm", [x, weight, bias], [z], name, transB=int(self.chance(0.5))))
            self.uses[name] = Use(weight, z, z, bias)
            return z
        nodes.append(helper.make_node("MatMul", [x, weight], [z], name))
        y = z
        if kind == "Add":
            y = self.name("y")
            nodes.append(helper.make_node("Add", [z, self.normal(D)], [y]))
        self.uses[name] = Use(weight, z, y)
        return y

    def norm(self, nodes: list[NodeProto], x: str) -> str:
        name, y = self.name("norm"), self.name("n")
        if self.statistics and self.chance(0.2):
            mean, var = self.statistics[0]
        else:
            mean, var = self.normal(D, kind="mean"), self.tensor(self.rng.uniform(0.5, 2, D).astype(np.float32), "var")
            self.statistics.append((mean, var))
        training = int(self.chance(0.5))
        outputs = [y] + [self.name("unread") for _ in range(2 * training)]
        gain = self.tensor(self.rng.uniform(0.5, 1.5, D).astype(np.float32))
        inputs = [x, gain, self.normal(D), mean, var]
        nodes.append(helper.make_node("BatchNormalization", inputs, outputs, name, training_mode=training))
        self.norms[name] = (x, y, mean, var)
        return y

    def chain(self, nodes: list[NodeProto], pool: list[str], depth: int, length: int) -> str:
        """Append some steps that read values of a pool; return the last value."""
        last = pool[-1]
        for _ in range(length):
            x = last if self.chance(0.7) else str(self.rng.choice(pool))
            last = self.step(nodes, x, pool, depth)
            pool.append(last)
        return last

    def step(self, nodes: list[NodeProto], x: str, pool: list[str], depth: int) -> str:
        kinds = (
            ["layer"] * 5 + ["norm"] + ["act"] * 3 + ["join"] * 2 + (["If", "Loop", "Loop", "Scan"] if depth else [])
        )
        kind = self.rng.choice(kinds)
        if kind == "layer":
            return self.layer(nodes, x)
        if kind == "norm":
            return self.norm(nodes, x)
        y = self.name("v")
        if kind == "act":
            nodes.append(helper.make_node(str(self.rng.choice(["Tanh", "Relu", "Sigmoid", "Identity"])), [x], [y]))
        elif kind == "join":
            nodes.append(helper.make_node(str(self.rng.choice(["Add", "Sub"])), [x, str(self.rng.choice(pool))], [y]))
        elif kind == "If":
            branches = {key: self.scope([], pool, depth - 1) for key in ("then_branch", "else_branch")}
            condition = self.tensor(np.array(self.chance(0.5)))
            nodes.append(helper.make_node("If", [condition], [y], self.name("if"), **branches))
        elif kind == "Loop":
            self.loop(nodes, x, pool, depth, y)
        else:
            self.scan(nodes, x, pool, depth, y)
        return y

    def start(self, nodes: list[NodeProto], x: str) -> str:
        """Return what a loop starts with: a value, or zeros of its shape."""
        if self.chance(0.5):
            return x
        zero = self.name("zero")
        nodes.append(helper.make_node("Sub", [x, x], [zero]))
        return zero

    def loop(self, nodes: list[NodeProto], x: str, pool: list[str], depth: int, y: str) -> None:
        states = [self.name("s") for _ in range(int(self.rng.integers(1, 3)))]
        body, inner, again = [], [*pool, *states], self.name("c")
        ends = [self.bounded(body, self.chain(body, inner, depth - 1, int(self.rng.integers(1, 5)))) for _ in states]
        body.append(helper.make_node("Identity", [f"{again}_in"], [again]))
        formals = [helper.make_tensor_value_info(self.name("i"), TensorProto.INT64, [])]
        formals += [helper.make_tensor_value_info(f"{again}_in", TensorProto.BOOL, [])]
        outputs = [helper.make_tensor_value_info(again, TensorProto.BOOL, []), *map(info, ends)]
        graph = helper.make_graph(body, "loop", [*formals, *map(info, states)], outputs)
        given = [self.tensor(np.int64(self.rng.integers(0, 4))), self.tensor(np.array(True))]
        given += [self.start(nodes, x) for _ in states]
        results = [y, *(self.name("unread") for _ in states[1:])]
        nodes.append(helper.make_node("Loop", given, results, self.name("loop"), body=graph))

    def scan(self, nodes: list[NodeProto], x: str, pool: list[str], depth: int, y: str) -> None:
        state, row, body = self.name("s"), self.name("r"), list[NodeProto]()
        end = self.bounded(body, self.chain(body, [*pool, row, state], depth - 1, int(self.rng.integers(1, 6))))
        graph = helper.make_graph(body, "scan", [info(state), info(row)], [info(end)])
        start = self.start(nodes, x)
        nodes.append(helper.make_node("Scan", [start, "xs"], [y], self.name("scan"), body=graph, num_scan_inputs=1))

    def bounded(self, nodes: list[NodeProto], x: str) -> str:
        y = self.name("e")
        nodes.append(helper.make_node("Tanh", [x], [y]))
        return y

    def scope(self, nodes: list[NodeProto], pool: list[str], depth: int) -> GraphProto:
        end = self.chain(nodes, list(pool), depth, int(self.rng.integers(1, 5)))
        made = self.name("o")
        nodes.append(helper.make_node("Identity", [end], [made]))
        return helper.make_graph(nodes, "branch", [], [info(made)])


def info(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", D])


def control_case(seed: int) -> Case:
    """Return a random model with data in several batches."""
    rng = np.random.default_rng(seed)
    maker = Maker(rng)
    nodes: list[NodeProto] = []
    pool = ["x"]
    pool.append(maker.layer(nodes, "x"))
    while maker.count < 60:
        maker.chain(nodes, pool, 2, 2)
    read = {name for node in nodes for name in reads(node)}
    graph = helper.make_graph(
        nodes,
        "random",
        [info("x"), helper.make_tensor_value_info("xs", TensorProto.FLOAT, ["T", "N", D])],
        [info(name) for name in pool[1:] if name not in read],
        [numpy_helper.from_array(array, name) for name, array in maker.tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", int(rng.choice([14, 15, 17, 18])))])
    model.ir_version = 8
    sizes = rng.integers(1, 9, size=int(rng.integers(2, 5))) if rng.random() < 0.7 else np.ones(8, int)
    steps = int(rng.integers(1, 4))
    batches = [
        {
            "x": (rng.standard_normal((n, D)) * rng.uniform(0.2, 3)).astype(np.float32),
            "xs": (rng.standard_normal((steps, n, D)) * rng.uniform(0.2, 3)).astype(np.float32),
        }
        for n in sizes
    ]
    options = {"seed": int(rng.integers(100)), "keep_bias": bool(rng.random() < 0.3), "threads": 1}
    return Case(model, batches, options, maker.uses, maker.norms)


def reads(node: NodeProto) -> set[str]:
    """Return every name that a node or a scope inside it reads."""
    names = set(node.input)
    for inner in oracle.graphs_of(node):
        for each in inner.node:
            names |= reads(each)
        names |= {value.name for value in inner.output}
    return names


def shuffled(model: ModelProto, seed: int) -> ModelProto:
    """Return a model that lists the nodes of every scope in another valid order."""
    rng, copy = np.random.default_rng(seed), ModelProto()
    copy.CopyFrom(model)

    def shuffle(graph: GraphProto) -> None:
        waiting = list(graph.node)
        for node in waiting:
            for inner in oracle.graphs_of(node):
                shuffle(inner)
        order = []
        while waiting:
            unmade = {name for node in waiting for name in node.output}
            ready = [node for node in waiting if unmade.isdisjoint(reads(node))]
            order.append(ready[rng.integers(len(ready))])
            waiting.remove(order[-1])
        kept = [NodeProto.FromString(node.SerializeToString()) for node in order]
        del graph.node[:]
        graph.node.extend(kept)

    shuffle(copy.graph)
    return copy


# -------------------------------------------------------------------------------------------------------- float64


def trace(model: ModelProto, batch: Mapping[str, Array]) -> dict[str, list[Array]]:
    """Return every value of every scope in float64, one array for each time that it is made.

    A BatchNormalization normalises with the stored statistics, whatever its mode.
    """
    made: dict[str, list[Array]] = {}
    known = {t.name: _wide(numpy_helper.to_array(t)) for t in model.graph.initializer}
    _run(model.graph, {**known, **{name: _wide(array) for name, array in batch.items()}}, made)
    return made


def _wide(array: Array) -> Array:
    return array if array.dtype.kind in "iub" else np.asarray(array, np.float64)


def _run(graph: GraphProto, known: dict[str, Array], made: dict[str, list[Array]]) -> list[Array]:
    for value in graph.input:
        made.setdefault(value.name, []).append(known[value.name])
    waiting = list(graph.node)
    while waiting:
        node = next(n for n in waiting if all(name in known for name in n.input) and _ready(n, graph, known))
        waiting.remove(node)
        for name, value in zip(node.output, _apply(node, known, made), strict=False):
            known[name] = value
            made.setdefault(name, []).append(value)
    return [known[value.name] for value in graph.output]


def _ready(node: NodeProto, graph: GraphProto, known: Mapping[str, Array]) -> bool:
    here = {name for other in graph.node for name in other.output}
    return all(name in known for name in reads(node) if name in here)


def _apply(node: NodeProto, known: dict[str, Array], made: dict[str, list[Array]]) -> list[Array]:
    x = [known[name] for name in node.input]
    a = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    match node.op_type:
        case "MatMul":
            return [x[0] @ x[1]]
        case "Gemm":
            return [x[0] @ (x[1].T if a.get("transB") else x[1]) + x[2]]
        case "Add":
            return [x[0] + x[1]]
        case "Mul":
            return [x[0] * x[1]]
        case "Shape":
            return [np.array(x[0].shape)]
        case "Gather":
            return [np.take(x[0], x[1], a.get("axis", 0))]
        case "Constant":
            return [np.array(a["value_int"])]
        case "Cast":
            return [x[0].astype(bool)]
        case "Sub":
            return [x[0] - x[1]]
        case "Tanh":
            return [np.tanh(x[0])]
        case "Relu":
            return [np.maximum(x[0], 0)]
        case "Sigmoid":
            return [1 / (1 + np.exp(-x[0]))]
        case "Identity":
            return [x[0]]
        case "BatchNormalization":
            return [(x[0] - x[3]) / np.sqrt(x[4] + 1e-5) * x[1] + x[2]]
        case "If":
            return _run(a["then_branch" if x[0] else "else_branch"], dict(known), made)
        case "Loop":
            state, names = x[2:], [value.name for value in a["body"].input]
            rows = []
            for i in range(int(x[0].reshape(()))):
                inside = {**known, **dict(zip(names, [np.int64(i), True, *state], strict=True))}
                made_here = _run(a["body"], inside, made)[1:]
                state, more = made_here[: len(state)], made_here[len(state) :]
                rows.append(more)
            return [*state, *map(np.stack, zip(*rows, strict=True))]
        case "Scan":
            (state,), names = x[:1], [value.name for value in a["body"].input]
            for row in x[1]:
                (state,) = _run(a["body"], {**known, names[0]: state, names[1]: row}, made)
            return [state]
    raise NotImplementedError(node.op_type)


def executions(case: Case, model: ModelProto, runs: Sequence[Mapping[str, list[Array]]], node: str) -> list[float]:
    """Return the std of a layer's output over all batches, each time that it ran; NaN where its weight gives none."""
    use = case.uses[node]
    bias = 0.0 if use.bias is None else np.asarray(oracle.tensor_of(model, use.bias), np.float64)
    found = []
    for parts in zip(*(run.get(use.product, []) for run in runs), strict=True):
        product = oracle.pooled([part - bias for part in parts])
        outputs = [run[use.output][len(found)] for run in runs]
        good = product.var > NOISE * product.mean**2
        found.append(float(np.sqrt(oracle.pooled(outputs).var)) if good else float("nan"))
    return found
