"""What the package exports is whole: the types of what its functions return, and a word on each of their fields."""

from __future__ import annotations

import dataclasses
import inspect
import re

import onnx_lsuv

PUBLIC = {name: getattr(onnx_lsuv, name) for name in onnx_lsuv.__all__}


def test_what_functions_return_is_exported() -> None:
    returned = {name: str(each.__annotations__["return"]) for name, each in PUBLIC.items() if inspect.isfunction(each)}
    assert returned["make_portable"] == "Portable"
    known = {*PUBLIC, "Path", "bytes", "tuple", "onnx", "ModelProto"}
    lacking = {name: text for name, text in returned.items() if not {*re.findall(r"\w+", text)} <= known}
    assert not lacking


def test_every_field_is_documented() -> None:
    types = [each for each in PUBLIC.values() if dataclasses.is_dataclass(each)]
    names = [(each, field.name) for each in types for field in dataclasses.fields(each)]
    assert not [each for each in names if not each[1].startswith("_") and f" {each[1]}:" not in (each[0].__doc__ or "")]
