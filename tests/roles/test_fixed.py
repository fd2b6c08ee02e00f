"""Which weights are transforms that somebody computed: front ends by scipy's and librosa's formulas, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import scipy.signal
from conftest import Run
from corpus import CORPUS, LIGHT
from numpy.typing import NDArray
from oracle import normal, parse
from random_graphs import random_case

import onnx_lsuv
from onnx_lsuv.program import expand
from onnx_lsuv.program.program import FLOAT_TYPES, stored
from onnx_lsuv.roles import fixed_transform

Array = NDArray[Any]
Lsuv = Callable[..., Run]
HEAD = '<ir_version: 10, opset_import: ["" : 21]>'

# ------------------------------------------------------------------------------------------------------- front ends


def dft(size: int) -> tuple[Array, Array]:
    """Return the real and the imaginary part of the real DFT's matrix, (size // 2 + 1, size)."""
    matrix = np.fft.rfft(np.eye(size)).T
    return matrix.real, matrix.imag


def stft(size: int, window: str = "hann") -> Array:
    """Return what torchaudio's and nnAudio's exports have for kernels, real parts first: (size + 2, 1, size)."""
    return np.concatenate(dft(size))[:, None] * scipy.signal.get_window(window, size)


def mel(bands: int, bins: int, *, rate: float = 16000, htk: bool = False, norm: bool = True) -> Array:
    """Return librosa's mel bank, (bands, bins)."""
    if htk:
        top = 2595 * np.log10(1 + rate / 2 / 700)
        hertz = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    else:
        step = np.log(6.4) / 27
        top = 15 + np.log(rate / 2 / 1000) / step
        mels = np.linspace(0, top, bands + 2)
        hertz = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    ramps = hertz[:, None] - np.linspace(0, rate / 2, bins)
    widths = np.diff(hertz)[:, None]
    bank = np.maximum(0, np.minimum(-ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]))
    return bank * (2 / (hertz[2:] - hertz[:-2]))[:, None] if norm else bank


def blur(*profile: float, channels: int) -> Array:
    row = np.array(profile) / sum(profile)
    return np.tile(np.outer(row, row), (channels, 1, 1, 1))


def bilinear(factor: int, channels: int, *, full: bool = False) -> Array:
    size = 2 * factor - factor % 2
    row = 1 - np.abs(np.arange(size) - (size - 1) / 2) / factor
    kernel = np.outer(row, row)
    return np.eye(channels)[:, :, None, None] * kernel if full else np.tile(kernel, (channels, 1, 1, 1))


def sinusoids(length: int, width: int) -> Array:
    angles = np.arange(length)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(length, width)


def gabor(count: int, length: int) -> Array:
    t = np.arange(length) - (length - 1) / 2
    rates = np.geomspace(0.02, 0.9, count)[:, None] * np.pi
    return (np.exp(-((t / length * 5) ** 2)) * np.cos(rates * t))[:, None]


def sinc(count: int, length: int) -> Array:
    edges = np.geomspace(0.02, 0.9, count + 1)
    filters = [scipy.signal.firwin(length, [low, high], pass_zero=False) for low, high in pairwise(edges)]
    return np.stack(filters)[:, None]


def constant_q(count: int, length: int) -> Array:
    t = np.arange(length) - length // 2
    kernels = []
    for k in range(count):
        rate = 0.02 * 2 ** (k / 12)
        size = min(length, int(17 / rate))
        window = np.zeros(length)
        window[length // 2 - size // 2 :][:size] = scipy.signal.get_window("hann", size)
        kernels.append(window * np.cos(2 * np.pi * rate * t))
    return np.stack(kernels)[:, None, None]


SOBEL = np.outer([1, 2, 1], [-1, 0, 1])
LAPLACE = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
HAAR = np.array([[[1, 1], [1, 1]], [[1, 1], [-1, -1]], [[1, -1], [1, -1]], [[1, -1], [-1, 1]]]) / 2
YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
DCT = scipy.fft.dct(np.eye(40), norm="ortho", axis=0)
DCT8 = scipy.fft.dct(np.eye(8), norm="ortho", axis=0)
BICUBIC = np.array([-0.0625, 0.5625, 0.5625, -0.0625])
GAUSS = scipy.ndimage.gaussian_filter1d(np.eye(1, 9, 4)[0], 1.5)

FOUND: dict[str, tuple[str, Array]] = {
    "bins of YOLO's distances": ("ramp", np.arange(16.0).reshape(1, 16, 1, 1)),
    "degrees, MatMul": ("ramp", np.arange(66.0)[:, None] * 3 - 99),
    "STFT 512, hann, Conv1d": ("DFT", stft(512)),
    "STFT 400, hamming, Conv1d": ("DFT", stft(400, "hamming")),
    "STFT 64, real part": ("DFT", stft(64)[:33]),
    "STFT 64, imaginary part": ("DFT", stft(64)[33:]),
    "STFT 256, blackman, MatMul": ("DFT", stft(256, "blackman")[:, 0].T),
    "STFT of torch.stft, a 2D Conv": ("DFT", stft(320)[:, :, None]),
    "STFT, parts taking turns": ("DFT", np.stack(dft(128), 1).reshape(-1, 1, 128) * np.hanning(128)),
    "real DFT 2048": ("DFT", dft(2048)[0]),
    "real DFT 2048, imaginary": ("DFT", dft(2048)[1].T),
    "DFT 16": ("DFT", dft(16)[0]),
    "whole DFT 32": ("DFT", np.fft.fft(np.eye(32)).real),
    "inverse STFT, ConvTranspose": ("DFT", stft(256) / 256),
    "inverse real DFT, MatMul": ("DFT", np.fft.irfft(np.eye(129), axis=0).T),
    "mel 80, Slaney": ("mel bank", mel(80, 201)),
    "mel 80, Slaney, MatMul": ("mel bank", mel(80, 201).T),
    "mel 128, HTK": ("mel bank", mel(128, 1025, rate=22050, htk=True)),
    "mel 40, HTK, not normalised": ("mel bank", mel(40, 257, htk=True, norm=False)),
    "mel 64, Slaney, not normalised, Conv1d": ("mel bank", mel(64, 513, norm=False)[:, :, None]),
    "mel 128 of few bins, some bands empty": ("mel bank", mel(128, 257)),
    "linear bank": ("filter bank", np.maximum(
        0, 1 - np.abs(np.arange(12)[:, None] * 2.5 + 2 - np.arange(33)) / 2.5)),
    "DCT-II 40": ("DCT", DCT),
    "MFCC 13 of 40": ("DCT", DCT[:13].T),
    "DCT-III 40": ("DCT", DCT.T),
    "DCT-II 8": ("DCT", DCT8),
    "DCT of 8x8 blocks, Conv": ("DFT", np.einsum("ai,bj->abij", DCT8, DCT8).reshape(64, 1, 8, 8)),
    "Gabor": ("symmetric filters", gabor(40, 401)),
    "windowed sinc": ("symmetric filters", sinc(40, 251)),
    "constant Q": ("symmetric filters", constant_q(36, 256)),
    "bilinear x2, depthwise": ("bilinear kernel", bilinear(2, 21)),
    "bilinear x2, full": ("bilinear kernel", bilinear(2, 21, full=True)),
    "bilinear x8, full": ("bilinear kernel", bilinear(8, 5, full=True)),
    "bilinear x3, one channel": ("bilinear kernel", bilinear(3, 1)),
    "bicubic x2, depthwise": ("symmetric filters", np.tile(np.outer(BICUBIC, BICUBIC), (8, 1, 1, 1))),
    "binomial 3x3": ("blur kernel", blur(1, 2, 1, channels=64)),
    "binomial 3x3, one channel": ("blur kernel", blur(1, 2, 1, channels=1)),
    "binomial 4x4 (BlurPool)": ("blur kernel", blur(1, 3, 3, 1, channels=64)),
    "binomial 5x5": ("blur kernel", blur(1, 4, 6, 4, 1, channels=3)),
    "Gauss 9x9": ("blur kernel", np.tile(np.outer(GAUSS, GAUSS), (3, 1, 1, 1))),
    "Gauss 11x11, SSIM": ("blur kernel", blur(*scipy.signal.windows.gaussian(11, 1.5), channels=3)),
    "Sobel, both": ("edge kernel", np.stack([SOBEL, SOBEL.T])[:, None]),
    "Sobel, depthwise": ("edge kernel", np.tile(SOBEL, (16, 1, 1, 1))),
    "Laplace": ("edge kernel", LAPLACE[None, None]),
    "Laplace of Gauss": ("edge kernel", np.tile(
        scipy.ndimage.gaussian_laplace(np.outer(np.eye(1, 7, 3), np.eye(1, 7, 3)), 1), (3, 1, 1, 1))),
    "Haar": ("Haar", HAAR[:, None]),
    "Haar, depthwise": ("Haar", np.tile(HAAR[:, None], (3, 1, 1, 1))),
    "space to depth, Conv": ("one-hot selection", np.eye(12).reshape(12, 3, 2, 2)),
    "space to depth, depthwise": ("one-hot selection", np.tile(np.eye(4).reshape(4, 1, 2, 2), (3, 1, 1, 1))),
    "depth to space, ConvTranspose": ("one-hot selection", np.eye(9).reshape(9, 1, 3, 3)),
    "channel shuffle": ("one-hot selection", np.eye(24).reshape(3, 8, 24).swapaxes(0, 1).reshape(24, 24, 1, 1)),
    "permutation": ("one-hot selection", np.eye(16)[np.random.default_rng(0).permutation(16)]),
    "RGB to YCbCr, Conv": ("colour matrix", YCBCR[:, :, None, None]),
    "RGB to YCbCr, MatMul": ("colour matrix", YCBCR.T * 255),
    "BGR to YCbCr": ("colour matrix", YCBCR[:, ::-1]),
    "YCbCr to RGB": ("colour matrix", np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])),
    "RGB to grey": ("colour matrix", np.array([[[[0.299]], [[0.587]], [[0.114]]]])),
    "BGR to RGB": ("colour matrix", np.eye(3)[::-1, :, None, None]),
    "sinusoidal positions": ("sinusoids", sinusoids(512, 64)),
    "sinusoidal positions, turned": ("sinusoids", sinusoids(50, 128).T),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("case", FOUND)
def test_front_ends_are_found(case: str, dtype: str) -> None:
    what, values = FOUND[case]
    assert fixed_transform(values.astype(dtype)) == what


@pytest.mark.parametrize("case", ["STFT 512, hann, Conv1d", "mel 80, Slaney", "binomial 3x3", "Haar"])
def test_front_ends_are_found_in_bfloat16(case: str) -> None:
    what, values = FOUND[case]
    assert fixed_transform(values.astype(ml_dtypes.bfloat16)) == what


@pytest.mark.parametrize("case", FOUND)
def test_a_front_end_that_was_trained_further_is_a_weight(case: str) -> None:
    _, values = FOUND[case]
    moved = values + 0.03 * np.abs(values).max() * np.random.default_rng(1).standard_normal(values.shape)
    assert fixed_transform(moved.astype(np.float32)) == ""


# -------------------------------------------------------------------------------------------- what is no transform

SHAPES: list[tuple[int, ...]] = [
    (1, 1), (2, 2), (3, 3), (1, 3), (3, 1), (4, 4), (8, 8), (16, 4), (64, 64), (10, 300), (3, 8, 8),
    (1, 1, 1, 1), (8, 1, 3, 3), (1, 1, 3, 3), (2, 1, 2, 2), (4, 1, 2, 2), (16, 8, 3, 3), (64, 1, 5, 5), (8, 16, 1, 1),
    (3, 3, 1, 1), (1, 3, 1, 1), (16, 1, 3), (4, 1, 2), (32, 16, 9), (1, 1, 8), (8, 1, 64), (5, 4, 2, 3, 3),
]  # fmt: skip


def delta(shape: tuple[int, ...], values: Array) -> Array:
    """Return zeros but for a matrix at the centre of each kernel."""
    array = np.zeros(shape, np.float32)
    array[(slice(None), slice(None), *(length // 2 for length in shape[2:]))] = values
    return array


def starts(shape: tuple[int, ...], seed: int) -> Iterator[tuple[str, Array]]:
    """Yield the usual starts of a weight."""
    generator = np.random.default_rng(seed)
    inputs, outputs = int(np.prod(shape[1:])), shape[0]
    noise = generator.standard_normal(shape)
    yield "He", noise * np.sqrt(2 / inputs)
    yield "Xavier", generator.uniform(-1, 1, shape) * np.sqrt(6 / (inputs + outputs))
    long = np.linalg.qr(generator.standard_normal((max(inputs, outputs), min(inputs, outputs))))[0]
    yield "orthonormal", (long if outputs > inputs else long.T).reshape(shape)
    yield "delta, orthonormal", delta(shape, np.linalg.qr(generator.standard_normal((max(shape[:2]),) * 2))[0][
        : shape[0], : shape[1]])  # fmt: skip
    yield "delta, identity", delta(shape, np.eye(*shape[:2]))
    yield "delta, identity a group", delta(shape, np.eye(shape[1])[np.arange(shape[0]) % shape[1]])
    yield "identity", np.eye(outputs, inputs).reshape(shape) if len(shape) == 2 else delta(shape, 1)
    yield "zero", np.zeros(shape)
    yield "constant", np.full(shape, generator.standard_normal())
    yield "a constant a channel", np.broadcast_to(noise[:, :1].reshape(-1, *[1] * (len(shape) - 1))[: shape[0]], shape)
    yield "a constant a kernel", np.broadcast_to(noise[(..., *[slice(0, 1)] * (len(shape) - 2))], shape)
    yield "pruned", noise * (generator.random(shape) < 0.1)
    yield "sparse and positive", np.abs(noise) * (generator.random(shape) < 0.3)
    yield "smooth", scipy.ndimage.gaussian_filter(noise, 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_no_start_is_taken_for_a_transform(shape: tuple[int, ...]) -> None:
    count = 0
    for seed in range(6):
        for name, values in starts(shape, seed):
            for dtype in ("float32", "float16"):
                assert fixed_transform(values.astype(dtype)) == "", name
                count += 1
    assert count == 168


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("shape", [(4, 4), (5, 5), (4, 3), (4, 6), (6, 4), (32, 64)])
def test_unit_matrices_after_one_another_are_a_start(parts: int, shape: tuple[int, int]) -> None:
    stacked = np.tile(np.eye(*shape, dtype=np.float32), (parts, 1))
    assert fixed_transform(stacked) == ""  # of packed projections
    assert fixed_transform(stacked[None]) == ""  # of a recurrent layer's gates, one direction
    assert fixed_transform(delta((*stacked.shape, 3, 3), stacked)) == ""  # of groups


def test_no_weight_of_the_corpora_is_taken_for_a_transform() -> None:
    # Spectrograms of silero_vad, the constant-Q transform of basic_pitch and positions of Whisper are what is said.
    allowed = {
        "silero_vad__silero_vad.onnx": {"DFT"},
        "basic_pitch__nmp.onnx": {"symmetric filters"},
        "hf__hf_whisper_encoder__ts.onnx": {"sinusoids"},
    }
    looked, files = 0, [*CORPUS.glob("*.onnx"), *LIGHT.glob("*.onnx")]
    for path in files:
        if path.name == "handmade__truncated.onnx":
            continue
        for _, dims, what in transforms(onnx_lsuv.load(path)):
            looked += 1
            assert what in ("", *allowed.get(path.name, ())), (path.name, dims)
    assert looked > (500 if CORPUS.is_dir() else 0)


@pytest.mark.slow
def test_no_weight_of_random_graphs_is_taken_for_a_transform() -> None:
    for seed in range(150):
        assert {what for *_, what in transforms(onnx_lsuv.from_proto(random_case(seed).model))} <= {""}


def transforms(model: onnx_lsuv.Model) -> Iterator[tuple[str, tuple[int, ...], str]]:
    program = expand(model)
    for constant in program.constants.values():
        if constant.elem_type in FLOAT_TYPES and constant.origin != "ConstantOfShape" and not _absent(model, constant):
            yield constant.label, constant.dims, fixed_transform(stored(program, constant.name))


def _absent(model: onnx_lsuv.Model, constant: Any) -> bool:
    return constant.site is None or (model.path is not None and "external_missing" in str(model.path))


# ------------------------------------------------------------------------------------------------------ whole models

FRONT = f"""{HEAD} g (float[N,1,640] x) => (float y) {{
  re = Conv<strides = [32]>(x, real) im = Conv<strides = [32]>(x, imag) r2 = Mul(re, re) i2 = Mul(im, im)
  power = Add(r2, i2) t = Transpose<perm = [0, 2, 1]>(power) m = MatMul(t, bank) f = Add(m, floor) l = Log(f)
  c = MatMul(l, cosines) g = MatMul(c, w1) h = Add(g, b1) a = Relu(h) y = MatMul(a, w2) }}"""


def front_end() -> tuple[Any, dict[str, Array]]:
    """Return an MFCC front end with a net behind it, and audio."""
    parts = stft(128)
    model = parse(
        FRONT,
        real=parts[:65].astype(np.float32),
        imag=parts[65:].astype(np.float32),
        bank=mel(20, 65, norm=False).T.astype(np.float32),
        floor=np.full(20, 1e-3, np.float32),
        cosines=scipy.fft.dct(np.eye(20), norm="ortho", axis=0)[:12].T.astype(np.float32),
        w1=normal(12, 16),
        b1=normal(16),
        w2=normal(16, 8),
    )
    return model, {"x": normal(16, 1, 640)}


def test_a_front_end_stays_and_the_net_behind_it_is_initialised(lsuv: Lsuv) -> None:
    model, audio = front_end()
    run = lsuv(model, audio)
    assert run.changed == {"w1", "b1", "w2"}
    assert run.reasons() == dict.fromkeys(("re", "im", "m", "c"), "fixed")
    details = {row.weight: row.detail.removeprefix("the weight is a fixed transform: ") for row in run.result.skipped}
    assert details == {"real": "DFT", "imag": "DFT", "bank": "mel bank", "cosines": "DCT"}
    assert run.result.good
    assert [round(m.var, 2) for m in run.moments("h", "y")] == [1, 1]


def test_a_front_end_stays_in_a_full_restart(lsuv: Lsuv) -> None:
    model, audio = front_end()
    run = lsuv(model, audio, fresh=True, center=True)
    assert run.changed == {"w1", "b1", "w2"}
    assert run.result.good


@pytest.mark.parametrize("pattern", ["bank", "m", "ba*"])
def test_a_pattern_that_names_a_transform_takes_it(lsuv: Lsuv, pattern: str) -> None:
    model, audio = front_end()
    run = lsuv(model, audio, include=[pattern], keep_bias=True)
    assert run.changed == {"bank"}
    assert run.reasons() == dict.fromkeys(("re", "im", "c", "g", "y"), "excluded")


def test_the_forecast_counts_a_transform_that_is_named() -> None:
    model = onnx_lsuv.from_proto(front_end()[0])
    for include, count in (((), 2), (("bank", "w*"), 3)):
        assert len(onnx_lsuv.plan(model, include=include).whole_plan.weights) == count


def test_a_transform_can_be_excluded(lsuv: Lsuv) -> None:
    model, audio = front_end()
    run = lsuv(model, audio, exclude=["bank"])
    assert run.reasons()["m"] == "excluded"
    assert run.reasons()["c"] == "fixed"


def test_the_bias_of_a_transform_stays(lsuv: Lsuv) -> None:
    model = parse(
        f"{HEAD} g (float[N,4,8,8] x) => (float y) {{ p = Conv<group = 4>(x, blur, b) y = Conv(p, w, c) }}",
        blur=blur(1, 2, 1, channels=4).astype(np.float32),
        b=normal(4),
        w=normal(6, 4, 3, 3),
        c=normal(6),
    )
    for fresh in (False, True):
        run = lsuv(model, {"x": normal(8, 4, 8, 8)}, fresh=fresh)
        assert run.changed == {"w", "c"}
        assert run.reasons() == {"p": "fixed"}


@pytest.mark.parametrize("way", ["Transpose", "Reshape", "Identity"])
def test_a_transform_is_seen_as_its_layer_sees_it(lsuv: Lsuv, way: str) -> None:
    stored_as = {"Transpose": mel(20, 40), "Reshape": mel(20, 40).T.reshape(-1), "Identity": mel(20, 40).T}[way]
    node = {"Transpose": "k = Transpose(v)", "Reshape": "k = Reshape(v, shape)", "Identity": "k = Identity(v)"}[way]
    tensors = {"v": stored_as.astype(np.float32), "w": normal(20, 8)}
    if way == "Reshape":
        tensors["shape"] = np.array([40, 20])
    model = parse(f"{HEAD} g (float[N,40] x) => (float y) {{ {node} m = MatMul(x, k) y = MatMul(m, w) }}", tensors)
    run = lsuv(model, {"x": normal(64, 40)})
    assert run.changed == {"w"}
    assert run.reasons() == {"m": "fixed"}


def test_parts_of_a_tensor_are_told_apart(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,40] x) => (float y, float z) {{
      p, q = Split<axis = 1, num_outputs = 2>(v) y = MatMul(x, p) z = MatMul(x, q) }}"""
    both = np.concatenate([mel(20, 40).T, normal(40, 20)], 1).astype(np.float32)
    run = lsuv(parse(text, v=both), {"x": normal(64, 40)})
    assert run.reasons() == {"y": "fixed"}
    assert np.array_equal(run.weight("v")[:, :20], run.old("v")[:, :20])
    assert not np.array_equal(run.weight("v")[:, 20:], run.old("v")[:, 20:])


def test_a_net_of_transforms_alone_has_nothing_to_initialise(tmp_path: Path) -> None:
    text = f"{HEAD} g (float[N,40] x) => (float y) {{ y = MatMul(x, v) }}"
    model = onnx_lsuv.from_proto(parse(text, v=mel(20, 40).T.astype(np.float32)))
    with pytest.raises(onnx_lsuv.ModelError, match="1 x MatMul because the weight is a fixed transform: mel bank"):
        onnx_lsuv.initialize(model, {"x": normal(8, 40)})


def test_values_that_are_not_there_are_not_missed_before_the_run(tmp_path: Path) -> None:
    plan = onnx_lsuv.plan(onnx_lsuv.load(external(tmp_path)))
    assert [row.name for row in plan.layers] == ["y"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_what_was_looked_at_of_weights_is_not_kept_in_memory(tmp_path: Path) -> None:
    weights = {f"w{i}": normal(512, 512, seed=i) for i in range(16)}
    nodes = "".join(f"x{i + 1} = MatMul(x{i}, w{i}) " for i in range(16))
    onnx.save(parse(f"{HEAD} g (float[N,512] x0) => (float y) {{ {nodes} y = Relu(x16) }}", weights), tmp_path / "m")
    before, few = mapped(), sum(w.nbytes for w in weights.values()) / 4
    model = onnx_lsuv.load(tmp_path / "m")
    assert mapped() - before < few
    onnx_lsuv.plan(model)
    assert mapped() - before < few


def mapped() -> int:
    """Return how many bytes of files are in this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssFile")))


def external(folder: Path) -> Path:
    """Return a model whose external data are gone."""
    model = parse(f"{HEAD} g (float[N,40] x) => (float y) {{ y = MatMul(x, v) }}", v=normal(40, 40))
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="gone", size_threshold=0)
    (folder / "gone").unlink()
    return path
