"""The importers that train ONNX files, and what each of them asks of a file: the one table of what trains where.

Each entry says which version it holds for and when that was measured. The operators of onnx2torch, onnx2pytorch,
jaxonnxruntime, tinygrad and onnx2keras are those that the packages register; ONNX Runtime Training runs every operator
and goes back through those for which it has a gradient. `tests/frameworks` holds this table against the packages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KINDS: dict[str, str] = {
    # the file is refused, or cannot be trained
    "opset": "the opset is outside what the importer reads",
    "ir": "the IR version is outside what the importer reads",
    "operator": "the importer lacks an operator, or this version of it",
    "gradient": "the importer cannot train through an operator",
    "domains": "the file imports an operator set that the importer refuses",
    "domain": "the standard operator set is written ai.onnx instead of the empty name",
    "functions": "the file has functions of its own",
    "sparse": "the file has sparse initializers",
    "type": "the floating-point type is not float32",
    "inputs": "initializers are listed among the inputs",
    "names": "nodes share a name",
    "order": "a node stands before one that it reads from",
    "shape": "an input or output has no shape",
    "open": "an input has a length with neither value nor name",
    "outputs": "an operator has optional outputs, or lacks them, where the importer wants it otherwise",
    "training": "a BatchNormalization or Dropout is in training form",
    "static": "a shape, or the like, is made by a node instead of an initializer",
    "rows": "a Reshape joins the first axis, that of the samples, with another one, or parts it",
    "operand": "an operator has its weight, or another operand, where the importer does not look for it",
    # a weight stays a constant
    "buffer": "the importer keeps the weight of this operator as a constant",
    "path": "the weight reaches its layer through other operators",
    "scope": "the weight stands in an inner graph or a function",
    # worth knowing, and no obstacle
    "wrong": "the importer ignores it, so that its outputs differ",
    "bias": "biases that an Add adds stay constants",
    "norm": "scales and biases of norms stay constants",
    "tied": "a weight that several layers share becomes a copy for each",
    "frozen": "running statistics are never updated: they stay as calibrated",
    "momentum": "the momentum of running statistics is taken the other way round: nearly the last batch alone counts",
    "softmax": "the output is a probability: the loss has to take its logarithm, or cut the last operator off",
    "folded": "BatchNormalizations seem to have been folded into convolutions, and cannot come back",
}


@dataclass(frozen=True, slots=True, eq=False)
class Importer:
    """What an importer reads and trains, as measured.

    opsets, ir:  the lowest and highest version read; None: no limit of its own.
    operators:   for each operator the versions (`since_version`) it reads, empty for any; None: every operator.
    versions:    whether an operator's version has to be one of these.
    domains:     operator sets that a file may import; None: any.
    gradients:   operators that training can go back through; None: all that `impassable` does not name.
    parameters:  operators whose weight becomes a parameter; None: every initializer of the main graph does.
    direct:      whether the weight has to be the operator's own operand, with nothing in between.
    refuses:     what in a file stops it (keys of `trains.traits`).
    remarks:     what in a file is worth a note (likewise).
    """

    name: str
    version: str
    framework: str
    date: str
    opsets: tuple[int, int] | None = None
    ir: tuple[int, int] | None = None
    operators: Mapping[str, frozenset[int]] | None = None
    versions: bool = False
    domains: frozenset[str] | None = None
    gradients: frozenset[str] | None = None
    impassable: frozenset[str] = frozenset()
    parameters: frozenset[str] | None = None
    direct: bool = False
    refuses: frozenset[str] = frozenset()
    remarks: frozenset[str] = frozenset()


def _operators(text: str) -> dict[str, frozenset[int]]:
    """Read `Name:1,13 Other` as {"Name": {1, 13}, "Other": {}}."""
    found = {}
    for word in text.split():
        name, _, versions = word.partition(":")
        found[name] = frozenset(int(v) for v in versions.split(",") if v)
    return found


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ONNX2TORCH = """
Abs:6,13 Acos:7 Add:1,6,7,13,14 And:1,7 ArgMax:11,12,13 ArgMin:11,12,13 Asin:7 Atan:7 AveragePool:7,10,11
BatchNormalization:9,14,15 Cast:9,13 Ceil:6,13 Celu:12 Clip:6,11,12,13 Concat:4,11,13 Constant:9,11,12,13
ConstantOfShape:9 Conv:1,11 ConvTranspose:1,11 Cos:7 CumSum:11,14 DepthToSpace:11,13 Div:1,6,7,13,14 Dropout:10,12,13
Einsum:12 Elu:6 Equal:7,11,13 Erf:9,13 Exp:6,13 Expand:8,13 EyeLike:9 Flatten:9,11,13 Floor:6,13 Gather:1,11,13
GatherElements:11,13 GatherND:11,12,13 Gemm:9,11,13 GlobalAveragePool:1 Greater:7,9,13 GreaterOrEqual:12
HardSigmoid:1,6 HardSwish:14 Identity:1,13,14,16 InstanceNormalization:1,6 IsInf:10 IsNaN:13 LRN:1,13
LayerNormalization:17 LeakyRelu:1,6,16 Less:7,9,13 LessOrEqual:12 Log:6,13 LogSoftmax:1,11,13 MatMul:1,9,13
Max:8,12,13 MaxPool:8,10,11,12 Mean:8,13 Min:8,12,13 Mod:10,13 Mul:1,6,7,13,14 Neg:1,6,13 NonMaxSuppression:10,11
NonZero:13 Not:1 Or:1,7 PRelu:7,9,16 Pad:2,11,13 Pow:1,7,12,13,15 Range:11 Reciprocal:1,6,13 ReduceL1:1,11,13
ReduceL2:1,11,13 ReduceLogSum:1,11,13 ReduceLogSumExp:1,11,13 ReduceMax:1,11,12,13 ReduceMean:1,11,13
ReduceMin:1,11,12,13 ReduceProd:1,11,13 ReduceSum:1,11,13 ReduceSumSquare:1,11,13 Relu:6,13,14 Reshape:5,13,14
Resize:10,11,13 RoiAlign:10,16 Round:11 ScatterND:11,13,16 Selu:6 Shape:1,13,15 Sigmoid:1,6,13 Sign:9,13 Sin:7
Slice:9,10,11,13 Softmax:1,11,13 Softplus:1 Softsign:1 Split:2,11,13 Sqrt:1,6,13 Squeeze:1,11,13,21 Sub:1,6,7,13,14
Sum:8,13 Tan:7 Tanh:6,13 Tile:6,13 TopK:1,10,11 Transpose:1,13 Unsqueeze:1,11,13 Where:9,16 Xor:1,7
"""
_ONNX2PYTORCH = """
Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization
Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike CausalConvWithState
Ceil Celu CenterCropPad Clip Col2Im Compress Concat ConcatFromSequence Constant ConstantOfShape Conv ConvInteger
ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div Dropout
DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu
Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HammingWindow
HannWindow HardSigmoid HardSwish Hardmax Identity If ImageDecoder InstanceNormalization IsInf IsNaN LRN LSTM
LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization LpPool MatMul
MatMulInteger Max MaxPool MaxRoiPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix Min Mish Mod Mul
Multinomial Neg NegativeLogLikelihoodLoss NonMaxSuppression NonZero Not OneHot Optional OptionalGetElement
OptionalHasElement Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization RNN RandomNormal
RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare RegexFullMatch Relu Reshape Resize ReverseSequence
RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu SequenceAt SequenceConstruct
SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap Shape Shrink Sigmoid Sign Sin Sinh Size Slice
Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split SplitToSequence Sqrt Squeeze StringConcat
StringNormalizer StringSplit Sub Sum SwiGLU Swish Tan Tanh TensorScatter TfIdfVectorizer ThresholdedRelu Tile TopK
Transpose Trilu Unique Unsqueeze Upsample Where Xor
"""
_JAXONNXRUNTIME = """
Abs:1,6,13 Acos:7 Acosh:9 Add:1,6,7,13,14 And:7 ArgMax:13 ArgMin:13 Asin:7 Asinh:9 Atan:7 Atanh:9
AveragePool:1,7,11,19 BatchNormalization:6,7,9,14,15 BitShift:11 Cast:9,13,19 CastLike:15,19 Ceil:6,13 Clip:6,13
Concat:4,11,13 Constant:1,9,11,12,13,19 ConstantOfShape:9 Conv:1,11 Cos:7 Cosh:9 Div:6,7,13,14 Dropout:7,10,12,13
Einsum:12 Equal:11,13,19 Erf:13 Exp:1,6,13 Expand:8,13 Flatten:1,11,13 Gather:1,11,13 GatherElements:13
Gemm:6,7,9,11,13 GlobalAveragePool:1 Identity:1,13,16,19 If:11,13,16,19 LRN:1,13 LeakyRelu:6,16 Less:9,13
LessOrEqual:12,16 Log:11,13 LogSoftmax:1,11,13 MatMul:1,9,13 Max:6,13 MaxPool:1,8,10,11,12 Min:6,13 Mul:6,7,13,14
Neg:6,13 NonZero:9,13 Not:1 OneHot:11 Or:7 PRelu:6,16 Pad:2,13,18,19 Pow:1,7,12,13,15 Range:11 Reciprocal:6,13
ReduceMax:13,18 ReduceMean:1,11,13,18 ReduceSum:1,13 Relu:6,14 Reshape:5,13,14,19 Selu:6 Shape:1,13,15,19 Sigmoid:6,13
Sin:7 Sinh:9 Slice:1,10,11,13 Softmax:1,11,13 Softplus:1 Split:2,11,13,18 Sqrt:6,13 Squeeze:1,11,13 Sub:6,7,13,14
Sum:6,8,13 Tanh:6,13 TopK:11 Transpose:1,13 Trilu:14 Unsqueeze:1,11,13 Where:9,16
"""
_TINYGRAD = """
Abs Acos Acosh Adagrad Adam Add AffineGrid And ArgMax ArgMin ArrayFeatureExtractor Asin Asinh Atan Atanh Attention
AveragePool BatchNormalization BiasGelu Binarizer BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast
CastLike Ceil Celu CenterCropPad Clip Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh
CumSum DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu EmbedLayerNormalization Equal Erf
Exp Expand EyeLike FastGelu Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
Gradient Greater GreaterOrEqual GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
ImageDecoder InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
LpNormalization MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Momentum Mul
Neg NegativeLogLikelihoodLoss NonZero Not OneHot OptionalGetElement OptionalHasElement Or PRelu Pad Pow QLinearAdd
QLinearConv QLinearGlobalAveragePool QLinearMatMul QLinearMul QuantizeLinear RMSNormalization Range Reciprocal
ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
Relu Reshape Resize RotaryEmbedding Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh
Size SkipLayerNormalization Slice Softmax SoftmaxCrossEntropyLoss Softplus Softsign SpaceToDepth Split Sqrt Squeeze
Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_ONNX2KERAS = """
Add ArgMax AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose Div Dropout Elu
Exp Expand Flatten Floor Gather Gemm GlobalAveragePool Identity InstanceNormalization LRN LeakyRelu Log MatMul Max
MaxPool Mean Min Mul PRelu Pad Pow ReduceL2 ReduceMax ReduceMean ReduceSum Relu Reshape Resize Selu Shape Sigmoid
Slice Softmax Split Sqrt Squeeze Sub Sum Tanh Transpose Unsqueeze Upsample
"""
# Operators with a gradient. AveragePool (the process crashes), ConvTranspose and GRU (no kernel on the CPU) are not
# among them.
_GRADIENTS = """
Abs Add BatchNormalization BiasGelu Cast Clip Concat Conv Cos Div Dropout Erf Exp Expand FastGelu Flatten FusedMatMul
Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Identity LSTM LayerNormalization LeakyRelu Log LogSoftmax
MatMul Max MaxPool Min Mul Neg Pad Pow QuickGelu Reciprocal ReduceL2 ReduceLogSumExp ReduceMean ReduceSum Relu Reshape
Resize ScatterElements ScatterND Sigmoid SimplifiedLayerNormalization Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Tile
TopK Transpose Trilu Unsqueeze Where
"""
# Operator sets that a file may import, whether it uses them or not.
_TINYGRAD_DOMAINS = """
ai.onnx ai.onnx.ml ai.onnx.training ai.onnx.preview.training com.microsoft com.microsoft.nchwc
com.microsoft.experimental org.pytorch.aten
"""
_EVERYWHERE = "sparse functions"
_ALL_BUT_JAX = f"{_EVERYWHERE} order"
_DATE = "2026-11-21"

IMPORTERS: dict[str, Importer] = {
    each.name: each
    for each in (
        Importer(
            "onnx2torch",
            "1.5.15",
            "PyTorch",
            _DATE,
            ir=(3, 99),
            operators=_operators(_ONNX2TORCH),
            versions=True,
            parameters=_words("Conv ConvTranspose Gemm"),
            direct=True,
            refuses=_words(
                f"{_ALL_BUT_JAX} domain half norm-shape allowzero mask norm-outputs conv-operand norm-training"
            ),
            remarks=_words("tied softmax folded"),
        ),
        Importer(
            "onnx2pytorch",
            "0.6.0",
            "PyTorch",
            _DATE,
            operators=_operators(_ONNX2PYTORCH),
            parameters=_words("Conv ConvTranspose Gemm MatMul LSTM GRU RNN"),
            direct=True,
            refuses=_words(
                f"{_ALL_BUT_JAX} half training-mode dropout-training conv-operand gemm-operand matmul-operand "
                "norm-training states rare"
            ),
            remarks=_words("tied norm momentum softmax folded"),
        ),
        Importer(
            "onnxruntime-training",
            "1.19.2",
            "ONNX Runtime",
            _DATE,
            opsets=(12, 21),
            ir=(4, 10),
            gradients=_words(_GRADIENTS),
            refuses=_words(
                f"{_ALL_BUT_JAX} domain half double inputs names shape no-mask norm-output norm-training "
                "dropout-training output-shape direction bare rare"
            ),
            remarks=_words("softmax folded"),
        ),
        Importer(
            "jaxonnxruntime",
            "0.3.0",
            "JAX",
            _DATE,
            operators=_operators(_JAXONNXRUNTIME),
            versions=True,
            impassable=_words("AveragePool LRN Clip"),
            refuses=_words(f"{_EVERYWHERE} domain half norm-training static"),
            remarks=_words("frozen softmax folded"),
        ),
        Importer(
            "tinygrad",
            "0.14.0",
            "tinygrad",
            _DATE,
            operators=_operators(_TINYGRAD),
            domains=_words(_TINYGRAD_DOMAINS),
            refuses=_words(f"{_ALL_BUT_JAX} shape open bfloat16"),
            remarks=_words("frozen softmax folded"),
        ),
        Importer(
            "onnx2keras",
            "0.0.25",
            "Keras",
            _DATE,
            operators=_operators(_ONNX2KERAS),
            parameters=_words("Conv ConvTranspose Gemm MatMul"),
            refuses=_words(
                f"{_ALL_BUT_JAX} shape computed-product bias-matrix batch-moved rows sum defaults norm-training"
            ),
            remarks=_words("tied bias factors softmax folded"),
        ),
    )
}
