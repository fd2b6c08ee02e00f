"""The HTML page, read back: well-formed, complete, closed to the outside, and its picture drawn to scale."""

from __future__ import annotations

import hashlib
import math
import random
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import onnx
import pytest
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result
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
        assert all(contrast(scheme[mark], scheme["page"]) >= 3 for mark in ("now", "drawn", "other"))


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
