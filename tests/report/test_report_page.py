"""The HTML page, read back: well-formed, complete, closed to the outside, and its picture drawn to scale."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result, SumReport
from onnx_lsuv.lsuv.result import STATUSES
from onnx_lsuv.report.axes import count_ticks, log_axis
from onnx_lsuv.report.columns import aligned, number
from onnx_lsuv.report.page import as_html
from onnx_lsuv.report.words import misses

EVIL = "</script><img src=x onerror=alert(1)>\"'&<b>|`\x1b[31m\u202eabc\u2066\n\x00]]>-->"
HIDDEN = set("\x1b\u202e\u2066\x00")
VOID = {"meta", "link", "img", "br", "input", "hr"}
ABOUT = {
    "versions": {"onnx-lsuv": "0.1.0", "python": "3.11"},
    "files": {"model": {"path": "models/net.onnx", "sha256": "ab" * 32}},
}


@dataclass
class Element:
    """A node of the page."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> list[Element]:
        """Return the elements below of a tag, with these attributes (`kind` is the class)."""
        wanted = {{"kind": "class"}.get(k, k): v for k, v in attributes.items()}
        found = [e for e in self.walk() if tag in ("", e.tag)]
        return [e for e in found if all(e.attributes.get(k) == v for k, v in wanted.items())]

    def walk(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.walk()

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Reader(HTMLParser):
    """Builds the tree; an element closed in the wrong order, or not at all, is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {k: v or "" for k, v in attrs})
        assert len(element.attributes) == len(attrs)
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(page: str) -> Element:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


@pytest.fixture(scope="module")
def result() -> Result:
    """Three layers, one of them of another name, and one node left alone; measured."""
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,8] x) => (float z) {
      y = MatMul(x, w) r = Relu(y) h = MatMul(r, u) k = Relu(h) z = MatMul(k, v) t = Transpose(x) q = MatMul(t, x) }"""
    model = onnx_lsuv.from_proto(parse(text, w=normal(8, 16), u=normal(16, 16), v=normal(16, 4)))
    batch = {"x": normal(64, 8)}
    done = onnx_lsuv.initialize(model, batch)
    saved = onnx.load_from_string(onnx_lsuv.to_bytes(done.model))
    return onnx_lsuv.measure(onnx_lsuv.from_proto(saved), batch, like=done)


def many(result: Result, n: int) -> Result:
    """Return a result of n layers with all sorts of stds."""
    chance = random.Random(n)
    rows = []
    for i in range(n):
        drawn = 10 ** chance.uniform(-3, 2)
        row = replace(result.layers[0], name=f"/blocks.{i}/MatMul", std_drawn=drawn, scale=1 / drawn)
        kinds = [
            row,
            replace(row, status="off", std=1.5, note="a cause"),
            replace(row, status="degenerate", std=math.nan, scale=None, note="not finite"),
            replace(row, status="not-reached", std=None, std_drawn=None, scale=None),
        ]
        rows.append(chance.choices(kinds, (20, 1, 1, 1))[0])
    return replace(result, layers=tuple(rows))


def level(label: str) -> float:
    """Return log10 of the number that a tick's label says."""
    digit, _, power = label.partition("10") if re.search("[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]", label) else (label, "", "")
    if not power:
        return math.log10(float(digit))
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")))
    return exponent + (math.log10(float(digit.rstrip("·"))) if digit else 0.0)


def percent(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1])


def test_the_page_has_its_parts(result: Result) -> None:
    page = read(as_html(result, ABOUT, command=["onnx-lsuv", "net.onnx", "-o", "a b.onnx"]))
    assert page.all("html")[0].attributes["lang"] == "en"
    assert [e.text for e in page.all("h1")] == ["net.onnx"]
    assert page.all("p", kind="verdict yes")[0].text == "All 3 layers have the std wanted."
    sections = [e.attributes["id"] for e in page.all("section")]
    assert sections == ["std", "scales", "layers", "left", "constants", "data", "changes", "made"]
    assert [e.attributes["href"] for e in page.all("nav")[0].all("a")] == [f"#{name}" for name in sections]
    left = page.all("section", id="left")[0].text
    assert left.startswith("\nLeft alone 1\n")
    assert "dynamic" in left
    assert result.skipped[0].name in left
    assert "onnx-lsuv net.onnx -o 'a b.onnx'" in page.all("pre")[0].text
    made = page.all("section", id="made")[0].text
    assert "ab" * 32 in made
    assert "onnx-lsuv 0.1.0" in made
    assert "3 weights" in page.all("section", id="changes")[0].text


def test_the_table_has_every_number(result: Result) -> None:
    table = read(as_html(result, ABOUT)).all("table", kind="sortable")[0]
    heads = [e.text for e in table.all("th")]
    assert heads[:4] == ["#", "layer", "status", "std now"]
    # Neither is there anything to say in these, nor are there two kinds of it.
    assert not set(heads) & {"graph", "through", "type", "std wanted"}
    for i, (row, line) in enumerate(zip(result.layers, table.all("tbody")[0].all("tr"), strict=True)):
        cells = dict(zip(heads, line.all("td"), strict=True))
        assert line.attributes["id"] == f"layer-{i + 1}"
        assert cells["layer"].text == row.name
        assert cells["status"].text == row.status == "ok"
        for head, value in (("std drawn", row.std_drawn), ("scale", row.scale), ("mean now", row.mean)):
            assert cells[head].attributes["data-v"] == repr(value)
            assert cells[head].text == number(value)


def test_columns_come_with_what_they_say(result: Result) -> None:
    first, *others = result.layers
    odd = replace(first, dtype="float16", target=0.1, path=("Transpose", "Cast"), scope="main/loop.body", std=math.inf)
    page = read(as_html(replace(result, layers=(odd, *others)), ABOUT))
    heads = [e.text for e in page.all("table", kind="sortable")[0].all("th")]
    assert {"graph", "through", "type", "std wanted"} <= set(heads)
    row = dict(zip(heads, page.all("tr", id="layer-1")[0].all("td"), strict=True))
    assert row["through"].text == "Transpose > Cast"
    assert row["std now"].attributes["data-v"] == "Infinity"
    measured = replace(result, layers=tuple(replace(x, std_drawn=None, scale=None) for x in result.layers))
    page = read(as_html(measured, ABOUT))
    assert not {"std drawn", "scale"} & {e.text for e in page.all("th")}
    assert not page.all("section", id="scales")


@pytest.mark.parametrize("n", [1, 3, 57, 150, 640])
def test_the_picture_is_drawn_to_scale(result: Result, n: int) -> None:
    done = result if n == 3 else many(result, n)
    page = read(as_html(done, ABOUT))
    figure = page.all("section", id="std")[0]
    ticks = [(percent(e.attributes["y"]), level(e.text)) for e in figure.all("text", kind="y")]
    assert 2 <= len(ticks) <= 8
    slope, start = np.polyfit([y for y, _ in ticks], [log for _, log in ticks], 1)
    assert all(abs(start + slope * y - log) < 1e-3 for y, log in ticks)
    links = figure.all("g", kind="marks")[0].all("a")
    assert [e.attributes["href"] for e in links] == [f"#layer-{i + 1}" for i in range(len(done.layers))]
    seen = 0
    for i, (row, link) in enumerate(zip(done.layers, links, strict=True)):
        for mark, std in (("drawn", row.std_drawn), ("now", row.std)):
            circles = link.all("circle", kind=mark)
            assert len(circles) == (std is not None and math.isfinite(std))
            for circle in circles:
                place = {key: percent(circle.attributes[key]) for key in ("cx", "cy")}
                assert place["cx"] == pytest.approx(100 * (i + 0.5) / n, abs=1e-3)
                assert start + slope * place["cy"] == pytest.approx(math.log10(std), abs=2e-3)
                assert 0 <= place["cy"] <= 100
                seen += 1
        assert bool(link.all("path", kind="cross")) == (row.status == "degenerate")
        assert link.attributes.get("class") == (None if row.good else "missed")
        told = link.all("text", kind="tell")[0].text
        assert told.startswith(f"{i + 1}  {row.name}")
        assert all(number(each) in told for each in (row.std_drawn, row.scale, row.std) if each is not None)
        assert row.status in told
    assert seen >= n
    lines = {e.attributes["class"]: e.attributes["d"] for e in figure.all("path") if "class" in e.attributes}
    points = [float(y) / 10 for _, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", lines["now"])]
    finite = [row.std for row in done.layers if row.std is not None and math.isfinite(row.std)]
    assert [start + slope * y for y in points] == pytest.approx([math.log10(std) for std in finite], abs=5e-3)


def test_targets_of_their_own_are_drawn(result: Result) -> None:
    rows = tuple(replace(row, target=target) for row, target in zip(result.layers, (1, 1, 0.1), strict=True))
    figure = read(as_html(replace(result, layers=rows), ABOUT)).all("svg", kind="profile few")[0]
    lines = re.findall(r"M([\d.]+) ([\d.]+)H([\d.]+)", figure.all("path", kind="target")[0].attributes["d"])
    assert [(float(a), float(b)) for a, _, b in lines] == [(0, 666.7), (666.7, 1000)]
    assert float(lines[0][1]) < float(lines[1][1])


def test_the_histogram_counts_every_scale(result: Result) -> None:
    done = many(result, 300)
    figure = read(as_html(done, ABOUT)).all("svg", kind="histogram")[0]
    scales = [row.scale for row in done.layers if row.scale is not None]
    counts = []
    for bar in figure.all("g"):
        low, high, count = re.fullmatch(r"(.+) to (.+): (\d+)", bar.all("title")[0].text).groups()  # type: ignore[union-attr]
        counts.append(int(count))
        # The ends are shown with three digits.
        assert abs(int(count) - sum(float(low) <= s < float(high) for s in scales)) <= 2
        assert bar.all("text", kind="count")[0].text == count
    heights = [percent(e.attributes["height"]) for e in figure.all("rect")]
    assert sum(counts) == len(scales)
    assert heights == pytest.approx([100 * count / max(counts) for count in counts], abs=1e-3)
    assert len(counts) <= 24


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, None])
def test_nothing_finite_is_shown_too(result: Result, value: float | None) -> None:
    rows = tuple(
        replace(row, status="degenerate", std=value, std_drawn=value, scale=None, note="why") for row in result.layers
    )
    page = read(as_html(replace(result, layers=rows), ABOUT))
    assert page.all("p", kind="verdict no")[0].text == "3 of 3 layers missed the std wanted."
    figures = page.all("section", id="std")
    assert len(figures) == (value is not None)
    for figure in figures:
        assert len(figure.all("path", kind="cross")) == 3
        assert not figure.all("g", kind="marks")[0].all("circle")
        assert "A cross stands for" in figure.text
    assert len(page.all("tr", kind="missed")) == 3


def test_a_page_of_a_dry_run_and_of_nothing(result: Result) -> None:
    found = onnx_lsuv.plan(result.model)
    page = read(as_html(found, ABOUT))
    assert page.all("p", kind="verdict ")[0].text == "3 layers found; nothing was run."
    assert [e.attributes["id"] for e in page.all("section")] == ["layers", "left", "constants", "made"]
    empty = replace(found, layers=(), skipped=())
    assert "No layer was found." in read(as_html(empty, {})).text


def test_two_models_in_one_picture(result: Result) -> None:
    first, *rest = result.layers
    there = replace(result, layers=(*reversed(rest), replace(first, std=0.25)))
    page = read(as_html(result, ABOUT, other=there))
    marks = page.all("g", kind="marks")[0].all("a")
    assert [len(e.all("circle", kind="other")) for e in marks] == [1, 1, 1]
    assert "std 0.2500 other" in marks[0].text
    heads = [e.text for e in page.all("table", kind="sortable")[0].all("th")]
    at = heads.index(f"std of {there.model.name}")
    assert [e.all("td")[at].text for e in page.all("tbody")[0].all("tr")] == [
        number(row.std) for row in (there.layers[2], *rest)
    ]
    fewer = read(as_html(result, ABOUT, other=replace(there, layers=there.layers[:1])))
    assert "2 of these layers have no counterpart in the other model." in fewer.text


def test_layers_are_set_side_by_side_by_name_or_else_by_place(result: Result) -> None:
    rows = result.layers
    assert aligned(rows, rows[::-1]) == list(rows)
    assert aligned(rows, rows[1:]) == [None, *rows[1:]]
    strange = [replace(row, name=f"other {row.name}") for row in rows]
    assert aligned(rows, strange) == strange
    assert aligned(rows, strange[:2]) == [*strange[:2], None]
    assert aligned(rows[:1], strange) == strange[:1]


def test_the_worst_are_named_first(result: Result) -> None:
    first, second, third = result.layers
    rows = (
        replace(first, status="off", std=1.2),
        replace(second, status="degenerate", std=math.nan, note="a cause"),
        replace(third, status="off", std=0.01),
    )
    done = replace(result, layers=rows)
    assert misses(done) == [rows[1], rows[2], rows[0]]
    items = read(as_html(done, ABOUT)).all("div", kind="misses")[0].all("li")
    assert [e.all("a")[0].attributes["href"] for e in items] == ["#layer-2", "#layer-3", "#layer-1"]
    assert items[0].text == f"{second.name} degenerate: a cause"
    assert items[2].text == f"{first.name} off: std 1.2000, wanted 1.0000"


def hostile(result: Result) -> tuple[Result, dict[str, Any]]:
    rows = tuple(
        replace(row, name=EVIL + str(i), weight=EVIL * 30, op=EVIL, note=EVIL, scope=EVIL, path=(EVIL,), dtype=EVIL)
        for i, row in enumerate(result.layers)
    )
    left = tuple(replace(row, name=EVIL, op=EVIL, weight=EVIL, detail=EVIL) for row in result.skipped)
    data = {
        "batches": 1,
        "samples": 64,
        "sources": [{"kind": "npy", "inputs": [EVIL], "path": EVIL, "files": 2}],
        "inputs": {EVIL: {"type": "float", "shape": [64, 8], "batches": 1}},
    }
    done = replace(
        result,
        layers=rows,
        skipped=left,
        kept_statistics=left,
        notes=(EVIL,),
        data=data,
        changes=tuple(replace(row, tensor=EVIL, scope=EVIL) for row in result.changes),
        settings=replace(result.settings, include=[EVIL], target={EVIL: 0.1}),
    )
    return done, {"versions": {EVIL: EVIL}, "files": {"model": {"path": EVIL, "sha256": EVIL}}}


def test_names_are_text_and_nothing_else(result: Result) -> None:
    done, about = hostile(result)
    source = as_html(done, about, command=["onnx-lsuv", EVIL], other=done)
    page = read(source)
    assert not set(source) & HIDDEN
    plain = read(as_html(result, ABOUT, command=["onnx-lsuv"], other=result))
    assert {e.tag for e in page.walk()} <= {e.tag for e in plain.walk()} | {"ul", "li", "span"}
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not [name for e in page.walk() for name in e.attributes if name.startswith("on") or name == "style"]
    assert page.all("tr", id="layer-1")[0].all("td")[1].text == clean(EVIL + "0")
    assert page.all("section", id="notes")[0].all("li")[0].text == clean(EVIL)
    shown = page.all("tr", id="layer-1")[0].all("code", title=clean(EVIL * 30))
    assert [len(e.text) for e in shown] == [120]


def test_the_page_asks_nothing_of_anyone(result: Result) -> None:
    source = as_html(many(result, 40), ABOUT, other=result)
    page = read(source)
    assert not page.all("img") + page.all("iframe") + page.all("object") + page.all("use")
    links = [e.attributes[name] for e in page.walk() for name in ("src", "href", "xlink:href") if name in e.attributes]
    names = [e.attributes["id"] for e in page.walk() if "id" in e.attributes]
    assert len(names) == len(set(names))
    assert {link for link in links if link != "data:,"} <= {f"#{name}" for name in names}
    style, script = (page.all(tag)[0].text for tag in ("style", "script"))
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"fetch|XMLHttp|import|http|eval|innerHTML", script)
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0].attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    digests = [f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in (style, script)]
    assert rules == {"default-src": "'none'", "img-src": "data:", "style-src": digests[0], "script-src": digests[1]}


def test_the_keyboard_reaches_everything(result: Result) -> None:
    page = read(as_html(result, ABOUT))
    # Boxes that scroll are stops, and say what they are; so is each layer of the picture, as a link.
    boxes = page.all("div", kind="box")
    assert len(boxes) == len(page.all("table")) == 4
    assert all(e.attributes["tabindex"] == "0" and e.attributes["aria-label"] for e in boxes)
    assert all(e.attributes["scope"] == "col" for e in page.all("th"))
    assert all(
        e.attributes.get("aria-label") or "aria-hidden" in e.attributes
        for e in page.all("svg")
        if "class" in e.attributes
    )


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_in_both_schemes(result: Result) -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    style = read(as_html(result, ABOUT)).all("style")[0].text
    schemes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in re.findall(r":root \{([^}]*)\}", style)
    ]
    schemes = [scheme for scheme in schemes if scheme]
    assert len(schemes) == 2
    assert set(schemes[0]) == set(schemes[1])
    for scheme in schemes:
        for ground in ("page", "raised", "missed"):
            for ink in ("ink", "soft", "now", "good", "warn", "bad"):
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground)
        # Marks of a picture need 3.
        assert all(contrast(scheme[mark], scheme["page"]) >= 3 for mark in ("now", "drawn", "other", "sum"))


def test_every_status_has_its_colour_or_none(result: Result) -> None:
    rows = [replace(result.layers[0], name=status, status=status) for status in STATUSES]
    page = read(as_html(replace(result, layers=tuple(rows)), ABOUT))
    style = page.all("style")[0].text
    for row in rows:
        assert page.all("span", kind=row.status)[0].text == row.status
        assert bool(re.search(rf"(?m)^\.{row.status}\b|, \.{row.status} \{{", style)) == (
            row.status in ("ok", "not-reached", "off", "degenerate")
        )


def test_the_same_page_again(result: Result) -> None:
    assert as_html(result, ABOUT, other=result) == as_html(result, ABOUT, other=result)


@pytest.mark.parametrize("low", [-320.0, -45.0, -7.3, -1.0, 0.0, 0.2, 12.0])
@pytest.mark.parametrize("span", [0.0, 0.1, 0.7, 1.0, 2.5, 4.0, 9.0, 40.0, 300.0, 640.0])
def test_ticks_are_few_and_where_they_say(low: float, span: float) -> None:
    axis = log_axis([low, low + span])
    assert axis.low < low <= low + span < axis.high
    ticks = axis.ticks(8)
    assert 2 <= len(ticks) <= 8
    for place, label in ticks:
        assert 0 <= place <= 100
        assert axis.low + place / 100 * (axis.high - axis.low) == pytest.approx(level(label), abs=1e-9)
    if -300 < low < 300:
        assert axis.at(10**low) == pytest.approx(100 * (low - axis.low) / (axis.high - axis.low))


def test_ticks_of_counts() -> None:
    assert count_ticks(1, 10) == [1]
    assert count_ticks(7, 10) == [1, 2, 3, 4, 5, 6, 7]
    assert count_ticks(19, 10) == [1, 5, 10, 15]
    assert count_ticks(640, 10) == [1, 100, 200, 300, 400, 500, 600]


def test_the_share_of_signal_is_a_line_of_its_own(result: Result) -> None:
    rows = tuple(replace(row, signal=share) for row, share in zip(result.layers, (0.9, 0.4, 0.1), strict=True))
    page = read(as_html(replace(result, layers=rows), ABOUT))
    (figure,) = page.all("section", id="std")
    line = next(path for path in figure.all("path", kind="signal") if "L" in path.attributes["d"])
    assert re.findall(r"[ML]", line.attributes["d"]) == ["M", "L", "L"]
    heights = [float(y) for y in re.findall(r" ([\d.]+)", line.attributes["d"])]
    assert heights == sorted(heights)  # lower and lower, from the top
    assert "signal 0.4000" in figure.text
    assert "signal share" in figure.text.lower()
    unknown = read(as_html(replace(result, layers=tuple(replace(row, signal=None) for row in rows)), ABOUT))
    assert not unknown.all("path", kind="signal")
    assert "signal" not in unknown.all("section", id="std")[0].text.lower()


def test_the_file_as_it_came_is_a_line_and_a_column(result: Result) -> None:
    assert not read(as_html(result, ABOUT)).all("path", kind="before")
    first, *others = result.layers
    page = read(as_html(replace(result, layers=(replace(first, std_before=0.25), *others)), ABOUT))
    assert len(page.all("section", id="std")[0].all("circle", kind="before")) == 2  # the layer's, and the legend's
    heads = [e.text for e in page.all("table", kind="sortable")[0].all("th")]
    row = dict(zip(heads, page.all("tr", id="layer-1")[0].all("td"), strict=True))
    assert row["std before"].attributes["data-v"] == "0.25"


def test_settings_at_their_defaults_are_folded(result: Result) -> None:
    usual = read(as_html(result, ABOUT)).all("section", id="made")[0]
    assert "seed" in usual.all("details")[0].text
    changed = replace(result, settings=replace(result.settings, seed=77))
    made = read(as_html(changed, ABOUT)).all("section", id="made")[0]
    assert "77" in made.all("dl", kind="made")[0].text
    assert "77" not in made.all("details")[0].text


# ------------------------------------------------------------------------------------------------ the page's script

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node, which runs the page's script")
LOOK = """
const rows = () => [...document.querySelector("tbody").rows];
const shown = () => rows().filter((row) => !row.hidden).map((row) => Number(row.attributes.id.slice(6)));
const [line, text, choice, told] = [".filter", "input", "select", "output"].map((each) => document.querySelector(each));
const show = (words, status = "") => {
  Object.assign(text, { value: words });
  Object.assign(choice, { value: status });
  text.tell("input");
  return [shown(), told.value];
};
"""


def plain(element: Element) -> list[Any]:
    """Return an element as document.js takes it."""
    children = [child if isinstance(child, str) else plain(child) for child in element.children]
    return [element.tag, element.attributes, children]


def after(result: Result, todo: str) -> Any:
    """Return what a piece of script finds, or does, once the page's own script has run."""
    page = read(as_html(result, ABOUT, command=["onnx-lsuv", "a-model.onnx", "--report", "r.html"])).all("html")[0]
    given = {"page": plain(page), "script": page.all("script")[0].text, "todo": LOOK + todo}
    words = [str(NODE), str(Path(__file__).with_name("document.js"))]
    ran = subprocess.run(words, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def rows_to_choose(result: Result) -> Result:
    """Return a result of twelve layers of two operators, with names that are cut, shapes, statuses and stds."""
    rows = []
    for i in range(12):
        name = (
            f"/encoder/{'deep/' * 15}hidden/{'deep/' * 15}Layer.{i}/MatMul"
            if i == 7
            else f"/block.{i}/{'Conv' if i % 2 else 'Gemm'}"
        )
        status = "off" if i in (3, 4) else "not-reached" if i == 5 else "ok"
        std = None if i == 5 else (10.0, 9.0, 2.0, math.nan, 0.5, None, 1e-5, 100.0, 1.0, 3.0, 4.0, math.inf)[i]
        kind, shape = ("Conv", (8, 4, 3, 3)) if i % 2 else ("Gemm", (16, 8))
        rows.append(replace(result.layers[0], name=name, op=kind, shape=shape, status=status, std=std, note=""))
    return replace(result, layers=tuple(rows))


@needs_node
def test_the_filter_hides_what_does_not_fit(result: Result) -> None:
    done = rows_to_choose(result)
    whole, by_name, cut, by_case, by_op, by_shape, by_status, both, none, again = after(
        done,
        """return [[shown(), told.value], show("block.1"), show("deep/Hidden"), show("  ENCODER "), show("gemm"),
          show("8x4x3x3"), show("", "off"), show("conv", "off"), show("nothing of that"), show("")];""",
    )
    every = list(range(1, 13))
    assert whole == again == [every, "12 of 12"]
    assert by_name == [[2, 11, 12], "3 of 12"]  # .1, .10 and .11
    # What is cut from a name that is shown counts too.
    assert cut == by_case == [[8], "1 of 12"]
    assert by_op == [[i for i in every if i % 2], "6 of 12"]
    assert by_shape == [[i for i in every if i % 2 == 0], "6 of 12"]
    assert by_status == [[4, 5], "2 of 12"]
    assert both == [[4], "1 of 12"]
    assert none == [[], "0 of 12"]


@needs_node
def test_the_filter_says_what_it_is_and_comes_where_there_is_something_to_choose(result: Result) -> None:
    done = rows_to_choose(result)
    labels, options, place = after(
        done,
        """return [[text, choice].map((each) => each.attributes["aria-label"]),
          choice.children.map((each) => each.value), line.parentNode.attributes.id];""",
    )
    assert labels == ["Show layers that contain", "Show layers of this status"]
    assert options == ["", "ok", "off", "not-reached"]
    assert place == "layers"
    assert after(replace(done, layers=done.layers[:9]), "return line;") is None


@needs_node
def test_a_link_to_a_hidden_layer_shows_it(result: Result) -> None:
    kept, all_again = after(
        rows_to_choose(result),
        """show("gemm"); document.target = "layer-3"; window.tell("hashchange"); const kept = shown();
          document.target = "layer-2"; window.tell("hashchange");
          return [kept, [shown(), text.value, document.scrolledTo]];""",
    )
    assert kept == [1, 3, 5, 7, 9, 11]
    assert all_again == [list(range(1, 13)), "", "layer-2"]


@needs_node
def test_a_column_sorts_by_its_whole_numbers_and_names_as_people_count(result: Result) -> None:
    up, down, names, hidden = after(
        rows_to_choose(result),
        """const heads = document.querySelector("thead").rows[0].cells;
          const sort = (name) => {
            const head = heads.find((each) => each.textContent === name);
            head.querySelector("button").tell("click");
            return [rows().map((row) => Number(row.attributes.id.slice(6))), head.attributes["aria-sort"]];
          };
          const found = [sort("std now"), sort("std now"), sort("layer")];
          show("conv"); return [...found, shown()];""",
    )
    stds = [7, 5, 9, 3, 10, 11, 2, 1, 8, 12]
    assert up[0][:10] == stds
    assert up[1] == "ascending"
    assert down[0][:10] == stds[::-1]
    assert down[1] == "descending"
    assert set(up[0][10:]) == set(down[0][10:]) == {4, 6}  # without a number
    assert names[0] == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 8]
    assert hidden == [2, 4, 6, 10, 12, 8]


@needs_node
def test_names_stay_whole_and_are_copied_whole(result: Result) -> None:
    done = rows_to_choose(result)
    names, breaks, copied, ordinary, command = after(
        done,
        """const names = document.querySelectorAll("td code").filter((each) => each.closest("tr").attributes.id);
          const copy = (name) => {
            let got = null;
            globalThis.getSelection = () => ({ anchorNode: name.firstChild, focusNode: name.firstChild });
            const clipboardData = { setData: (_, words) => (got = words) };
            document.tell("copy", { clipboardData, preventDefault: () => {} });
            return got;
          };
          const long = names.find((each) => each.title);
          return [names.map((each) => each.textContent), names[0].children.map((each) => each.tag), copy(long),
            copy(names[0]), document.querySelector("pre").textContent];""",
    )
    assert [name for name in names if name.startswith("/block")] == [r.name for r in done.layers if "block" in r.name]
    assert set(breaks) == {"wbr"}
    assert copied == done.layers[7].name
    assert ordinary is None
    assert command == "onnx-lsuv a-model.onnx --report r.html"


@needs_node
def test_arrow_keys_go_through_the_picture(result: Result) -> None:
    found = after(
        rows_to_choose(result),
        """const marks = document.querySelector(".marks"), links = marks.children;
          links[0].focus();
          const press = (key) => {
            document.activeElement.tell("keydown", { key, preventDefault: () => {} });
            return links.indexOf(document.activeElement);
          };
          const way = ["ArrowRight", "ArrowRight", "ArrowLeft", "PageDown", "ArrowRight", "Home", "End"].map(press);
          return [way, links.filter((each) => each.attributes.tabindex === "0").map((each) => links.indexOf(each))];""",
    )
    assert found == [[1, 2, 1, 11, 11, 0, 11], [11]]


# --------------------------------------------------------------------------------------------- cards, what is beside


def test_where_rows_are_cards_each_number_says_what_it_is(result: Result) -> None:
    page = read(as_html(beside(result), {**ABOUT, "trains": TRAINS}))
    seen = 0
    for table in page.all("table"):
        heads = [e.text for e in table.all("th")]
        for row in table.all("tbody")[0].all("tr"):
            for head, cell in zip(heads, row.all("td"), strict=True):
                right = cell.attributes.get("class") == "n" and head != "#"
                assert cell.attributes.get("data-h") == (head if right else None)
                seen += right
    assert seen > 30
    style = re.sub(r"/\*.*?\*/", "", page.all("style")[0].text)
    phone = style[style.index("@media (max-width: 40rem)") : style.index("@media (prefers-reduced-motion")]
    rules = dict(re.findall(r"(?m)^  (\S[^{}]*) \{ ([^}]*) \}", phone))
    assert "display: block" in rules["table, tbody"]
    # A row that the filter hides stays hidden, although rows are boxes then.
    assert "display: flex" in rules["tr:not([hidden])"]
    assert "content: attr(data-h)" in rules["td[data-h]::before"]
    assert rules["td:empty"] == "display: none;"
    # Heads that sort stay in sight; others are there for those who have the page read to them.
    assert "clip-path" in rules["table:not(.sortable) thead"]
    assert not re.search(r"(?<!clip-path: )\bdisplay: none", rules["table:not(.sortable) thead"])


def beside(result: Result) -> Result:
    """Return a result with sums of two streams, one of them without a std, and measured nodes that were left alone."""
    sums = (
        SumReport("add0", "Add", 1, 1, 0.1, 1.5),
        SumReport("add1", "Add", 1, 2, -0.1, 2.5),
        SumReport("add2", "Add", 2, 3, None, None),
    )
    (left,) = result.skipped
    skipped = [replace(left, name=f"left{i}", std=std) for i, std in enumerate((0.25, None, 4.0))]
    return replace(result, sums=sums, skipped=(*skipped, replace(left, reason="tied", std=None)))


TRAINS = [
    {"importer": "one", "version": "1", "date": "2026-11", "framework": "F", "expected": False, "export": ""}
    | {form: {"trainable": 1, "weights": 3, "findings": []} for form in ("as_is", "portable")}
]


def test_sums_of_streams_are_marks_a_line_and_a_table(result: Result) -> None:
    page = read(as_html(beside(result), ABOUT))
    (figure,) = page.all("section", id="std")
    ticks = [(percent(e.attributes["y"]), level(e.text)) for e in figure.all("text", kind="y")]
    slope, start = np.polyfit([y for y, _ in ticks], [log for _, log in ticks], 1)
    (group,) = figure.all("g", kind="sums")
    marks = [e for e in group.children if isinstance(e, Element)]
    assert [percent(e.attributes["x"]) for e in marks] == pytest.approx([100 / 3, 200 / 3], abs=1e-2)
    places = [percent(e.attributes["y"]) for e in marks]
    assert [start + slope * y for y in places] == pytest.approx([math.log10(1.5), math.log10(2.5)], abs=2e-3)
    assert [e.all("title")[0].text for e in marks] == [
        "add0: std 1.5000, mean 0.1000",
        "add1: std 2.5000, mean -0.1000",
    ]
    line = next(e.attributes["d"] for e in figure.all("path", kind="sum") if "L" in e.attributes["d"])
    ends = [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", line)]
    assert ends == [pytest.approx((1000 / 3 * (i + 1), 10 * y), abs=0.1) for i, y in enumerate(places)]
    assert "residual sum" in figure.all("ul", kind="legend")[0].text
    (table,) = page.all("section", id="sums")[0].all("table")
    cells = [[e.text for e in row.all("td")] for row in table.all("tbody")[0].all("tr")]
    assert [e.text for e in table.all("th")] == ["sum", "after layer", "std", "mean", "stream"]
    assert cells[0] == ["add0", "1", "1.5000", "0.1000", "1"]
    assert cells[2] == ["add2", "3", "", "", "2"]
    without = read(as_html(result, ABOUT))
    assert not without.all("section", id="sums")
    assert not without.all("path", kind="diamond")


def test_what_is_left_alone_says_the_stds_of_its_outputs(result: Result) -> None:
    (table,) = read(as_html(beside(result), ABOUT)).all("section", id="left")[0].all("table")
    at = [e.text for e in table.all("th")].index("std of output")
    assert [row.all("td")[at].text for row in table.all("tbody")[0].all("tr")] == ["0.2500 to 4.0000", ""]
    (plain_table,) = read(as_html(result, ABOUT)).all("section", id="left")[0].all("table")
    assert "std of output" not in [e.text for e in plain_table.all("th")]
