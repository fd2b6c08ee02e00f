"""What README.md says is what the code does: commands, options, statuses, reasons, fields, the Python snippet."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from onnx_lsuv import cli, errors
from onnx_lsuv.layers import REASONS
from onnx_lsuv.layers.operators import OPERATORS
from onnx_lsuv.lsuv.result import GOOD, STATUSES, Change, LayerReport, LeftReport

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(mark: str) -> str:
    """Return the fenced block that follows the comment <!-- mark -->."""
    found = re.findall(rf"^<!-- {re.escape(mark)} -->\n```\w+\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, mark
    return found[0]


def table(mark: str) -> list[list[str]]:
    """Return the cells of the table that follows the comment <!-- table: mark -->."""
    found = re.findall(rf"^<!-- table: {mark} -->\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert len(found) == 1, mark
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in found[0].splitlines()]
    assert set("".join(rows[1])) == {"-"}
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code(cells: list[list[str]], column: int = 0) -> list[str]:
    """Return the code spans of a column, in order."""
    return [name for row in cells for name in re.findall(r"`([^`]+)`", row[column])]


def options() -> dict[str, str]:
    """Return every option of the command, short and long, with its help."""
    command = typer.main.get_command(cli.app)
    found = dict.fromkeys(command.context_settings["help_option_names"], "Show the help")
    for parameter in command.get_params(typer.Context(command)):
        if parameter.param_type_name == "option":
            found |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), parameter.help or "")
    return found


def run(*arguments: str | Path, cwd: Path = ROOT) -> str:
    return subprocess.run(
        [sys.executable, "-m", "onnx_lsuv", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    """Run README's sample command with the output and a report in a folder of their own: its text and the report."""
    folder = tmp_path_factory.mktemp("readme")
    words = block("command: sample").replace("&&\n", "").split()
    at = next(i for i, word in enumerate(words) if word.endswith("/onnx-lsuv"))
    arguments = words[at + 1 :]
    arguments[arguments.index("-o") + 1] = str(folder / "out.onnx")
    report = folder / "report.json"
    text = run(*arguments, "--report", report, "--device", "cpu")
    return text, json.loads(report.read_text(encoding="utf-8"))


def test_the_options_table_has_every_option_and_no_other():
    spans = code(table("options"))
    named = [span.split(" ")[0] for span in spans]
    assert len(named) == len(set(named))
    assert set(named) == set(options())


def test_every_option_that_the_text_names_exists():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", README))
    assert named <= set(options())


def test_the_choices_of_an_option_are_those_of_the_command():
    spans = {span.split(" ")[0]: span.partition(" ")[2] for span in code(table("options"))}
    assert spans["--init"].split("\\|") == [each.value for each in cli.Init]
    assert spans["--format"].split("\\|") == [each.value for each in cli.Format]


def test_the_options_table_says_what_the_help_says():
    said = {name: row[1].replace("`", "") for row in table("options") for name in code([row]) if name[0] == "-"}
    said = {name.split(" ")[0]: text for name, text in said.items()}
    for name, text in options().items():
        first = re.split(r"  \[|(?<=\.) ", text)[0].strip().rstrip(".")
        if "completion" not in name and "help" not in name:
            assert said[name].startswith(re.sub(r"'(\w+)'", r"\1", first)), name


def test_the_exit_statuses_are_those_of_the_errors():
    said = {int(row[0]): row[1].strip("`") for row in table("exits")}
    classes = [errors.LsuvError, *errors.LsuvError.__subclasses__()]
    assert {status: name for status, name in said.items() if name} == {c.exit_status: c.__name__ for c in classes}
    assert {status for status, name in said.items() if not name} == {0, 1, 130}


def test_the_reasons_are_those_of_the_code():
    assert {row[0].strip("`"): row[1] for row in table("reasons")} == REASONS


def test_the_statuses_are_those_of_the_code():
    said = {row[0].strip("`"): row[1] for row in table("statuses")}
    assert list(said.items()) == list(STATUSES.items())
    assert "The last two make the exit status 1." in README
    assert list(STATUSES)[-2:] == [status for status in STATUSES if status not in GOOD]


def test_the_operators_are_those_of_the_code():
    assert set(code(table("operators"))) == {op for _, op in OPERATORS}


def test_the_sample_output_has_the_layers_of_a_real_run(sample):
    def rows(text: str) -> list[list[str]]:
        lines = text.split("\n\n", maxsplit=1)[0].splitlines()
        assert lines[0].split() == ["layer", "op", "weight", "shape", "std", "drawn", "scale", "std", "now", "status"]
        return [line.split() for line in lines[1:]]

    text, _ = sample
    for shown, real in zip(rows(block("output: sample")), rows(text), strict=True):
        assert [*shown[:4], *shown[6:]] == [*real[:4], *real[6:]]
        # What was measured may differ in its last digits from one machine to another.
        assert [float(x) for x in shown[4:6]] == pytest.approx([float(x) for x in real[4:6]], rel=2e-3)
    shown, real = (each.split("\n\n")[1].splitlines() for each in (block("output: sample"), text))
    assert shown[:2] == real[:2]
    assert shown[3].split()[0] == real[3].split()[0] == "saved"


def test_the_report_has_the_fields_that_are_listed(sample):
    _, report = sample
    assert set(code(table("report"))) - {"cpu", "cuda:N"} >= set(report)
    assert set(code([row[:1] for row in table("report")])) == set(report)
    assert set(code(table("layer"))) == set(report["layers"][0]) == set(LayerReport.__dataclass_fields__)
    said = {row[0].strip("`"): set(code([row], 1)) for row in table("report")}
    assert said["left"] == set(LeftReport.__dataclass_fields__)
    assert said["changes"] == set(Change.__dataclass_fields__)


def test_the_python_snippet_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "sample_models").mkdir()
    for name in ("fitnet_digits.onnx", "fitnet_digits.npy"):
        shutil.copy(ROOT / "sample_models" / name, tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    exec(compile(block("snippet: python"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 19
    assert all(line.split()[1] == "ok" for line in lines)
    assert (tmp_path / "digits.lsuv.onnx").is_file()


def test_the_commands_name_files_and_extras_that_exist():
    words = (block("command: sample") + block("command: tests")).split()
    for word in words:
        if word.startswith("sample_models/"):
            assert (ROOT / word).is_file()
    extras = re.findall(r"'\.\[(\w+)\]'", " ".join(words))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras == ["test"]
    assert re.search(r"^test = \[", project, re.MULTILINE)
    assert "onnx-lsuv = " in project


def test_the_links_lead_to_files_that_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).is_file(), target
