"""A result for CI: Markdown, read back by another program, and annotations of GitHub."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv.errors import clean
from onnx_lsuv.lsuv import Result
from onnx_lsuv.report.columns import number
from onnx_lsuv.report.github import as_github
from onnx_lsuv.report.layout import shortened
from onnx_lsuv.report.markdown import as_markdown
from onnx_lsuv.report.words import misses, verdict

EVIL = "a|b`c``d *e* _f_ <b>g</b> [h](http://i) ![j](k) @l #1 &amp; \\ ~~m~~ www.n.org\x1b\u202e\n- o | p"
ABOUT = {
    "versions": {"onnx-lsuv": "0.1.0", "python": "3.11"},
    "files": {"model": {"path": "models/net.onnx", "sha256": "ab" * 32}},
}


@pytest.fixture(scope="module")
def result() -> Result:
    """Two layers, one node left alone."""
    text = """<ir_version: 10, opset_import: ["" : 17]> g (float[N,8] x) => (float z) {
      y = MatMul(x, w) z = MatMul(y, v) t = Transpose(x) q = MatMul(t, x) }"""
    done = onnx_lsuv.initialize(
        onnx_lsuv.from_proto(parse(text, w=normal(8, 16), v=normal(16, 4))), {"x": normal(64, 8)}
    )
    ok = [replace(row, status="ok", std=1.0, mean=0.0) for row in done.layers]
    return replace(done, layers=tuple(ok))


def off(result: Result, n: int) -> Result:
    """Return a result of n layers that missed, the first the least."""
    rows = [replace(result.layers[0], name=f"/l{i}", status="off", std=0.9 / (i + 1)) for i in range(n)]
    return replace(result, layers=tuple(rows))


def hostile(result: Result) -> Result:
    rows = [replace(row, name=EVIL, weight=EVIL, op=EVIL, note=EVIL, status="off", std=2.0) for row in result.layers]
    left = [replace(row, name=EVIL, op=EVIL, detail=EVIL) for row in result.skipped]
    return replace(result, layers=tuple(rows), skipped=tuple(left), kept_statistics=tuple(left), notes=(EVIL,))


def parsed(markdown: str) -> list[Token]:
    """Return the flat tokens, inline ones included, as GitHub's flavour has them."""
    reader = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    return [each for token in reader.parse(markdown) for each in (token, *(token.children or ()))]


def cells(markdown: str) -> list[list[str]]:
    """Return the text of every cell of every table, row by row."""
    rows: list[list[str]] = []
    for token in parsed(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("")
        elif token.type == "table_close":
            rows.append([])
        elif token.type in ("text", "code_inline", "text_special") and rows and rows[-1]:
            rows[-1][-1] += token.content
    return [row for row in rows if row]


def test_markdown_has_its_parts(result: Result) -> None:
    shown = as_markdown(replace(result, notes=("a note",)), ABOUT, ["onnx-lsuv", "a b.onnx"])
    assert shown.startswith("### onnx-lsuv: `models/net.onnx`\n\n**All 2 layers have the std wanted.**\n")
    rows = cells(shown)
    assert rows[0] == ["layer", "op", "weight", "shape", "std drawn", "scale", "std now", "status"]
    first = result.layers[0]
    assert rows[1][:4] == [first.name, "MatMul", "w", "8x16"]
    assert rows[1][4:] == [number(first.std_drawn), number(first.scale), "1.0000", "ok"]
    assert rows[4] == ["dynamic", "1", "MatMul", result.skipped[0].name, result.skipped[0].detail]
    assert "#### Left alone\n\n| reason" in shown
    assert "#### Notes\n\n- a note\n" in shown
    assert "onnx-lsuv 0.1.0; python 3.11" in shown
    assert shown.endswith("`onnx-lsuv 'a b.onnx'`\n")


def test_markdown_leaves_out_what_was_not_done(result: Result) -> None:
    planned = onnx_lsuv.plan(result.model)
    assert cells(as_markdown(planned, {}))[0] == ["layer", "op", "weight", "shape", "status"]
    head, fold, table, end = as_markdown(replace(planned, layers=(), skipped=()), {}).split("\n\n")[1:]
    assert head == "**No layer was found.**"
    chosen = replace(planned, layers=(), settings=onnx_lsuv.Settings(include=("norm",)))
    assert "**No layer was chosen.**" in as_markdown(chosen, {})
    assert fold == "<details><summary>Constants: 2 weight (drawn)</summary>"
    assert cells(table)[1:] == [
        ["w", "8x16", "weight", "product", "drawn"],
        ["v", "16x4", "weight", "product", "drawn"],
    ]
    assert end == "</details>\n"


def test_markdown_of_two_models(result: Result) -> None:
    there = replace(result, layers=tuple(replace(row, std=0.25) for row in result.layers[:1]))
    rows = cells(as_markdown(result, ABOUT, other=there))
    assert [row[7] for row in rows[:3]] == ["std other", "0.2500", "-"]


def test_markdown_names_the_worst_and_folds_long_tables(result: Result) -> None:
    shown = as_markdown(off(result, 50), ABOUT)
    assert "**50 of 50 layers missed the std wanted.**" in shown
    listed = re.findall(r"^- (.*)$", shown, re.MULTILINE)
    assert listed[0] == "`/l49` (off): std 0.0180, wanted 1.0000"
    assert listed[10] == "and 40 more"
    assert len(listed) == 11
    assert shown.count("<details>") == shown.count("</details>") == 2  # that of the constants too
    assert len(cells(shown)) == 1 + 50 + 2 + 3
    assert "layers</summary>" not in as_markdown(off(result, 40), ABOUT)


def test_markdown_of_names_is_text(result: Result) -> None:
    shown = as_markdown(hostile(result), {"files": {"model": {"path": EVIL}}, "versions": {EVIL: EVIL}}, [EVIL])
    assert not set(shown) & set("\x1b\u202e")
    tokens = parsed(shown)
    kinds = {token.type for token in tokens}
    assert not kinds & {"em_open", "s_open", "link_open", "image", "ordered_list_open"}
    assert [token.content for token in tokens if token.type == "html_block"] == [
        "<details><summary>Constants: 2 weight (drawn)</summary>\n",
        "</details>\n",
    ]
    assert {token.content for token in tokens if token.type == "html_inline"} == {
        "<code>",
        "</code>",
        "<sub>",
        "</sub>",
    }
    rows = cells(shown)
    assert [len(row) for row in rows] == [8, 8, 8, 5, 5, 5, 5, 5]
    assert rows[1][0] == rows[1][2] == rows[4][3] == clean(EVIL)
    assert rows[1][1] == rows[4][2] == rows[4][4] == clean(EVIL)
    # GitHub links names of people, issues and hosts in plain text only; `<code>` holds all the others.
    plain = re.sub(r"<code>.*?</code>|`[^`]*`", "", shown)
    assert not re.search(r"@|www\.|(?<!&)#1|://", plain)


@pytest.mark.parametrize("name", ["", " ", "`", "|", "``", " a", "a\\", "\\|", "-", "1. a", "# a", "x" * 500, "層"])
def test_markdown_keeps_odd_names(result: Result, name: str) -> None:
    rows = tuple(replace(row, name=name) for row in result.layers)
    found = cells(as_markdown(replace(result, layers=rows), ABOUT))
    assert [len(row) for row in found[:3]] == [8, 8, 8]
    assert found[1][0].strip() == shortened(clean(name), 100).strip()


def fields(line: str) -> tuple[str, str, str]:
    """Read an annotation as GitHub's runner does: level, title, message."""
    level, properties, message = re.fullmatch(r"::(\w+) ([^:]*)::(.*)", line).groups()  # type: ignore[union-attr]
    title = dict(each.split("=", 1) for each in properties.split(","))["title"]
    for code, char in (("%3A", ":"), ("%2C", ",")):
        title = title.replace(code, char)
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
        title, message = title.replace(code, char), message.replace(code, char)
    return level, title, message


def test_annotations(result: Result) -> None:
    first, second = result.layers
    stale = replace(result.skipped[0], name="bn", detail="tied")
    done = replace(
        result,
        layers=(
            replace(first, status="off", std=2.0),
            second,
            replace(second, name="n", status="not-reached", note="the data never reach it"),
        ),
        kept_statistics=(stale,),
        notes=("50% of it, and: more",),
    )
    assert as_github(done)[0] == "::error title=onnx-lsuv%3A layer off::y: std 2.0000, wanted 1.0000"
    assert [fields(line) for line in as_github(done)] == [
        ("error", "onnx-lsuv: layer off", f"{first.name}: std 2.0000, wanted 1.0000"),
        ("warning", "onnx-lsuv: layer not reached", "n: the data never reach it"),
        ("warning", "onnx-lsuv: statistics kept", "bn: tied"),
        ("notice", "onnx-lsuv: verdict", "1 of 3 layers missed the std wanted."),
        ("notice", "onnx-lsuv: note", "50% of it, and: more"),
        ("notice", "onnx-lsuv: left alone", f"MatMul {result.skipped[0].name}: {result.skipped[0].detail}"),
    ]
    assert "50%25 of it" in as_github(done)[4]


def test_annotations_name_the_model_file(result: Result, tmp_path: Path) -> None:
    inside = tmp_path.resolve() / "a, b" / "50%:1.onnx"
    done = replace(result, model=replace(result.model, path=inside))
    lines = as_github(done, root=tmp_path)
    assert all(re.match(r"::\w+ file=a%2C b/50%25%3A1\.onnx,title=onnx-lsuv%3A ", line) for line in lines)
    assert (
        f" file={inside.as_posix().replace('%', '%25').replace(':', '%3A').replace(',', '%2C')},"
        in (as_github(done, root=tmp_path / "elsewhere")[0])
    )


def test_annotations_of_a_good_result(result: Result) -> None:
    found = [fields(line) for line in as_github(replace(result, skipped=()))]
    assert found == [("notice", "onnx-lsuv: verdict", "All 2 layers have the std wanted.")]


@pytest.mark.parametrize(
    ("n", "lines", "last"), [(10, 10, "/l0: "), (11, 10, "and 2 more: "), (640, 10, "and 631 more: ")]
)
def test_annotations_are_limited(result: Result, n: int, lines: int, last: str) -> None:
    found = [fields(line) for line in as_github(off(result, n))]
    errors = [message for level, _, message in found if level == "error"]
    assert len(errors) == lines
    assert errors[0].startswith(f"/l{n - 1}: ")
    assert errors[-1].startswith(last)
    assert len([line for line in as_github(off(result, n), limit=3) if line.startswith("::error")]) == 3


def test_annotations_are_lines(result: Result) -> None:
    evil = "%0A::error::x\r\n::error title=a,b::c\x1b"
    rows = tuple(replace(row, name=evil * 20, status="off", std=2.0, note=evil) for row in result.layers)
    left = tuple(replace(row, name=evil, op=evil, detail=evil) for row in result.skipped)
    lines = as_github(replace(result, layers=rows, skipped=left, kept_statistics=left, notes=(evil,)))
    assert len(lines) == 6
    for line in lines:
        assert not set(line) & set("\r\n\x1b")
        assert len(line) < 1000
        assert not re.search("%(?!25|3A|2C)", line)
    assert fields(lines[0])[2].endswith(f"; {clean(evil)}")


def test_the_verdict(result: Result) -> None:
    def said(*statuses: str) -> str:
        return verdict(replace(result, layers=tuple(replace(result.layers[0], status=status) for status in statuses)))

    assert said("ok", "ok") == "All 2 layers have the std wanted."
    assert said("ok") == "The one layer has the std wanted."
    assert said("ok", "ok", "drawn", "shared", "drawn") == "2 of 5 layers have the std wanted; 2 drawn, 1 shared."
    assert said("ok", "off", "degenerate") == "2 of 3 layers missed the std wanted."
    assert said("off") == "1 of 1 layer missed the std wanted."
    assert said("scaled", "not-reached") == "2 layers: 1 scaled, 1 not-reached; none was measured again."
    assert said("found") == "1 layer found; nothing was run."
    assert said() == "No layer was found."


def test_the_worst_come_first(result: Result) -> None:
    stds = {"a": 1.5, "b": 0.1, "c": np.nan, "d": 9.0, "e": 0.0, "f": None, "g": np.inf}
    rows = [
        replace(result.layers[0], name=name, status="off" if name in "abd" else "degenerate", std=std)
        for name, std in stds.items()
    ]
    assert [row.name for row in misses(replace(result, layers=tuple(rows)))] == list("cefgbda")
    # Off by a factor counts the same upwards and downwards, relative to the layer's own target.
    pair = [replace(rows[0], name="x", target=0.1, std=0.2), replace(rows[0], name="y", target=4.0, std=1.0)]
    assert [row.name for row in misses(replace(result, layers=tuple(pair)))] == ["y", "x"]
