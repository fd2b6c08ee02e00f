"""What the pages say is what the code does: commands, options, statuses, reasons, fields, recipes, snippets, links."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
import typer
from commands import invoke
from numpy.lib.stride_tricks import sliding_window_view
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import cli, errors, runtime
from onnx_lsuv.cli.options import Options
from onnx_lsuv.cli.validation import validate
from onnx_lsuv.importers.table import IMPORTERS
from onnx_lsuv.layers import REASONS
from onnx_lsuv.lsuv.notes import SECTION
from onnx_lsuv.lsuv.result import GOOD, STATUSES, Change, LayerReport, RoleReport, SkippedReport
from onnx_lsuv.lsuv.settings import METHODS
from onnx_lsuv.operators import OPERATORS
from onnx_lsuv.report.formats import FORMATS
from onnx_lsuv.roles import FATES, ROLES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Every page, by its path from the root: README, and those that stand in the folders that they describe.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / ".github" / "CONTRIBUTING.md",
        *(page for top in ("onnx_lsuv", "tests", "sample_models") for page in sorted((ROOT / top).rglob("README.md"))),
    )
}
ALL = "\n".join(PAGES.values())
PICTURES = ROOT / ".github" / "pictures"
FLAT = " ".join(ALL.split())
# A script of this repository with its arguments, in a code span.
SCRIPTS = re.findall(r"`python ((?:tests|sample_models|\.github)/[\w/]+\.py)([^`]*)`", FLAT)


def headings(page: str) -> list[str]:
    """Return the headings of a page's text."""
    return re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)


def block(mark: str) -> str:
    """Return the fenced block that follows the comment <!-- mark -->, on whatever page it stands."""
    found = re.findall(rf"^<!-- {re.escape(mark)} -->\n```\w+\n(.*?)^```$", ALL, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, mark
    return found[0]


def table(mark: str) -> list[list[str]]:
    """Return the cells of the table that follows the comment <!-- table: mark -->."""
    found = re.findall(rf"^<!-- table: {mark} -->\n((?:\|.*\n)+)", ALL, re.MULTILINE)
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
    words = block("command: sample").replace("&&\n", "").replace("\\\n", "").split()
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
    text = FLAT
    for script, arguments in SCRIPTS:
        text = text.replace(f"`python {script}{arguments}`", "")
        for option in re.findall(r"--[a-z-]+", arguments):
            assert f'"{option}"' in (ROOT / script).read_text(encoding="utf-8"), (script, option)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) <= set(options())


def command_lines() -> list[list[str]]:
    """Return the arguments of every call of onnx-lsuv in a block."""
    text = ALL.replace("\\\n", "").replace("- run: ", "")
    found = re.findall(r"^(?: *entry: | *)(?:\S*/)?onnx-lsuv (.+)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found if line.startswith(("model.onnx", "sample_models/"))]


def test_every_call_in_the_text_is_one_that_the_command_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = typer.main.get_command(cli.app)
    lines = command_lines()
    assert len(lines) >= 6
    for line in lines:
        values = command.make_context("onnx-lsuv", list(line)).params
        validate(Options(**{name: value for name, value in values.items() if name in Options.__dataclass_fields__}))


def test_every_exit_status_that_the_text_names_exists():
    named = {int(n) for n in re.findall(r"status(?:es)? (?:is |of )?(\d+)|; (\d+) by a", ALL) for n in n if n}
    assert named <= {int(row[0]) for row in table("exits")} | {143}
    assert 1 in named


def test_the_choices_of_an_option_are_those_of_the_command():
    spans = {span.split(" ")[0]: span.partition(" ")[2] for span in code(table("options"))}
    assert spans["--init"].removeprefix("[GLOB=]").split("\\|") == list(METHODS)
    assert spans["--format"].split("\\|") == [each.value for each in cli.Format]
    assert spans["--device"].split("\\|") == runtime.device_words()


def test_the_formats_of_reports_are_those_of_the_code():
    (said,) = re.findall(r"by its ending: (.*?)\. It", FLAT)
    assert set(re.findall(r"`(\.\w+)`", said)) == set(FORMATS)


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


def test_the_roles_and_fates_are_those_of_the_code():
    for mark, words in (("roles", ROLES), ("fates", FATES)):
        assert [(row[0].strip("`"), row[1]) for row in table(mark)] == list(words.items())
    schema = json.loads((ROOT / "onnx_lsuv/report/schema.json").read_text(encoding="utf-8"))["$defs"]
    assert schema["word_of_role"]["enum"] == list(ROLES)
    assert schema["role"]["properties"]["fate"]["enum"] == list(FATES)


def test_the_statuses_are_those_of_the_code():
    said = {row[0].strip("`"): row[1] for row in table("statuses")}
    assert list(said.items()) == list(STATUSES.items())
    assert "The last two make the exit status 1." in README
    assert list(STATUSES)[-2:] == [status for status in STATUSES if status not in GOOD]


def test_the_operators_are_those_of_the_code():
    assert set(code(table("operators"))) == {op for (_, op), row in OPERATORS.items() if row.weights}


def test_the_sample_output_has_the_layers_of_a_real_run(sample):
    def rows(text: str) -> list[list[str]]:
        lines = text.split("\n\n", maxsplit=1)[0].splitlines()
        heads = "layer op weight shape std drawn scale std now signal status"
        assert lines[0].split() == heads.split()
        return [line.split() for line in lines[1:]]

    text, _ = sample
    for shown, real in zip(rows(block("output: sample")), rows(text), strict=True):
        assert [*shown[:4], *shown[6:7], *shown[8:]] == [*real[:4], *real[6:7], *real[8:]]
        # What was measured may differ in its last digits from one machine to another.
        measured = [[float(row[at]) for at in (4, 5, 7)] for row in (shown, real)]
        assert measured[0] == pytest.approx(measured[1], rel=2e-3)
    note, other = (" ".join(each.split("\n\n")[1].split()) for each in (block("output: sample"), text))
    assert note == other
    shown, real = (each.split("\n\n")[2].splitlines() for each in (block("output: sample"), text))
    assert shown[:2] == real[:2]
    assert shown[3].split()[0] == real[3].split()[0] == "saved"


def test_the_report_has_the_fields_that_are_listed(sample):
    _, report = sample
    assert set(code(table("report"))) - {"cpu", "cuda:N"} >= set(report)
    assert set(code([row[:1] for row in table("report")])) == {*report, "compared", "state_dict"}
    assert set(code(table("layer"))) == set(report["layers"][0]) == set(LayerReport.__dataclass_fields__)
    said = {row[0].strip("`"): set(code([row], 1)) for row in table("report")}
    assert said["left"] == set(SkippedReport.__dataclass_fields__)
    assert said["changes"] == set(Change.__dataclass_fields__)
    assert said["roles"] == set(RoleReport.__dataclass_fields__)


def test_the_python_snippet_runs(tmp_path, monkeypatch, capsys):
    (tmp_path / "sample_models").mkdir()
    for name in ("fitnet_digits.onnx", "fitnet_digits.npy"):
        shutil.copy(ROOT / "sample_models" / name, tmp_path / "sample_models")
    monkeypatch.chdir(tmp_path)
    exec(compile(block("snippet: python"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 19
    assert all(line.split()[1] == "ok" for line in lines)
    assert float(lines[-1].split()[3]) == pytest.approx(1, rel=1e-3)
    assert (tmp_path / "digits.lsuv.onnx").is_file()
    assert len(safetensors.numpy.load_file(tmp_path / "digits.safetensors")) == 38


@pytest.fixture
def weights(tmp_path, monkeypatch) -> tuple[Any, Any]:
    """Write w.npz and w.safetensors for a small convolutional classifier; return an image and the classes' logits."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,6,4] x) => (float z)
    { y = Conv<pads=[1,1,1,1]>(x, "conv.weight", "conv.bias") r = Relu(y) f = Flatten(r)
      z = Gemm<transB=1>(f, "fc.weight", "fc.bias") }"""
    tensors = {"conv.weight": normal(5, 3, 3, 3), "conv.bias": normal(5) / 9}
    tensors |= {"fc.weight": normal(7, 120), "fc.bias": normal(7) / 9}
    image = normal(8, 3, 6, 4)
    monkeypatch.chdir(tmp_path)
    onnx.save(parse(text, tensors), "m.onnx")
    np.save("x.npy", image)
    arguments = ["m.onnx", "-d", "x.npy", "-o", "out.onnx", "--force", "--keep-bias", "--device", "cpu"]
    for name in ("w.npz", "w.safetensors"):
        assert invoke([*arguments, "--weights-out", name]).status == 0
    session = onnxruntime.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    return image, session.run(None, {"x": image})[0]


def channels_last(image: Any, layers: dict[str, list[Any]]) -> Any:
    """Compute the classifier as Keras and Flax do: channels last, kernels (height, width, in, out) and (in, out)."""
    padded = np.pad(image.transpose(0, 2, 3, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = sliding_window_view(padded, (3, 3), axis=(1, 2))
    (kernel, bias), (matrix, shift) = layers["conv"], layers["fc"]
    hidden = np.maximum(np.einsum("nhwcij,ijco->nhwo", patches, kernel) + bias, 0)
    return hidden.reshape(len(image), -1) @ matrix + shift


def test_the_recipes_for_keras_and_flax_give_the_outputs_of_the_file(weights):
    image, logits = weights
    layers: dict[str, list[Any]] = {}
    net = SimpleNamespace(
        get_layer=lambda name: SimpleNamespace(set_weights=lambda values: layers.update({name: values})),
        apply=lambda tree, x: channels_last(x, {k: [v["kernel"], v["bias"]] for k, v in tree["params"].items()}),
    )
    names = {"net": net, "image": image}
    exec(compile(block("snippet: keras"), "README.md", "exec"), names)
    np.testing.assert_allclose(channels_last(image, layers), logits, atol=1e-5)
    exec(compile(block("snippet: flax"), "README.md", "exec"), names)
    np.testing.assert_allclose(names["logits"], logits, atol=1e-5)


def test_the_way_back_is_the_one_that_is_run():
    # tests/frameworks/test_way_back.py runs it with PyTorch.
    run = (ROOT / "tests" / "frameworks" / "way_back.py").read_text(encoding="utf-8")
    a, b = README.index("## From a module, and back"), README.index("## Does it train?")
    lines = "\n".join(re.findall(r"```python\n(.*?)```", README[a:b], re.DOTALL)).split("\n")
    assert [line for line in lines if line] == [line for line in run.splitlines() if line in lines and line]
    (command,) = re.findall(r"^onnx-lsuv (.+)$", README[a:b], re.MULTILINE)
    assert f'"{command}"' in run


@pytest.mark.usefixtures("weights")
def test_the_recipe_for_pytorch_reads_the_file_and_refuses_other_names(monkeypatch):
    # PyTorch itself takes part in tests/frameworks; here its two calls are stood in for.
    fake = ModuleType("safetensors.torch")
    monkeypatch.setattr(fake, "load_file", safetensors.numpy.load_file, raising=False)
    monkeypatch.setitem(sys.modules, "safetensors.torch", fake)
    recipe = compile(block("snippet: torch"), "README.md", "exec")

    def module(*names: str) -> Any:
        def load_state_dict(state: dict[str, Any], strict: bool) -> tuple[list[str], list[str]]:
            assert not strict
            return sorted(set(names) - set(state)), sorted(set(state) - set(names))

        return SimpleNamespace(load_state_dict=load_state_dict)

    own = ("conv.weight", "conv.bias", "fc.weight", "fc.bias")
    exec(recipe, {"net": module(*own, "norm.num_batches_tracked")})
    for names in (own[1:], (*own, "norm.weight")):
        with pytest.raises(AssertionError):
            exec(recipe, {"net": module(*names)})


@pytest.mark.parametrize("recipe", ["shell", "workflow", "hook"])
def test_the_recipes_for_ci_pass_a_good_model_and_fail_another(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    shutil.copy(ROOT / "sample_models" / "fitnet_digits.onnx", "exported.onnx")
    shutil.copy(ROOT / "sample_models" / "fitnet_digits.npy", "samples.npy")
    assert invoke(["exported.onnx", "-d", "samples.npy", "-o", "model.onnx", "--device", "cpu"]).status == 0
    (line,) = re.findall(r"onnx-lsuv (model\.onnx .+)$", block(f"recipe: {recipe}"), re.MULTILINE)
    assert invoke([*shlex.split(line), "--device", "cpu"]).status == 0
    shutil.copy("exported.onnx", "model.onnx")
    assert invoke([*shlex.split(line), "--device", "cpu", "--force"]).status == 1


def test_a_few_samples_settle_the_std_as_the_answer_says():
    said = re.search(r"initialised on (\d+) digits, has stds of ([\d.]+) to ([\d.]+) on (\d+) other", FLAT)
    assert said
    digits = np.load(ROOT / "sample_models" / "fitnet_digits.npy")
    few, others = int(said[1]), int(said[4])
    model = onnx_lsuv.load(ROOT / "sample_models" / "fitnet_digits.onnx")
    made = onnx_lsuv.initialize(model, {"image": digits[:few]}).model
    stds = [row.std for row in onnx_lsuv.measure(made, {"image": digits[-others:]}).layers]
    assert [min(stds), max(stds)] == pytest.approx([float(said[2]), float(said[3])], abs=0.006)


def test_the_importers_are_those_of_the_table_of_importers():
    named = {row[0] for row in table("frameworks")} - {""}
    known = {
        name if name != "onnxruntime-training" else "ONNX Runtime Training": each for name, each in IMPORTERS.items()
    }
    assert named == {f"{name} {each.version}" for name, each in known.items()}
    runtime = IMPORTERS["onnxruntime-training"]
    assert runtime.opsets
    assert runtime.ir
    assert f"opset {runtime.opsets[0]} to {runtime.opsets[1]}, IR version {runtime.ir[0]} to {runtime.ir[1]}" in ALL
    measured = json.loads((ROOT / "tests" / "frameworks" / "measured.json").read_text(encoding="utf-8"))
    files = len(next(value for key, value in measured.items() if key != "versions"))
    assert f"{files * len(IMPORTERS)} predictions, for {files} small files and {len(IMPORTERS)} importers" in FLAT


def test_the_commands_name_files_and_extras_that_exist():
    words = " ".join(block(f"command: {name}") for name in ("sample", "tests", "torch")).split()
    for word in words:
        if word.startswith(("sample_models/", "tests/")):
            assert (ROOT / word).is_file(), word
    extras = {extra for group in re.findall(r"'\.\[([\w,]+)\]'", " ".join(words)) for extra in group.split(",")}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert extras == {"gpu", "test", "train"}
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
    assert "onnx-lsuv = " in project
    assert all((ROOT / script).is_file() for script, _ in SCRIPTS)


def slugs(page: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_to_files_and_sections_that_exist(page):
    text = PAGES[page]
    targets = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    for target in targets:
        file, _, section = target.partition("#")
        if ":" in target:
            continue
        found = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        assert found.exists(), target
        if section:
            assert section in slugs(found.read_text(encoding="utf-8")), target


def test_the_first_page_is_read_in_ten_minutes_and_leads_to_the_others():
    assert len(README.splitlines()) <= 330
    linked = {target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", README)}
    assert linked >= set(PAGES) - {"README.md", "tests/frameworks/README.md", "onnx_lsuv/graph/README.md"}


@pytest.mark.parametrize("page", PAGES)
def test_the_lines_of_a_page_fit_an_editor(page):
    prose = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    for line in prose.splitlines():
        assert len(line) <= 120 or line.startswith(("|", "!", "<")) or "](" in line, line


def test_the_section_that_notes_point_to_exists():
    assert SECTION in headings(README)


def test_the_pictures_are_small_and_ask_nothing_of_any_server():
    pictures = [path for path in PICTURES.iterdir() if path.suffix in (".svg", ".png")]
    assert {path.name for path in pictures} >= {"terminal.svg", "check.svg", "report-light.png", "report-dark.png"}
    for path in pictures:
        assert path.stat().st_size < 150_000, path
        assert path.name in ALL
        if path.suffix == ".svg":
            drawn = re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>', "", path.read_text(encoding="utf-8"))
            assert not re.search(r"<script|@import|url\([^#)]|href=\"[^#]", drawn), path


def words_of(picture: str) -> list[str]:
    """Return the lines of a terminal's picture."""
    drawn = (PICTURES / picture).read_text(encoding="utf-8")
    lines: dict[str, str] = {}
    for y, text in re.findall(r'<text [^>]*\by="([\d.]+)"[^>]*>(.*?)</text>', drawn):
        lines[y] = f"{lines.get(y, '')} {html.unescape(text)}"
    return list(lines.values())


def alike(shown: str, real: str) -> bool:
    """Say whether two lines are the same but for the last digits of what was measured, which machines differ in."""
    pairs = list(zip(shown.split(), real.split(), strict=False))
    numbers = [(float(a), float(b)) for a, b in pairs if re.fullmatch(r"\d+\.\d+", a) and re.fullmatch(r"\d+\.\d+", b)]
    words = [re.sub(r"\b\d+\.\d+\b", "N", " ".join(line.split())) for line in (shown, real)]
    return words[0] == words[1] and all(a == pytest.approx(b, rel=2e-3) for a, b in numbers)


def test_the_picture_of_the_terminal_shows_what_the_command_prints(sample):
    text, _ = sample
    shown = words_of("terminal.svg")
    rows = [line for line in text.splitlines() if re.match(r"layer |/|19 (layers|biases) ", line)]
    assert len(rows) == 21
    for row in rows:
        assert any(alike(line, row) for line in shown), row


def test_the_workflow_runs_where_the_text_says():
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    for each in (
        "ubuntu-latest",
        "macos-latest",
        "windows-latest",
        "3.11",
        "3.12",
        "3.13",
        "3.14",
        ".ci/run",
        "'.[test]'",
    ):
        assert each in workflow
