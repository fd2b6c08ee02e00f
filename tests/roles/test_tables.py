"""Tables that are added to each other start alike, those beside what a layer makes start small."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import Run
from numpy.typing import NDArray
from oracle import normal, parse

Lsuv = Callable[..., Run]
HEAD = '<ir_version: 10, opset_import: ["" : 17]>'
WIDTH, TIED, BESIDE = 64, 1 / 8, 0.02
IDS = np.random.default_rng(0).integers(0, 50, (8, 12))


def stds(run: Run, names: str) -> list[float]:
    drawn = ("embedding", "token")
    assert set(names.split()) <= {change.tensor for change in run.result.changes if change.role in drawn}
    return [float(run.weight(name).std()) for name in names.split()]


def near(*wanted: float) -> object:
    return pytest.approx(list(wanted), rel=0.1)


def tables(**lengths: int) -> dict[str, NDArray[np.float32]]:
    return {name: 0.3 * normal(n, WIDTH, seed=i) + 0.1 for i, (name, n) in enumerate(lengths.items())}


SUMS = {
    "added": "h = Add(e, places)",
    "looked up": "q = Gather(places, at) h = Add(e, q)",
    "three": "q = Gather(places, at) t = Add(q, e) k = Gather(types, kinds) h = Add(k, t)",
    "moved": "u = Unsqueeze(places, zero) p = Identity(u) d = Dropout(e) h = Add(p, d)",
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("total", SUMS.values(), ids=SUMS)
def test_tables_of_words_and_places(lsuv: Lsuv, total: str, tied: bool) -> None:
    end = "o = Transpose(words) y = MatMul(m, o)" if tied else "y = MatMul(m, head)"
    text = f"""{HEAD} g (int64[N,12] ids, int64[N,12] kinds) => (float y) {{ e = Gather(words, ids) {total}
      l = LayerNormalization(h, s) f = MatMul(l, w) g = Gelu(f) k2 = MatMul(g, v) r = Add(h, k2)
      m = LayerNormalization(r, s) {end} }}"""
    given = tables(words=50, places=12, types=9) | {"at": np.arange(12), "zero": np.array([0]), "s": normal(WIDTH)}
    model = parse(text.replace("17", "20"), given, w=normal(WIDTH, 32), v=normal(32, WIDTH), head=normal(WIDTH, 4))
    run = lsuv(model, {"ids": IDS, "kinds": IDS % 9}, fresh=True)
    names = "words places types" if "types" in total else "words places"
    assert stds(run, names) == near(*[TIED if tied else 1] * len(names.split()))
    assert run.result.good


@pytest.mark.parametrize(("scale", "factor"), [("m = Mul(eight, e)", 8), ("m = Div(e, eight)", 1 / 8)])
def test_a_table_that_is_multiplied_before_the_sum(lsuv: Lsuv, scale: str, factor: float) -> None:
    text = f"""{HEAD} g (int64[N,12] ids) => (float y) {{ e = Gather(words, ids) {scale} h = Add(m, places)
      l = LayerNormalization(h, s) y = MatMul(l, head) }}"""
    given = tables(words=50, places=12) | {"eight": np.array(8, np.float32), "s": normal(WIDTH)}
    run = lsuv(parse(text, given, head=normal(WIDTH, 4)), {"ids": IDS}, fresh=True)
    assert stds(run, "words places") == near(1 / factor, 1)
    # So they have equal parts in the sum.
    assert [m.var for m in run.moments("m")] == pytest.approx([1], rel=0.2)
    alone = text.replace("h = Add(m, places)", "h = Identity(m)")
    run = lsuv(parse(alone, given, head=normal(WIDTH, 4)), {"ids": IDS}, fresh=True)
    assert stds(run, "words") == near(1 / factor)


def test_a_place_is_small_beside_patches(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,3,8,8] x) => (float y) {{ c = Conv<kernel_shape=[2,2], strides=[2,2]>(x, k, b)
      f = Reshape(c, flat) p = Transpose<perm=[0,2,1]>(f) t = Expand(token, lots) j = Concat<axis=1>(t, p)
      h = Add(j, places) l = LayerNormalization(h, s) d = MatMul(l, w) r = Add(h, d) y = MatMul(r, head) }}"""
    given = {name: array[None] for name, array in tables(token=1, places=17).items()}
    given |= {"lots": np.array([8, 1, 1]), "flat": np.array([0, WIDTH, 16]), "k": normal(WIDTH, 3, 2, 2)}
    given |= {"b": normal(WIDTH), "s": normal(WIDTH), "w": normal(WIDTH, WIDTH), "head": normal(WIDTH, 4)}
    run = lsuv(parse(text, given), {"x": normal(8, 3, 8, 8)}, fresh=True)
    token, places = stds(run, "token places")
    assert token == pytest.approx(BESIDE, rel=0.3)
    assert places == pytest.approx(BESIDE, rel=0.1)
    assert run.moments("p")[0].var == pytest.approx(1, abs=0.01)


def test_words_in_a_row_with_patches(lsuv: Lsuv) -> None:
    text = f"""{HEAD} g (float[N,4,16] x, int64[N,12] ids) => (float y) {{ p = MatMul(x, k) e = Gather(words, ids)
      j = Concat<axis=1>(p, e) l = LayerNormalization(j, s) y = MatMul(l, head) }}"""
    given = tables(words=50) | {"k": normal(16, WIDTH), "s": normal(WIDTH), "head": normal(WIDTH, 4)}
    run = lsuv(parse(text, given), {"x": normal(8, 4, 16), "ids": IDS}, fresh=True)
    assert stds(run, "words") == near(1)
