"""Attributes are read by name and kind; what is absent is a default."""

from __future__ import annotations

from onnx.helper import make_attribute

from onnx_lsuv.operators import Attributes


def test_each_kind_is_read() -> None:
    given = {"group": 3, "alpha": 0.5, "equation": "ij->j", "perm": [1, 0]}
    found = Attributes((name, make_attribute(name, value)) for name, value in given.items())
    assert (found.integer("group", 1), found.real("alpha", 1.0)) == (3, 0.5)
    assert (found.text("equation"), found.integers("perm")) == ("ij->j", (1, 0))


def test_what_is_absent_is_a_default() -> None:
    found = Attributes()
    assert (found.integer("group", 7), found.real("alpha", 2.0), found.text("mode")) == (7, 2.0, "")
    assert found.integers("perm") is None


def test_a_text_that_is_no_utf_8_is_read_all_the_same() -> None:
    assert Attributes(mode=make_attribute("mode", b"a\xff")).text("mode") == "a\ufffd"
