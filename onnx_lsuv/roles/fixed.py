"""Which transform somebody computed the values of a weight to be: structure that no draw and no training gives.

    DFT, DCT, sinusoids    along an axis x[p+1] + x[p-1] = c x[p], a c for each column; that of a DFT runs evenly, its
                           window only multiplies columns
    mel or filter bank     not negative, one run of nonzeros a row, each rising and then falling, one after the other
    blur, bilinear, edge   each kernel is its own mirror image, or minus that: filters of linear phase, as Gabor's and
    kernel, Haar           windowed sinc are too ("symmetric filters")
    one-hot selection      one 1 a row, other than a unit matrix, or at several places of a kernel
    colour matrix          the published ones, rows in any scale; and BGR for RGB
    ramp                   one row that grows evenly, as for the mean over the bins of a detector's distances

Zeros, one constant, unit matrices and deltas at one place of a kernel are usual starts, so they are no transforms. A
small sample decides in all but the rarest cases; only where that fits is the whole looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from onnx_lsuv.errors import ModelError
from onnx_lsuv.model import Array, let_go
from onnx_lsuv.program.program import Program, stored
from onnx_lsuv.sources.moves import Source

Float = NDArray[np.float64]

# Of what is equal but for rounding, relative to the largest number.
_TOLERANCES = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-3, "bfloat16": 8e-3}
_SAMPLE = 16  # rows or kernels that are looked at first
_LENGTH, _COLUMNS = 8, 64  # of what has to follow the rule of sinusoids
_FIT = 1e-2  # how well it has to, beside what tells a sinusoid from any other smooth curve
_MIN = 9  # numbers: a 3x3 kernel or matrix; luma's three are known by their values
_EQUATIONS = 4  # numbers that equal another one, in the least
_SIGNS = 16  # ... where all nonzeros are of one size, as of binary weights

_LUMA = ((0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722), (0.2627, 0.678, 0.0593))
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def weight_transform(program: Program, source: Source) -> str:
    """Return which fixed transform a weight is, as its layer sees it; "" where its values cannot be read, or are many
    constants' or computed.
    """
    made = [program.constants[n].origin == "ConstantOfShape" or program.is_absent(n) for n in source.constants]
    if any(made) or len(made) > 1 or source.computed or source.rounding:
        return ""
    found = ""
    with suppress(ModelError):  # what is missing is missed where it is needed
        found = fixed_transform(source.see(stored(program, source.constant)))
    let_go(program.model)  # weight after weight, or the samples of all are in memory at once
    return found


def fixed_transform(values: Array) -> str:
    """Return what the values of a weight were computed to be, in a word or two; "" where nothing says so."""
    tolerance = _TOLERANCES.get(values.dtype.name)
    if values.ndim < 2 or tolerance is None:
        return ""
    if values.size < _MIN:
        return "colour matrix" if values.size == 3 and _is_colour(_float(values)) else ""
    found = (
        _ramp(values, tolerance)
        or _one_hot(values)
        or _sinusoids(values, tolerance)
        or _kernels(values, tolerance)
        or _bank(values)
    )
    if not found and values.size == _MIN and _is_colour(_float(values)):
        return "colour matrix"
    return found


def _float(values: Array) -> Float:
    return np.asarray(values, np.float64)


def _matrices(values: Array) -> Iterator[Array]:
    """Yield the values as a matrix, and that transposed."""
    matrix = values.reshape(len(values), -1) if len(values) > 1 else values.reshape(-1, values.shape[-1])
    yield matrix
    yield matrix.T


def _ramp(values: Array, tolerance: float) -> str:
    if values.size != max(values.shape):
        return ""
    steps = np.diff(_float(values.reshape(-1)))
    even = np.abs(steps - steps[0]) <= 2 * tolerance * np.abs(_float(values)).max()
    return "ramp" if even.all() and len(steps) * abs(steps[0]) > 0.1 * np.abs(_float(values)).max() else ""


# ----------------------------------------------------------------------------------------------------------- sinusoids


def _sinusoids(values: Array, tolerance: float) -> str:
    """Say whether sinusoids run along an axis, every row or every other one of it: real and imaginary parts may take
    turns.
    """
    lines = list(_matrices(values))
    if values.ndim > 2:
        lines.append(values.reshape(-1, values.shape[-1]).T)
    pairs = [matrix[1::stride] for matrix in lines for stride in (1, 2)]
    names = {_waves(matrix, tolerance) for matrix in pairs if _may_wave(matrix)}
    return next((name for name in ("DCT", "DFT", "sinusoids") if name in names), "")


def _may_wave(matrix: Array) -> bool:
    """Say whether a few columns follow the rule; further apart, so that little is read of a file that is mapped."""
    if len(matrix) < _LENGTH - 1 or matrix.shape[1] < 4:
        return False
    _, errors, norms = _rule(_float(matrix[:_LENGTH, matrix.shape[1] // 5 :: -(-matrix.shape[1] // 5)]))
    return bool((errors <= 2 * _FIT * norms).sum() * 2 >= len(norms))


def _rule(x: Float) -> tuple[Float, Float, Float]:
    """Return the c of each column that fits best, how far the column is from following it, and the column's length."""
    sums, middle = x[2:] + x[:-2], x[1:-1]
    squares = np.einsum("ij,ij->j", middle, middle)
    c = np.einsum("ij,ij->j", sums, middle) / np.where(squares == 0, 1, squares)
    off = sums - c * middle
    return c, np.sqrt(np.einsum("ij,ij->j", off, off)), np.sqrt(np.einsum("ij,ij->j", x, x))


def _waves(matrix: Array, tolerance: float) -> str:
    step = max(1, matrix.shape[1] // _COLUMNS)
    c, errors, norms = _rule(_float(matrix[:_LENGTH, ::step][:, :_COLUMNS]))
    heavy = norms > 1e-3 * norms.max()
    # Near |c| = 2 any smooth curve fits, so that the error has to be small beside 2 - |c|.
    clear = heavy & (2 - np.abs(c) > 100 * tolerance)
    good = clear & (errors <= _FIT * np.minimum(1, 2 - np.abs(c)) * norms)
    if good.sum() < max(4, 0.9 * clear.sum(), heavy.sum() / 8) or len(np.unique(np.round(c[good], 2))) < 3:
        return ""
    if (errors[heavy & ~clear] > 2 * _FIT * norms[heavy & ~clear]).any():
        return ""
    angles = np.arccos(np.clip(c / 2, -1, 1))
    places = np.flatnonzero(good)
    whole, halves = _spread(angles[places], places), _spread(angles[places], step * places + 0.5)
    if halves < min(whole, 5 * _FIT):
        return "DCT"
    runs = good[2:] & good[1:-1] & good[:-2]
    turns = np.stack([c[2:] + c[:-2], c[1:-1]])[:, runs]
    # Frequencies of positions fall from 1 on, so that none of theirs turns by more than a quarter.
    if not turns.size or c[good].min() > 0:
        return "sinusoids"
    ratio = turns[0] @ turns[1] / max(turns[1] @ turns[1], 1e-300)
    return "DFT" if np.abs(turns[0] - ratio * turns[1]).max() < 5 * _FIT else "sinusoids"


def _spread(angles: Float, places: Array) -> float:
    """Return how far angles are from growing by the same from place to place, from zero on."""
    if not places[0]:
        return math.inf
    steps = angles / places
    return float(np.abs(steps / steps.mean() - 1).max())


# ------------------------------------------------------------------------------------------------------- filter kernels


def _kernels(values: Array, tolerance: float) -> str:
    """Say whether all kernels, or rows, or columns, are their own mirror images up to the sign."""
    if values.ndim > 2 and math.prod(values.shape[2:]) > 1:
        size = math.prod(values.shape[2:])
        kernels, shape = values.reshape(-1, size), values.shape[2:]
        found = _haar(values) or _mirrored(kernels, tolerance, shape)
        if not found and size == max(shape) and size > _LENGTH and not kernels[:, 0].any():
            return _mirrored(kernels[:, 1:], tolerance, ())  # a window that is periodic begins with a zero
        return found
    rows = values.reshape(values.shape[:2])
    for matrix in (rows, rows.T):
        if matrix.shape[0] >= 4 and matrix.shape[1] >= 8 and (found := _mirrored(matrix, tolerance, ())):
            return found
    return ""


def _mirrored(kernels: Array, tolerance: float, shape: tuple[int, ...]) -> str:
    length = kernels.shape[1]
    middle = range(length // 2 - _LENGTH // 2, length // 2 + length % 2 + _LENGTH // 2)
    ends = np.r_[:_LENGTH, middle, length - _LENGTH : length] if length > 4 * _LENGTH else slice(None)
    for part in (kernels[:2, ends], kernels[:_SAMPLE], kernels):
        x = _float(part)
        size = np.abs(x).max(1)
        if not np.isfinite(size).all():
            return ""
        x, size = x[size > 0], size[size > 0, None]
        back = x[:, ::-1]
        even, odd = (np.abs(x - sign * back) <= tolerance * size for sign in (1, -1))
        same = even.all(1) | odd.all(1)
        # Of filters in windows of their own lengths, as of a constant-Q transform, those of odd length end a tap early.
        if same.sum() < len(same) * (0.5 if length >= 4 * _LENGTH and not shape else 1):
            return ""
    telling = same & (np.count_nonzero(x, 1) > 1) & ~(np.abs(x - x[:, :1]) <= tolerance * size).all(1)
    equations = telling.sum() * (x.shape[1] // 2)
    sizes = np.unique(np.round(np.abs(x) / max(size.max(initial=0), 1e-300), 4))
    if equations < (_SIGNS if np.count_nonzero(sizes) == 1 else _EQUATIONS):
        return ""
    if not shape or not telling.all():
        return "symmetric filters"
    if (np.abs(x.sum(1)) <= 10 * tolerance * size[:, 0] * x.shape[1]).all():
        return "edge kernel" if x.shape[1] < 50 else "symmetric filters"
    if (x < 0).any() or (np.abs(x / size - x[0] / size[0]) > tolerance).any():
        return "symmetric filters"
    profile = x[0].reshape(shape).sum(tuple(range(1, len(shape))))
    steps = np.abs(np.diff(profile))
    straight = np.abs(steps[steps > 1e-3 * steps.max()] - steps.max()).max() <= 10 * tolerance * profile.max()
    return "bilinear kernel" if straight and x[0].sum() > 1.5 else "blur kernel"


def _haar(values: Array) -> str:
    """Say whether kernels are the four sums and differences of 2x2 values, each there up to its sign."""
    if values.shape[2:] != (2, 2):
        return ""
    for part in (values.reshape(-1, 4)[:_SAMPLE], values.reshape(-1, 4)):
        x = _float(part)
        x = x[np.abs(x).max(1) > 0]
        if len(x) < 4 or not (np.abs(np.abs(x) - np.abs(x[0, 0])) <= 1e-3 * np.abs(x[0, 0])).all():
            return ""
        bands = {tuple(row) for row in np.sign(x * x[:, :1])}
        if not bands <= {(1, 1, 1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, -1, -1, 1)}:
            return ""
    return "Haar" if len(bands) == 4 else ""


# --------------------------------------------------------------------------------------------- banks, selection, colour


def _bank(values: Array) -> str:
    """Say whether rows, or columns, are bands that rise and fall and move on from one to the next."""
    squeezed = values.squeeze()
    if squeezed.ndim != 2 or min(squeezed.shape) < 4 or max(squeezed.shape) < 8:
        return ""
    for sample in (squeezed[:4, :_SAMPLE], squeezed[:_SAMPLE, :_COLUMNS]):
        if np.count_nonzero(sample) * 8 > sample.size * 7 or (sample < 0).any():
            return ""
    x = _float(squeezed)
    if np.count_nonzero(x) * 2 > x.size or not np.isfinite(x).all() or (x < 0).any():
        return ""
    names = {_bands(x), _bands(x.T)}
    return next((name for name in ("mel bank", "filter bank") if name in names), "")


def _bands(x: Float) -> str:
    x = x[x.any(1)]
    inside = x > 0
    first, count = inside.argmax(1), inside.sum(1)
    last = x.shape[1] - 1 - inside[:, ::-1].argmax(1)
    if len(x) < 4 or not (last - first + 1 == count).all() or first[-1] <= last[0]:
        return ""
    if (np.diff(first) < 0).any() or (np.diff(last) < 0).any() or (count >= 2).sum() < 4:
        return ""
    rises = np.diff(x, axis=1)
    small = 1e-3 * x.max(1, keepdims=True)
    falling = np.maximum.accumulate(rises < -small, axis=1)
    if (falling & (rises > small)).any():
        return ""
    quarter = len(x) // 4
    return "mel bank" if count[-quarter:].mean() > 1.5 * count[:quarter].mean() else "filter bank"


def _one_hot(values: Array) -> str:
    """Say whether each row has one 1, all but in the order of unit matrices, or at several places of a kernel."""
    places = math.prod(values.shape[2:]) if len(values) > 1 else 1
    for matrix in _matrices(values):
        if len(matrix) < 4 or matrix.shape[1] < 2:
            continue
        if (np.count_nonzero(matrix[:2, :4], axis=1) > 1).any():
            continue
        for part in (matrix[:_SAMPLE], matrix):
            if (np.count_nonzero(part, axis=1) != 1).any():
                break
        else:
            at = _float(matrix).argmax(1)
            if (_float(matrix)[np.arange(len(at)), at] != 1).any():
                continue
            if (places > 1 and len(np.unique(at % places)) > 1 and matrix.shape[1] % places == 0) or (
                places == 1 and len(np.unique(at)) > 1 and (at != np.arange(len(at)) % (at.max() + 1)).any()
            ):
                return "one-hot selection"
    return ""


def _is_colour(values: Float) -> bool:
    """Say whether these are a published matrix between colours, its rows or columns in any scale, also of BGR."""
    if values.size == 3:
        luma = [np.array(row) for row in _LUMA]
        x = values.reshape(-1) / max(np.abs(values).sum(), 1e-300)
        return any(np.abs(x - row).max() < 5e-4 for known in luma for row in (known, known[::-1]))
    if values.size != 9 or max(values.shape) != 3:
        return False
    x = values.reshape(3, 3)
    if np.array_equal(x, np.eye(3)[::-1]):
        return True
    for known in _COLOURS:
        for one in (x, x.T, x[:, ::-1], x[::-1].T):
            if np.abs(_unit(one) - _unit(known)).max() < 2e-3:
                return True
    return False


def _unit(rows: Float) -> Float:
    return np.asarray(rows / np.maximum(np.sqrt((rows**2).sum(1, keepdims=True)), 1e-300))


def _colours() -> list[Float]:
    """Return YCbCr of three standards, YIQ and XYZ, each with its way back."""
    found = [_float(np.array(_XYZ)), _float(np.array(_YIQ))]
    for red, green, blue in _LUMA:
        found.append(np.array([(red, green, blue), (-red, -green, 1 - blue), (1 - red, -green, -blue)]))
        found[-1][1] /= 2 * (1 - blue)
        found[-1][2] /= 2 * (1 - red)
    return found + [_float(np.linalg.inv(each)) for each in found]


_COLOURS = _colours()
