"""The table of operators: a row for each, with all that this package knows of it.

(ONNX operator specifications; ContribOperators.md of ONNX Runtime for com.microsoft.) What no row names is an operator
of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from math import atanh, inf, log
from typing import Protocol

from onnx_lsuv.operators.attributes import Attributes
from onnx_lsuv.operators.matrices import (
    convolution,
    einsum,
    experts,
    gates,
    gemm,
    packed_attention,
    product,
    query_groups,
    transposed_convolution,
)
from onnx_lsuv.operators.row import Fused, Operator

MICROSOFT = "com.microsoft"

_BOUNDED = "its gates or its attention bound the output"
_AFFINE = {1: "scale", 2: "bias"}
_DATA_FIRST = {0: ""}  # where its other operands are settings

_LAYERS = (
    Operator("Conv", weights=(1,), biases=(2,), matrix=convolution, channels=1, bilinear=True, blocked=True),
    Operator("ConvTranspose", weights=(1,), biases=(2,), matrix=transposed_convolution, channels=1, bilinear=True),
    Operator("DeformConv", weights=(1,), biases=(3,), matrix=convolution),
    Operator("Gemm", weights=(1, 0), biases=(2,), matrix=gemm, channels=-1, bilinear=True),
    Operator("MatMul", weights=(1, 0), matrix=product, channels=-1, bilinear=True, products=True),
    Operator("FusedMatMul", MICROSOFT, weights=(1, 0), matrix=product),
    Operator("Einsum", weights=range(64), matrix=einsum, products=True),
    # The last operand of an LSTM lets its gates see its cell; started at zero they do not.
    Operator(
        "LSTM",
        weights=(1, 2),
        biases=(3,),
        matrix=gates(4),
        every=True,
        unscaled=_BOUNDED,
        roles={5: "state", 6: "state", 7: "bias"},
    ),
    Operator("GRU", weights=(1, 2), biases=(3,), matrix=gates(3), every=True, unscaled=_BOUNDED, roles={5: "state"}),
    Operator("RNN", weights=(1, 2), biases=(3,), matrix=gates(1), every=True, unscaled=_BOUNDED, roles={5: "state"}),
    Operator("Attention", MICROSOFT, weights=(1,), biases=(2,), matrix=packed_attention, unscaled=_BOUNDED),
    Operator(
        "DecoderMaskedSelfAttention", MICROSOFT, weights=(1,), biases=(2,), matrix=packed_attention, unscaled=_BOUNDED
    ),
    Operator("PackedAttention", MICROSOFT, weights=(1,), biases=(2,), matrix=packed_attention, unscaled=_BOUNDED),
    Operator(
        "MoE",
        MICROSOFT,
        weights=(2, 4, 6),
        biases=(3, 5, 7),
        matrix=experts,
        every=True,
        unscaled="its router mixes what its experts give",
    ),
)

# Where the activation is one that is not known, they are left alone.
_FUSED = (
    Operator("FusedConv", MICROSOFT, fused=Fused("Conv", 3, added=3), left="operator"),
    Operator("FusedGemm", MICROSOFT, fused=Fused("Gemm", 3), left="operator"),
    Operator("GemmFastGelu", MICROSOFT, fused=Fused("MatMul", 2, added=2, activation="FastGelu")),
)

_NORMS = (
    Operator("BatchNormalization", norm="own", roles={**_AFFINE, 3: "statistics", 4: "statistics"}),
    Operator("InstanceNormalization", norm="own", roles=_AFFINE),
    Operator("GroupNormalization", norm="own", roles=_AFFINE),
    Operator("LayerNormalization", norm="own", roles=_AFFINE, keeps_width=True),
    Operator("RMSNormalization", norm="own", roles={1: "scale"}, keeps_width=True),
    Operator("SimplifiedLayerNormalization", norm="own", roles={1: "scale"}, keeps_width=True),
    Operator("MeanVarianceNormalization", norm="own"),
    Operator("LpNormalization", degree=0),
    Operator("GroupNorm", MICROSOFT, norm="own", roles=_AFFINE),
    Operator("SkipGroupNorm", MICROSOFT, norm="sum", normed=1, roles={**_AFFINE, 4: "bias"}),
    Operator(
        "SkipLayerNormalization",
        MICROSOFT,
        norm="sum",
        normed=3,
        roles={2: "scale", 3: "bias", 4: "bias"},
        keeps_width=True,
    ),
    Operator(
        "SkipSimplifiedLayerNormalization",
        MICROSOFT,
        norm="sum",
        normed=3,
        roles={2: "scale", 3: "bias"},
        keeps_width=True,
    ),
    Operator(
        "EmbedLayerNormalization",
        MICROSOFT,
        normed=2,
        roles={2: "embedding", 3: "embedding", 4: "embedding", 5: "scale", 6: "bias"},
    ),
)

_HUNDRED = log(100)  # by which an exponential has fallen to a hundredth


def _beyond(low: float, high: float = inf) -> Callable[[Attributes], tuple[float, float]]:
    return lambda attributes: (low, high)


def _ramp(attributes: Attributes) -> tuple[float, float]:
    slope, middle = attributes.real("alpha", 0.2), attributes.real("beta", 0.5)
    low, high = sorted((-middle / slope, (1 - middle) / slope)) if slope else (-inf, inf)
    return low, high


_ACTIVATIONS = (
    Operator("Relu", waits=True, pointwise=True, on_stream=True, flat=_beyond(0), silent=True),
    Operator("LeakyRelu", waits=True, pointwise=True, on_stream=True),
    Operator("PRelu", waits=True, on_stream=True, roles={1: "slope"}),
    Operator("Elu", pointwise=True, on_stream=True, flat=_beyond(-_HUNDRED), silent=True),
    Operator("Selu", pointwise=True, on_stream=True, flat=_beyond(-_HUNDRED), silent=True),
    Operator("Celu", pointwise=True, flat=lambda a: (-_HUNDRED * a.real("alpha", 1.0), inf), silent=True),
    Operator("Gelu", pointwise=True, on_stream=True, flat=_beyond(-3), silent=True),
    Operator("ThresholdedRelu", pointwise=True, flat=lambda a: (a.real("alpha", 1.0), inf), silent=True),
    Operator("HardSwish", pointwise=True, flat=_beyond(-3), silent=True),
    Operator("Tanh", pointwise=True, flat=_beyond(-atanh(0.99), atanh(0.99))),
    Operator("Erf", pointwise=True),
    Operator("Softplus", pointwise=True, flat=_beyond(-_HUNDRED), silent=True),
    Operator("Softsign", pointwise=True, flat=_beyond(-99, 99)),
    Operator("Sigmoid", pointwise=True, gate=True, flat=_beyond(-log(99), log(99))),
    Operator("HardSigmoid", pointwise=True, gate=True, flat=_ramp),
    Operator("Softmax", gate=True),
    Operator("Gelu", MICROSOFT, on_stream=True, flat=_beyond(-3), silent=True),
    Operator("BiasGelu", MICROSOFT, roles={1: "bias"}),
    Operator("FastGelu", MICROSOFT, roles={1: "bias"}),
    Operator("BiasSplitGelu", MICROSOFT, roles={1: "bias"}),
    Operator("BiasAdd", MICROSOFT, roles={1: "bias"}),
)

_MOVES = (
    Operator("Identity", move="keeps", degree=1, waits=True, pointwise=True, keeps_width=True),
    Operator("Cast", move="casts", degree=1, keeps_width=True),
    Operator("CastLike", move="likens", settings=True),
    Operator("Dropout", move="drops", waits=True, keeps_width=True, settings=True),
    Operator("Reshape", move="reshapes", degree=1, waits=True, vectors=(1,)),
    Operator("Flatten", move="reshapes", degree=1, waits=True),
    Operator("Squeeze", move="reshapes", degree=1, waits=True, vectors=(1,)),
    Operator("Unsqueeze", move="reshapes", degree=1, waits=True, vectors=(1,)),
    Operator("Transpose", move="permutes", degree=1, waits=True),
    Operator("DepthToSpace", move="rearranges", waits=True),
    Operator("SpaceToDepth", move="rearranges", waits=True),
    Operator("Slice", move="takes", degree=1, waits=True, keeps_width=True, vectors=(1, 2, 3, 4)),
    Operator("Split", move="takes", degree=1, waits=True, vectors=(1,)),
    Operator("Gather", move="picks", waits=True),
    Operator("Expand", move="repeats", degree=1, waits=True),
    Operator("Tile", move="repeats", degree=1, waits=True),
    Operator("Concat", move="joins", sums=True, keeps_width=True),
    Operator("Clip", move="clips", on_stream=True, settings=True),
    Operator("Pad", move="pads", on_stream=True, settings=True),
    Operator("Pad", MICROSOFT, settings=True, roles=_DATA_FIRST),
    Operator("CenterCropPad", move="pads"),
    Operator("Resize", move="resizes", settings=True),
    Operator("Upsample", move="resizes", settings=True),
    Operator("MaxPool", waits=True, windows=True, blocked=True, on_stream=True),
    Operator("AveragePool", waits=True, windows=True, averages=True, blocked=True, on_stream=True),
    Operator("LpPool", windows=True),
    Operator("GlobalMaxPool", waits=True, blocked=True),
    Operator("GlobalAveragePool", waits=True, averages=True, blocked=True),
)

_ARITHMETIC = (
    Operator("Add", sums=True, keeps_width=True),
    Operator("Sub", sums=True, keeps_width=True),
    Operator("Sum", sums=True),
    Operator("Max", sums=True),
    Operator("Min", sums=True),
    Operator("Mul", products=True, keeps_width=True),
    Operator("Div", keeps_width=True),
    Operator("Pow", keeps_width=True),
    Operator("Sqrt", degree=0.5, keeps_width=True),
    Operator("Reciprocal", degree=-1, keeps_width=True),
    Operator("Abs", degree=1, waits=True, pointwise=True),
    Operator("Neg", degree=1, waits=True, pointwise=True),
    Operator("ReduceSum", degree=1, waits=True),
    Operator("ReduceMean", degree=1, waits=True, averages=True, keeps_width=True),
    Operator("ReduceMax", degree=1, waits=True),
    Operator("ReduceL1", degree=1),
    Operator("ReduceL2", degree=1),
    Operator("ReduceSumSquare", degree=2),
    Operator("Mod", settings=True),
    Operator("Where", keeps_width=True),
    Operator("Equal", no_gradient=True),
    Operator("Greater", no_gradient=True),
    Operator("GreaterOrEqual", no_gradient=True),
    Operator("Less", no_gradient=True),
    Operator("LessOrEqual", no_gradient=True),
    Operator("Not", no_gradient=True),
    Operator("And", no_gradient=True),
    Operator("Or", no_gradient=True),
    Operator("Xor", no_gradient=True),
    Operator("IsNaN", no_gradient=True),
    Operator("IsInf", no_gradient=True),
    Operator("ArgMax", no_gradient=True),
    Operator("ArgMin", no_gradient=True),
    Operator("NonZero", no_gradient=True),
    Operator("OneHot", settings=True, no_gradient=True),
    Operator("NonMaxSuppression", settings=True, no_gradient=True),
    Operator("Shape", reads_shape=True, no_gradient=True),
    Operator("Size", reads_shape=True, no_gradient=True),
)

_OTHERS = (
    Operator("If", scopes=True),
    Operator("Loop", scopes=True),
    Operator("Scan", scopes=True),
    Operator("SequenceMap", scopes=True, makes_sequence=True),
    Operator("SequenceConstruct", makes_sequence=True),
    Operator("SequenceEmpty", makes_sequence=True),
    Operator("SequenceErase", makes_sequence=True),
    Operator("SequenceInsert", makes_sequence=True),
    Operator("SplitToSequence", makes_sequence=True),
    Operator("RandomNormal", random=True),
    Operator("RandomNormalLike", random=True),
    Operator("RandomUniform", random=True),
    Operator("RandomUniformLike", random=True),
    Operator("Bernoulli", random=True),
    Operator("Multinomial", random=True),
    Operator("ConstantOfShape", settings=True),
    Operator("Range", settings=True),
    Operator("Range", MICROSOFT, settings=True),
    Operator("QuantizeLinear", settings=True, roles=_DATA_FIRST),
    Operator("QuantizeLinear", MICROSOFT, settings=True, roles=_DATA_FIRST),
    Operator("DequantizeLinear", settings=True),
    Operator("DequantizeLinear", MICROSOFT, settings=True),
    Operator("RoiAlign", settings=True, roles=_DATA_FIRST),
    Operator("STFT", settings=True, roles=_DATA_FIRST),
    Operator("RotaryEmbedding", settings=True, roles=_DATA_FIRST),
    Operator("RotaryEmbedding", MICROSOFT, settings=True, roles=_DATA_FIRST),
    Operator(
        "GroupQueryAttention",
        MICROSOFT,
        packed=query_groups,
        # The caches of cos and sin, a mask and the steps of quantised caches are settings.
        settings=True,
        roles={3: "state", 4: "state", 11: "", 14: "scale", 15: "scale"},
    ),
    Operator("MultiHeadAttention", MICROSOFT, roles={3: "bias"}),
    Operator("NhwcConv", MICROSOFT, left="operator"),
    Operator("NhwcFusedConv", MICROSOFT, left="operator"),
    Operator("LongformerAttention", MICROSOFT, left="operator"),
    Operator("BeamSearch", MICROSOFT, left="decoder"),
    Operator("GreedySearch", MICROSOFT, left="decoder"),
    Operator("Sampling", MICROSOFT, left="decoder"),
    # Of the quantised ones, these hold no weights.
    Operator("DynamicQuantizeLinear"),
    Operator("QLinearAdd", MICROSOFT),
    Operator("QLinearConcat", MICROSOFT),
    Operator("QLinearSigmoid", MICROSOFT),
)

ROWS = (*_LAYERS, *_FUSED, *_NORMS, *_ACTIVATIONS, *_MOVES, *_ARITHMETIC, *_OTHERS)
OPERATORS = {(row.domain, row.op_type): row for row in ROWS}

# Operators that are left alone by the pattern of their name, whichever of them there will be.
_FAMILIES = {
    "*:QLinear*": "quantised",
    "*:*Integer": "quantised",
    "*:*NBits": "quantised",
    "*:*Bnb4": "quantised",
    "*:*Float8": "quantised",
    "*:DynamicQuantize*": "quantised",
    "*:QAttention*": "quantised",
    "*:QGemm*": "quantised",
    "*:QMoE*": "quantised",
    "*nchwc:Conv": "layout",
    "com.microsoft:*Grad": "training",
    "com.microsoft:*Optimizer*": "training",
    "com.microsoft:InPlaceAccumulator*": "training",
    "com.microsoft:YieldOp": "training",
    "ai.onnx.preview.training:*": "training",
    "ai.onnx.ml:Linear*": "attribute",
    "ai.onnx.ml:SVM*": "attribute",
}


class _Named(Protocol):
    @property
    def domain(self) -> str: ...
    @property
    def op_type(self) -> str: ...


class _Call(_Named, Protocol):
    @property
    def inputs(self) -> tuple[str, ...]: ...


def of(node: _Named) -> Operator:
    """Return the row of a node's operator; an empty one where nothing is known of it."""
    return _row("" if node.domain == "ai.onnx" else node.domain, node.op_type)


@lru_cache(maxsize=4096)
def _row(domain: str, op_type: str) -> Operator:
    if (domain, op_type) in OPERATORS:
        return OPERATORS[domain, op_type]
    found = (left for pattern, left in _FAMILIES.items() if fnmatchcase(f"{domain}:{op_type}", pattern))
    return Operator(op_type, domain, left=next(found, ""))


def bias_position(node: _Call, weight: int) -> int | None:
    """Return which operand a node adds to what its weight at some position gives, where there is one."""
    operator = of(node)
    at = operator.weights.index(weight) if len(operator.biases) > 1 else 0
    return next((i for i in operator.biases[at : at + 1] if i < len(node.inputs) and node.inputs[i]), None)
