"""bfloat16 where there are no kernels for it.

ONNX Runtime's CPU provider can cast to and from bfloat16, and little else. There a calibration graph is computed in
float32, which has the same range: each bfloat16 number is one of float32, so nothing that the file stores changes its
value, and only the rounding between the nodes is left out. The file keeps its types; new values are rounded to them.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnx_lsuv.model import Array, names_type
from onnx_lsuv.program import Program

BFLOAT16 = frozenset({TensorProto.BFLOAT16})


def has_bfloat16(program: Program) -> bool:
    """Say whether some value of a program is of this type: an input, a constant, or what a node makes of others."""
    return (
        any(value.type.tensor_type.elem_type in BFLOAT16 for value in program.body.inputs)
        or any(constant.elem_type in BFLOAT16 for constant in program.constants.values())
        or any(names_type(a, TensorProto.BFLOAT16) for node in program.walk() for a in node.attributes.values())
    )


def widened(array: Array, elem_type: int, *, wide: bool = True) -> tuple[Array, int]:
    """Return an array and its element type, with `wide` as a graph that is computed in float32 takes them."""
    if wide and elem_type in BFLOAT16:
        return np.asarray(array, np.float32), int(TensorProto.FLOAT)
    return array, elem_type
