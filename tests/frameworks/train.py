"""Train an ONNX file through one importer: `python train.py IMPORTER JOBS.jsonl`, in that importer's own environment.

Each line of the jobs describes a file (see `prove.py`); a line of JSON with what came of it goes to standard output at
once, so that a crash loses only its own line. Nothing of onnx-lsuv is needed here, and each framework is imported only
by its own function.

A weight counts as trainable where a parameter of the framework held exactly its values (or a permutation of its axes
or rows, as PyTorch orders the gates of an LSTM) before the first step and others after the last: names play no part.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[Any]
BATCH, RATE, STEPS = 64, 1e-3, 100


@dataclass(frozen=True)
class Job:
    """A file, and what to make of it."""

    model: str
    data: str  # .npz with train_x, train_y, test_x, test_y
    weights: tuple[str, ...]  # the layers' weights
    parameters: tuple[str, ...]  # all that is to be trained
    statistics: tuple[str, ...]  # running means and variances
    steps: int = STEPS


@dataclass(frozen=True)
class Net:
    """An imported model."""

    values: Callable[[], Mapping[str, Array]]  # the trainable parameters, copied
    step: Callable[[Array, Array], float]  # one step of Adam; the loss before it
    predict: Callable[[Array], Array]  # logits of a batch


# ---------------------------------------------------------------------------------------------------------- PyTorch


def without_torchvision_kernels() -> None:
    """Let torchvision, built for CUDA, be imported beside a PyTorch without: its fake kernels are never used here."""
    sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))


def _torch_net(net: Any) -> Net:
    import torch  # noqa: PLC0415

    torch.manual_seed(0)
    torch.set_num_threads(1)
    parameters = dict(net.named_parameters())
    optimizer = torch.optim.Adam(parameters.values(), RATE) if parameters else None

    def step(x: Array, y: Array) -> float:
        net.train()
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        assert optimizer is not None
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def predict(x: Array) -> Array:
        net.eval()
        with torch.no_grad():
            return np.asarray(net(torch.from_numpy(x)).numpy())

    return Net(lambda: {k: p.detach().numpy().copy() for k, p in parameters.items()}, step, predict)


def onnx2torch(job: Job, x: Array) -> Net:
    without_torchvision_kernels()
    from onnx2torch import convert  # noqa: PLC0415

    return _torch_net(convert(job.model))


def onnx2pytorch(job: Job, x: Array) -> Net:
    without_torchvision_kernels()
    from onnx2pytorch import ConvertModel  # noqa: PLC0415

    return _torch_net(ConvertModel(onnx.load(job.model)))


# ----------------------------------------------------------------------------------------------- ONNX Runtime Training


def onnxruntime_training(job: Job, x: Array) -> Net:
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.training import artifacts  # noqa: PLC0415
    from onnxruntime.training.api import CheckpointState, Module, Optimizer  # noqa: PLC0415

    folder = Path(tempfile.mkdtemp())
    model = onnx.load(job.model)
    artifacts.generate_artifacts(
        model,
        requires_grad=list(job.parameters),
        frozen_params=list(job.statistics),
        loss=artifacts.LossType.CrossEntropyLoss,
        optimizer=artifacts.OptimType.AdamW,
        artifact_directory=str(folder),
    )
    state = CheckpointState.load_checkpoint(str(folder / "checkpoint"))
    module = Module(str(folder / "training_model.onnx"), state, str(folder / "eval_model.onnx"))
    optimizer = Optimizer(str(folder / "optimizer_model.onnx"), module)
    optimizer.set_learning_rate(RATE)

    def step(x: Array, y: Array) -> float:
        module.train()
        loss = float(module(x, y))
        optimizer.step()
        module.lazy_reset_grad()
        return loss

    def predict(x: Array) -> Array:
        module.export_model_for_inferencing(str(folder / "out.onnx"), [model.graph.output[0].name])
        session = onnxruntime.InferenceSession(str(folder / "out.onnx"), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])

    return Net(lambda: {k: state.parameters[k].data.copy() for k in job.parameters}, step, predict)


# --------------------------------------------------------------------------------------------------------------- JAX


def jaxonnxruntime(job: Job, x: Array) -> Net:
    import jax  # noqa: PLC0415
    import jaxonnxruntime as runtime  # noqa: PLC0415, F401 - registers its operators
    import optax  # noqa: PLC0415
    from jaxonnxruntime import call_onnx  # noqa: PLC0415

    model = onnx.load(job.model)
    source = model.graph.input[0].name
    function, everything = call_onnx.call_onnx_model(model, {source: x})
    current = {k: v for k, v in everything.items() if k in job.parameters}
    frozen = {k: v for k, v in everything.items() if k not in job.parameters}
    adam = optax.adam(RATE)

    def logits(trained: Any, x: Array) -> Any:
        return function({**frozen, **trained}, {source: x})[0]

    @jax.jit
    def update(trained: Any, state: Any, x: Array, y: Array) -> tuple[Any, Any, Any]:
        def loss(trained: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(logits(trained, x), y).mean()

        value, slope = jax.value_and_grad(loss)(trained)
        change, state = adam.update(slope, state, trained)
        return optax.apply_updates(trained, change), state, value

    state = adam.init(current)

    def step(x: Array, y: Array) -> float:
        nonlocal current, state
        current, state, value = update(current, state, x, y.astype(np.int32))
        return float(value)

    return Net(lambda: {k: np.array(v) for k, v in current.items()}, step, lambda x: np.asarray(logits(current, x)))


# ----------------------------------------------------------------------------------------------------------- tinygrad


def tinygrad(job: Job, x: Array) -> Net:
    from tinygrad import Context, Tensor, TinyJit  # noqa: PLC0415
    from tinygrad.nn.onnx import OnnxRunner  # noqa: PLC0415
    from tinygrad.nn.optim import Adam  # noqa: PLC0415

    run = OnnxRunner(job.model)
    (source,), (output,) = list(run.graph_inputs), run.graph_outputs
    weights = {k: run.graph_values[k] for k in job.parameters if k in run.graph_values}
    for name, tensor in weights.items():
        run.graph_values[name] = weights[name] = Tensor(tensor.numpy()).contiguous().realize()
    optimizer = Adam(list(weights.values()), lr=RATE) if weights else None

    @TinyJit
    def update(x: Any, y: Any) -> Any:
        assert optimizer is not None
        optimizer.zero_grad()
        loss = run({source: x})[output].sparse_categorical_crossentropy(y).backward()
        return loss.realize(*optimizer.schedule_step())

    def step(x: Array, y: Array) -> float:
        with Context(TRAINING=1):
            return float(update(Tensor(x), Tensor(y.astype(np.int32))).item())

    def predict(x: Array) -> Array:
        return np.asarray(run({source: Tensor(x)})[output].numpy())

    return Net(lambda: {k: v.numpy().copy() for k, v in weights.items()}, step, predict)


# -------------------------------------------------------------------------------------------------------------- Keras


def onnx2keras(job: Job, x: Array) -> Net:
    import keras  # noqa: PLC0415
    import tensorflow  # noqa: PLC0415
    from onnx2keras import onnx_to_keras  # noqa: PLC0415

    keras.utils.set_random_seed(0)
    model = onnx.load(job.model)
    images = x.ndim == 4  # TensorFlow's convolutions on a CPU want the channels last
    net = onnx_to_keras(model, [model.graph.input[0].name], verbose=False, change_ordering=images)
    optimizer = keras.optimizers.Adam(RATE)
    objective = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def seen(x: Array) -> Array:
        return x.transpose(0, 2, 3, 1) if images else x

    @tensorflow.function
    def update(x: Any, y: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            loss = objective(y, net(x, training=True))
        optimizer.apply_gradients(
            zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables, strict=True)
        )
        return loss

    return Net(
        lambda: {f"{i}": v.numpy().copy() for i, v in enumerate(net.trainable_variables)},
        lambda x, y: float(update(seen(x), y)),
        lambda x: np.asarray(net(seen(x), training=False)),
    )


def onnx2tf(job: Job, x: Array) -> Net:
    import tensorflow  # noqa: PLC0415
    import tf_keras  # noqa: PLC0415
    from onnx2tf import convert  # noqa: PLC0415

    with contextlib.redirect_stdout(sys.stderr):
        net = convert(onnx_graph=onnx.load(job.model), non_verbose=True, disable_model_save=True)
    optimizer, images = tf_keras.optimizers.Adam(RATE), x.ndim == 4

    def logits(x: Array, training: bool) -> Any:
        return net(x.transpose(0, 2, 3, 1) if images else x, training=training)

    def step(x: Array, y: Array) -> float:
        with tensorflow.GradientTape() as tape:
            loss = tf_keras.losses.sparse_categorical_crossentropy(y, logits(x, True), from_logits=True)
            loss = tensorflow.reduce_mean(loss)
        optimizer.apply_gradients(
            zip(tape.gradient(loss, net.trainable_variables), net.trainable_variables, strict=True)
        )
        return float(loss)

    return Net(
        lambda: {f"{i}": v.numpy().copy() for i, v in enumerate(net.trainable_variables)},
        step,
        lambda x: np.asarray(logits(x, False)),
    )


# ------------------------------------------------------------------------------------------------------------- onnxsim

# onnxsim differentiates every node of the file, so the loss is written out in operators that it knows.
LOSS = """entropy (float[{rows}, 10] {logits}, float[{rows}, 10] wanted) => (float loss)
<float tiny = {{1e-9}}, float count = {{-{rows}}}> {{
    chances = Softmax <axis = -1> ({logits})
    safe = Add (chances, tiny)
    logs = Log (safe)
    terms = Mul (logs, wanted)
    sum = ReduceSum <keepdims = 0> (terms)
    loss = Div (sum, count)
}}"""


def onnxsim(job: Job, x: Array) -> Net:
    import onnxruntime  # noqa: PLC0415
    from onnxsim import compile_training_loop  # noqa: PLC0415

    model, whole = onnx.load(job.model), onnx.load(job.model)
    graph, source = whole.graph, whole.graph.input[0]
    whole.ir_version = max(whole.ir_version, 4)  # below, what the loss adds would have to be listed
    source.CopyFrom(onnx.helper.make_tensor_value_info(source.name, onnx.TensorProto.FLOAT, x.shape))
    loss = onnx.parser.parse_graph(LOSS.format(rows=BATCH, logits=graph.output[0].name))
    graph.node.extend(loss.node)
    graph.initializer.extend(loss.initializer)
    graph.input.extend(loss.input[1:])
    graph.output[0].CopyFrom(loss.output[0])
    loop = compile_training_loop(whole, "loss", job.parameters)
    start = {k: v for k, v in loop.initial_state.items() if k in job.parameters}

    def predict(x: Array) -> Array:
        values = loop.parameters()
        for tensor in model.graph.initializer:
            if tensor.name in values:
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {source.name: x})[0])

    return Net(
        lambda: {k: v.copy() for k, v in (loop.parameters() if loop.compiled else start).items()},
        lambda x, y: loop({source.name: x, "wanted": np.eye(10, dtype=np.float32)[y]}, lr=RATE),
        predict,
    )


IMPORTERS: dict[str, Callable[[Job, Array], Net]] = {
    "onnx2torch": onnx2torch,
    "onnx2pytorch": onnx2pytorch,
    "onnxruntime-training": onnxruntime_training,
    "jaxonnxruntime": jaxonnxruntime,
    "tinygrad": tinygrad,
    "onnx2keras": onnx2keras,
    "onnxsim": onnxsim,
    "onnx2tf": onnx2tf,
}


# -------------------------------------------------------------------------------------------------------------- a job


def difference(wanted: Array, found: Array) -> float:
    """Return the largest difference, for the order of axes or rows that fits best; infinite where the sizes differ."""
    if wanted.size != found.size:
        return float("inf")
    best = float("inf")
    for perm in itertools.permutations(range(wanted.ndim)):
        moved = wanted.transpose(perm)
        if moved.shape == found.shape:
            best = min(best, float(np.abs(moved - found).max(initial=0.0)))
    if wanted.ndim and found.ndim and wanted.shape[-1] == found.shape[-1] > 1:
        one, other = (a.reshape(-1, a.shape[-1])[np.lexsort(a.reshape(-1, a.shape[-1]).T)] for a in (wanted, found))
        best = min(best, float(np.abs(one - other).max(initial=0.0)))
    return best


def matched(
    initial: Mapping[str, Array], weights: Sequence[str], start: Mapping[str, Array], end: Mapping[str, Array]
) -> tuple[int, float]:
    """Return how many weights are trained, and how far their parameters were from them before the first step."""
    moved = {k for k in start if not np.array_equal(start[k], end[k])}
    count, worst = 0, 0.0
    for name in weights:
        nearest = min((difference(initial[name], start[k]) for k in moved), default=float("inf"))
        if nearest < 1e-3:
            count, worst = count + 1, max(worst, nearest)
    return count, worst


def train(importer: str, job: Job) -> dict[str, Any]:
    """Import, train and test a file; return what was seen, or the error under `error`."""
    data = np.load(job.data)
    model = onnx.load(job.model)
    initial = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    row: dict[str, Any] = {"trainable": 0, "weights": len(job.weights), "of": len(job.parameters), "trained": 0}
    try:
        net = IMPORTERS[importer](job, data["train_x"][:BATCH])
        start = net.values()
        if not start:
            return row | {"error": "no parameter to train"}
        order = np.random.default_rng(1)
        losses = []
        for _ in range(job.steps):
            chosen = order.choice(len(data["train_x"]), BATCH, replace=False)
            losses.append(net.step(data["train_x"][chosen], data["train_y"][chosen]))
        end = net.values()
        row["trained"] = sum(not np.array_equal(start[k], end[k]) for k in start)
        row["trainable"], row["difference"] = matched(initial, job.weights, start, end)
        row["first"], row["last"] = losses[0], float(np.mean(losses[-10:]))
        if not np.isfinite(row["last"]):
            return row | {"trainable": 0, "error": "the loss is not finite"}
        halves = np.split(data["test_x"], len(data["test_x"]) // BATCH)
        guesses = np.concatenate([net.predict(x).argmax(-1) for x in halves])
        row["accuracy"] = float((guesses == data["test_y"]).mean())
    except Exception as error:  # what an importer raises is the finding
        row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
    return row


def main(importer: str, jobs: Path) -> None:
    for line in jobs.read_text().splitlines():
        print(json.dumps(train(importer, Job(**json.loads(line)))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
