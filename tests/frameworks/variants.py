"""The classifiers in the many forms that decide what an importer takes, to hold the table `importers.py` against."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
from classifiers import Net, convolutional, mlp, transformer
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import onnx_lsuv
from onnx_lsuv.portable import make_portable

Change = Callable[[ModelProto], None]


def changed(build: Callable[[], ModelProto], *changes: Change) -> Callable[[], ModelProto]:
    """Return a builder that changes what another one builds."""

    def make() -> ModelProto:
        model = build()
        for change in changes:
            change(model)
        return model

    return make


def written_for(opset: int) -> Change:
    """Raise or lower the opset; nodes whose axes became an input get them so."""

    def change(model: ModelProto) -> None:
        model.opset_import[0].version = opset
        for node in model.graph.node if opset >= 18 else ():
            axes = [a for a in node.attribute if a.name == "axes"]
            if node.op_type == "ReduceMean" and axes:
                values = np.asarray(axes[0].ints, np.int64)
                node.attribute.remove(axes[0])
                node.input.append(f"{node.name}.axes")
                model.graph.initializer.append(numpy_helper.from_array(values, f"{node.name}.axes"))

    return change


def ir_version(version: int) -> Change:
    def change(model: ModelProto) -> None:
        model.ir_version = version

    return change


def initializers_listed(model: ModelProto) -> None:
    for t in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))


def weights_as_constants(model: ModelProto) -> None:
    for t in list(model.graph.initializer):
        model.graph.node.insert(0, helper.make_node("Constant", [], [t.name], f"{t.name}.constant", value=t))
    del model.graph.initializer[:]


def weights_behind(op: str, rank: int = 2) -> Change:
    """Put an operator between each matrix, or kernel, and its layer."""

    def change(model: ModelProto) -> None:
        for t in list(model.graph.initializer):
            if len(t.dims) != rank:
                continue
            values = numpy_helper.to_array(t)
            moved = values.T.copy() if op == "Transpose" else values
            t.CopyFrom(numpy_helper.from_array(moved.astype(np.float16) if op == "Cast" else moved, t.name))
            attributes = {"Transpose": {"perm": [1, 0]}, "Cast": {"to": TensorProto.FLOAT}}.get(op, {})
            for node in model.graph.node:
                node.input[:] = [f"{t.name}.moved" if name == t.name else name for name in node.input]
            moving = helper.make_node(op, [t.name], [f"{t.name}.moved"], f"{t.name}.move", **attributes)
            model.graph.node.insert(0, moving)

    return change


def in_type(elem_type: int) -> Change:
    """Compute in another floating-point type; input and output stay float32."""

    def change(model: ModelProto) -> None:
        dtype = helper.tensor_dtype_to_np_dtype(elem_type)
        for t in model.graph.initializer:
            if t.data_type == TensorProto.FLOAT:
                t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(t).astype(dtype), t.name))
        for node in model.graph.node:
            node.input[:] = ["typed" if name == "image" else name for name in node.input]
            node.output[:] = ["typed.logits" if name == "logits" else name for name in node.output]
        model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["typed"], "cast1", to=elem_type))
        model.graph.node.append(helper.make_node("Cast", ["typed.logits"], ["logits"], "cast2", to=TensorProto.FLOAT))

    return change


def after(
    op: str, name: str, *, inputs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **attributes: object
) -> Change:
    """Put a node behind the first Relu."""

    def change(model: ModelProto) -> None:
        at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
        source = model.graph.node[at].output[0]
        for node in model.graph.node:
            node.input[:] = [f"{name}.out" if each == source else each for each in node.input]
        node = helper.make_node(op, [source, *inputs], [f"{name}.out", *outputs], name, **attributes)
        model.graph.node.insert(at + 1, node)

    return change


def norm_attribute(name: str, value: int, *outputs: str) -> Change:
    def change(model: ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "BatchNormalization":
                node.attribute.append(helper.make_attribute(name, value))
                node.output.extend(f"{node.name}.{each}" for each in outputs)

    return change


def tensor(name: str, values: object) -> Change:
    def change(model: ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))

    return change


def layer_outputs(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.output.extend([f"{node.name}.mean", f"{node.name}.deviation"])


def same_names(model: ModelProto) -> None:
    for node in model.graph.node:
        node.name = "node"


def no_names(model: ModelProto) -> None:
    for node in model.graph.node:
        node.name = ""


def imports(domain: str) -> Change:
    def change(model: ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid(domain, 1))

    return change


def standard_domain_spelt(model: ModelProto) -> None:
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"


def no_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def open_length(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()


def first_weight_sparse(model: ModelProto) -> None:
    t = model.graph.initializer[0]
    values = numpy_helper.to_array(t)
    flat = numpy_helper.from_array(values.reshape(-1), t.name)
    index = numpy_helper.from_array(np.arange(values.size), f"{t.name}.index")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(flat, index, list(values.shape)))
    model.graph.initializer.remove(t)


def relu_as_function(model: ModelProto) -> None:
    body: list[NodeProto] = [helper.make_node("Relu", ["x"], ["y"], "inner")]
    function: FunctionProto = helper.make_function("own", "Own", ["x"], ["y"], body, [model.opset_import[0]])
    model.functions.append(function)
    imports("own")(model)
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type, node.domain = "Own", "own"


def softmax_at_the_end(model: ModelProto) -> None:
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "raw"
    model.graph.node.append(helper.make_node("Softmax", ["raw"], ["logits"], "softmax", axis=-1))


def gemm_factor(model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Gemm":
            node.attribute.append(helper.make_attribute("beta", 0.5))


def gemm_bias_matrix(model: ModelProto) -> None:
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm"}
    for t in model.graph.initializer:
        if t.name in biases:
            t.dims.insert(0, 1)


def second_use(model: ModelProto) -> None:
    """Use the second layer's weight, 128 x 64, twice: there and back again."""
    at = next(i for i, node in enumerate(model.graph.node) if node.name == "fc2.matmul")
    node = model.graph.node[at]
    source, weight = node.input[0], node.input[1]
    node.input[0] = "twice"
    model.graph.node.insert(at, helper.make_node("Transpose", [weight], ["back"], "back", perm=[1, 0]))
    model.graph.node.insert(at, helper.make_node("MatMul", ["once", "back"], ["twice"], "again"))
    model.graph.node.insert(at, helper.make_node("MatMul", [source, weight], ["once"], "first"))
    ordered = sorted(range(at, at + 3), key=lambda i: ["first", "back", "again"].index(model.graph.node[i].name))
    chosen = [model.graph.node[i] for i in ordered]
    copies = [NodeProto.FromString(each.SerializeToString()) for each in chosen]
    for i, each in enumerate(copies):
        model.graph.node[at + i].CopyFrom(each)


def reshaped(*, constant: bool, allowzero: int = 0) -> Callable[[], ModelProto]:
    """A convolutional network with Reshape for Flatten, its shape an initializer or a Constant."""

    def build() -> ModelProto:
        model = convolutional(norms=False)
        shape = numpy_helper.from_array(np.asarray([-1, 128], np.int64), "shape")
        at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Flatten")
        flatten = model.graph.node[at]
        reshape = helper.make_node("Reshape", [flatten.input[0], "shape"], list(flatten.output), "reshape")
        if allowzero:
            reshape.attribute.append(helper.make_attribute("allowzero", 1))
        flatten.CopyFrom(reshape)
        if constant:
            model.graph.node.insert(0, helper.make_node("Constant", [], ["shape"], "shape.constant", value=shape))
        else:
            model.graph.initializer.append(shape)
        return model

    return build


def last_node_first(model: ModelProto) -> None:
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend([nodes[-1], *nodes[:-1]])


def no_output_shape(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def norms_merged(model: ModelProto) -> None:
    """Give all norms one scale and one bias, as exporters do that merge equal tensors."""
    for node in model.graph.node:
        node.input[:] = [re.sub(r"^(block\d\.)?norm\d?\.(weight|bias)$", r"norm.\2", name) for name in node.input]
    kept = [t for t in model.graph.initializer if not re.match(r"block\d\.norm\d\.(weight|bias)", t.name)]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def recurrent(
    op: str, gates: int, *, states: bool = False, outputs: tuple[str, ...] = ("", "last"), **attributes: object
) -> Callable[[], ModelProto]:
    """The image's rows one after another through a recurrent layer, and a dense layer on its last state."""

    def build() -> ModelProto:
        net, size = Net(), 16
        x = net.node("Transpose", "turned", "image", perm=[1, 0, 2])
        drawn = [net.drawn(f"rnn.{w}", 1, gates * size, n, fan_in=size) for w, n in (("W", 8), ("R", size))]
        given = [net.floats(f"rnn.{s}", np.zeros((1, 64, size))) for s in ("h", "c")] if states else []
        bias = net.drawn("rnn.B", 1, 2 * gates * size, fan_in=size)
        given = ["", *given] if given else []
        operands = [x, *drawn, bias, *given]
        node = helper.make_node(op, operands, outputs, "rnn", hidden_size=size, **attributes)
        net.nodes.append(node)
        x = net.node("Reshape", "joined", "last", net.ints("shape", [-1, size]))
        return net.model(net.gemm(x, "fc", size, 10), ["N", 8, 8])

    return build


def with_operator(op: str, **attributes: object) -> Callable[[], ModelProto]:
    return changed(dense, after(op, "extra", **attributes))


def pooled(op: str) -> Callable[[], ModelProto]:
    """A convolutional network with another pooling."""

    def change(model: ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "MaxPool":
                node.op_type = op

    return changed(lambda: convolutional(norms=False), change)


def weight_on_the_left() -> ModelProto:
    net = Net()
    x = net.node("Transpose", "turned", "image", perm=[1, 0])
    x = net.node("MatMul", "left", net.drawn("left.weight", 32, 64, fan_in=64), x)
    x = net.relu(net.node("Transpose", "back", x, perm=[1, 0]), "relu")
    return net.model(net.gemm(x, "fc", 32, 10), ["N", 64])


def dense() -> ModelProto:
    """Three dense layers as Gemm, which every importer trains."""
    net = Net()
    x = net.relu(net.gemm("image", "fc1", 64, 128), "relu1")
    x = net.relu(net.gemm(x, "fc2", 128, 64), "relu2")
    return net.model(net.gemm(x, "fc3", 64, 10), ["N", 64])


def tokens(*, gemms: bool = False) -> ModelProto:
    """Dense layers on data of three axes, the image's rows, and nothing that mixes the rows but their mean.

    `gemms` writes them as Gemm between two Reshapes.
    """
    net = Net()
    x = "image"
    for i, (features, out) in enumerate([(8, 64), (64, 64)], 1):
        if gemms:
            x = net.node("Reshape", f"join{i}", x, net.ints(f"joined{i}", [-1, features]))
            x = net.gemm(x, f"fc{i}", features, out)
            x = net.node("Reshape", f"part{i}", x, net.ints(f"parted{i}", [-1, 8, out]))
        else:
            x = net.dense(x, f"fc{i}", features, out)
        x = net.relu(
            net.node("Add", f"place{i}", x, net.floats(f"position{i}", net.rng.normal(0, 1, (8, out)))), f"relu{i}"
        )
    x = net.node("ReduceMean", "mean", x, axes=[1], keepdims=0)
    return net.model(net.gemm(x, "head", 64, 10), ["N", 8, 8])


def portable(build: Callable[[], ModelProto]) -> Callable[[], ModelProto]:
    """Return a builder of the portable form of what another one builds."""
    return lambda: onnx.load_from_string(onnx_lsuv.to_bytes(make_portable(onnx_lsuv.from_proto(build())).model))


def cnn() -> ModelProto:
    return convolutional(norms=False)


def cnn_bn() -> ModelProto:
    return convolutional(norms=True)


def written_out() -> ModelProto:
    return transformer(written_out=True)


def written_out_as_gemm() -> ModelProto:
    return transformer(written_out=True, gemms=True)


HALF, DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE
# All of one operand, and without a fault on the outputs of a Relu.
OPERATORS = (
    *("Elu", "Erf", "HardSigmoid", "HardSwish", "LeakyRelu", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "Abs"),
    *("Exp", "LogSoftmax", "Softmax", "Neg", "Sum", "Max", "Min", "Mean", "Cos", "Sin", "Identity", "Celu"),
    *("ThresholdedRelu", "Atan", "LpNormalization", "Flatten"),
)
VARIANTS: dict[str, Callable[[], ModelProto]] = {
    **{f"cnn-bn opset {v}": changed(cnn_bn, written_for(v)) for v in (7, 8, 9, 11, 12, 13, 14, 15, 18, 20, 21, 22, 24)},
    **{f"mlp opset {v}": changed(mlp, written_for(v)) for v in (7, 12, 13, 14, 21, 24)},
    **{f"written-out opset {v}": changed(written_out, written_for(v)) for v in (9, 12, 13, 14, 18, 21)},
    **{f"dense IR {v}": changed(dense, ir_version(v)) for v in (4, 10, 11, 13)},
    "dense IR 3": changed(dense, ir_version(3), initializers_listed),
    "dense initializers listed": changed(dense, initializers_listed),
    "mlp constants": changed(mlp, weights_as_constants),
    "cnn constants": changed(cnn, weights_as_constants),
    "mlp behind Transpose": changed(mlp, weights_behind("Transpose")),
    "mlp behind Identity": changed(mlp, weights_behind("Identity")),
    "mlp behind Identity opset 14": changed(mlp, weights_behind("Identity"), written_for(14)),
    "dense behind Transpose": changed(dense, weights_behind("Transpose")),
    "dense behind Identity": changed(dense, weights_behind("Identity")),
    "dense opset 9": changed(dense, written_for(9)),
    "mlp behind Cast": changed(mlp, weights_behind("Cast")),
    "cnn behind Transpose": changed(cnn, weights_behind("Transpose")),
    "cnn kernels behind Identity": changed(cnn, weights_behind("Identity", 4)),
    "dense half": changed(dense, in_type(HALF)),
    "dense double": changed(dense, in_type(DOUBLE)),
    "dense names twice": changed(dense, same_names),
    "dense no names": changed(dense, no_names),
    "dense unknown import": changed(dense, imports("org.example")),
    "dense com.microsoft import": changed(dense, imports("com.microsoft")),
    "dense ai.onnx": changed(dense, standard_domain_spelt),
    "dense no shape": changed(dense, no_shape),
    "dense open length": changed(dense, open_length),
    "cnn-bn no shape": changed(cnn_bn, no_shape),
    "dense sparse": changed(dense, first_weight_sparse),
    "dense function": changed(dense, relu_as_function),
    "dense softmax": changed(dense, softmax_at_the_end),
    "mlp tied": changed(mlp, second_use),
    "cnn Gemm factor": changed(cnn, gemm_factor),
    "cnn Gemm bias matrix": changed(cnn, gemm_bias_matrix),
    "cnn-bn training_mode 0": changed(cnn_bn, norm_attribute("training_mode", 0)),
    "cnn-bn training_mode 1": changed(cnn_bn, norm_attribute("training_mode", 1, "mean", "var")),
    "dense Dropout": with_operator("Dropout"),
    "dense Dropout ratio": changed(
        dense, tensor("ratio", np.float32(0.1)), after("Dropout", "extra", inputs=("ratio",))
    ),
    "dense Dropout mask": with_operator("Dropout", outputs=("extra.mask",)),
    "dense Dropout training": changed(
        dense,
        tensor("ratio", np.float32(0.1)),
        tensor("mode", np.bool_(True)),
        after("Dropout", "extra", inputs=("ratio", "mode")),
    ),
    "written-out as Gemm": written_out_as_gemm,
    "written-out portable": portable(written_out),
    "written-out portable opset 12": portable(changed(written_out, written_for(12))),
    "transformer portable": portable(lambda: transformer(written_out=False)),
    "tokens": tokens,
    "tokens as Gemm": lambda: tokens(gemms=True),
    "tokens portable": portable(tokens),
    "tokens portable opset 14": portable(changed(tokens, written_for(14))),
    "tokens portable opset 21": portable(changed(tokens, written_for(21))),
    "transformer": lambda: transformer(written_out=False),
    "transformer 3 outputs": changed(lambda: transformer(written_out=False), layer_outputs),
    "cnn Reshape": reshaped(constant=False),
    "cnn Reshape Constant": reshaped(constant=True),
    "cnn Reshape allowzero": reshaped(constant=False, allowzero=1),
    "mlp weight on the left": weight_on_the_left,
    "cnn AveragePool": pooled("AveragePool"),
    "cnn LpPool": pooled("LpPool"),
    "dense Gelu": changed(dense, written_for(20), after("Gelu", "extra")),
    "dense Clip": changed(dense, tensor("low", np.float32(0)), after("Clip", "extra", inputs=("low",))),
    "dense unordered": changed(dense, last_node_first),
    "dense no output shape": changed(dense, no_output_shape),
    "written-out norms merged": changed(written_out, norms_merged),
    "transformer norms merged": changed(lambda: transformer(written_out=False), norms_merged),
    "with LSTM": recurrent("LSTM", 4),
    "with LSTM, all outputs": recurrent("LSTM", 4, outputs=("all", "last", "cell")),
    "with LSTM states": recurrent("LSTM", 4, states=True, outputs=("all", "last", "cell")),
    "with LSTM activations": recurrent("LSTM", 4, activations=["Sigmoid", "Tanh", "Tanh"]),
    "with LSTM states activations": recurrent(
        "LSTM", 4, states=True, outputs=("all", "last", "cell"), activations=["Sigmoid", "Tanh", "Tanh"]
    ),
    "with GRU": recurrent("GRU", 3, linear_before_reset=1),
    "with RNN": recurrent("RNN", 1),
    "dense Elu alpha": with_operator("Elu", alpha=1.0),
    "dense LeakyRelu alpha": with_operator("LeakyRelu", alpha=0.01),
    "dense Softmax axis": with_operator("Softmax", axis=-1),
    "dense Mish": changed(dense, written_for(18), after("Mish", "extra")),
    **{f"dense {op}": with_operator(op) for op in OPERATORS},
}
