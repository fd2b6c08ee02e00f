"""Random orthonormal matrices, uniformly distributed (Haar), in about the time of two matrix products.

    drawing   requests -> weights: one stream of chance per request, weights and their pieces side by side
    haar      the orthonormal matrices: random reflections, applied all at once by matrix products
    normal    normal numbers, and seeds from names
    equal     rows of one length, the columns staying orthonormal

Same bytes for any number of threads and whatever else is drawn: every weight has a stream that only the seed and its
identity decide, is cut into pieces by its shape alone, and each piece is computed with one BLAS thread.
The bytes do depend on NumPy, its BLAS, and the kind of processor.
"""

from __future__ import annotations

from onnx_lsuv.orthonormal.drawing import Request, check, draw, draw_all, usable_cores
from onnx_lsuv.orthonormal.equal import equal_rows
from onnx_lsuv.orthonormal.normal import Precision, Run, normals, run_by, run_here, seed_of

__all__ = [
    "Precision",
    "Request",
    "Run",
    "check",
    "draw",
    "draw_all",
    "equal_rows",
    "normals",
    "run_by",
    "run_here",
    "seed_of",
    "usable_cores",
]
