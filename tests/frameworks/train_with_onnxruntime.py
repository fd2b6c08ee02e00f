"""From an architecture without weights to a trained file by ONNX Runtime alone: give a classifier of 64 pixels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnxsim import compile_training_loop
from sklearn.datasets import load_digits

pixels, labels = load_digits(return_X_y=True)
order, rng = np.random.default_rng(0).permutation(len(labels)), np.random.default_rng(1)
x, y = ((pixels - pixels.mean()) / pixels.std()).astype(np.float32)[order], labels[order]
known, rows = 1477, 64  # samples to train on, of 1797, and in a batch
np.save("x.npy", x[:256])
command = f"{sys.argv[1]} --data x.npy --output net.onnx --params-out net.json"
subprocess.run([sys.executable, "-m", "onnx_lsuv", *command.split()], check=True)

net = onnx.load("net.onnx")
logits = net.graph.output[0].name
loss = onnx.parser.parse_graph(f"""loss (float[{rows}, 64] {net.graph.input[0].name}, float[{rows}, 10] wanted) =>
    (float loss) <float tiny = {{1e-9}}, float count = {{-{rows}}}> {{ chances = Softmax <axis = -1> ({logits})
    safe = Add (chances, tiny) logs = Log (safe) terms = Mul (logs, wanted) sum = ReduceSum <keepdims = 0> (terms)
    loss = Div (sum, count) }}""")
graph = onnx.helper.make_graph([*net.graph.node, *loss.node], "step", loss.input, loss.output, net.graph.initializer)
graph.initializer.extend(loss.initializer)
whole = onnx.helper.make_model(graph, opset_imports=net.opset_import, ir_version=net.ir_version)
loop = compile_training_loop(whole, "loss", json.loads(Path("net.json").read_text())["requires_grad"])
for _ in range(300):
    at = rng.integers(0, known, rows)
    found = loop({loss.input[0].name: x[at], "wanted": np.eye(10, dtype=np.float32)[y[at]]}, lr=1e-3)
for tensor in (each for each in net.graph.initializer if each.name in loop.params):
    tensor.CopyFrom(onnx.numpy_helper.from_array(loop.parameters()[tensor.name], tensor.name))
onnx.save(net, "net.trained.onnx")
session = onnxruntime.InferenceSession("net.trained.onnx", providers=["CPUExecutionProvider"])
guesses = session.run(None, {loss.input[0].name: x[known:]})[0].argmax(-1)
print("loss", found, "accuracy", (guesses == y[known:]).mean())
