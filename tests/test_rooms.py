"""The rooms of the package: who may import whom, and what the map says of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnx_lsuv"
MAP = (PACKAGE / "README.md").read_text(encoding="utf-8")
# In the order of the map: each room may import those before it.
ROOMS = re.findall(r"^\| \[(\w+)\]\(", MAP, re.MULTILINE)
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if len(path.relative_to(PACKAGE).parts) > 1]
# The longest functions there are, each for a reason: a line an option, and one table of steps in order.
LONG = {"command"}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports, anywhere in it, for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_map_names_every_room():
    found = {path.stem for path in PACKAGE.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert set(ROOMS) == found | {"errors"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_room_imports_only_those_before_it(path):
    room = path.relative_to(PACKAGE).parts[0]
    own = set(ROOMS[: ROOMS.index(room) + 1])
    for name in imports(path):
        top, _, rest = name.partition(".")
        # What users call the command line calls too.
        if top == "onnx_lsuv" and rest not in ("__version__", "loaded_on_use") and (rest or room != "cli"):
            assert rest.partition(".")[0] in own, f"{room} imports {name}"
        if top in ("typer", "rich"):
            assert room == "cli"
        if top == "onnxruntime":
            assert room == "runtime"


def test_no_module_leads_back_to_itself():
    """Neither at the top nor inside functions; what a room's __init__ gathers for others aside."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    leads = {
        name: {n if n in modules else n.rpartition(".")[0] for n in imports(path)} & set(modules) - {name}
        for name, path in modules.items()
        if path.stem != "__init__"
    }
    while ends := {name for name, others in leads.items() if not others & set(leads)}:
        leads = {name: others for name, others in leads.items() if name not in ends}
    assert not leads


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_functions_are_short_and_none_shadows_its_module(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for function in functions:
        assert function.name in LONG or function.end_lineno - function.lineno < 70, function.name
    # Where a room's __init__ imports it, nobody could reach the module by that name any more.
    given = {name.rpartition(".")[2] for name in imports(path.parent / "__init__.py")}
    assert path.stem not in given


@pytest.mark.parametrize("room", [room for room in ROOMS if room != "errors"])
def test_a_room_says_what_is_inside(room):
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    modules = {path.stem for path in (PACKAGE / room).iterdir() if path.stem not in ("__init__", "__pycache__")}
    modules = {name for name in modules if (PACKAGE / room / name).is_dir() or (PACKAGE / room / f"{name}.py").exists()}
    assert modules <= set(re.findall(r"\w+", text)), modules - set(re.findall(r"\w+", text))


def test_every_file_that_the_map_names_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", MAP):
        assert (PACKAGE / target).exists(), target
