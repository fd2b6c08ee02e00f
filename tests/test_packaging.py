"""What the package says of itself, and what stands ready for CI: extras, links, action, hook, image, workflows."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from commands import invoke

import onnx_lsuv
from onnx_lsuv import cli, errors
from onnx_lsuv.runtime import package as ort

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def options() -> set[str]:
    command = typer.main.get_command(cli.app)
    return {opt for p in command.get_params(typer.Context(command)) for opt in (*p.opts, *p.secondary_opts)}


def hook() -> ModuleType:
    """Return .ci/metadata.py, with its one base class stood in for where hatchling is not installed."""
    spec = importlib.util.spec_from_file_location("project_metadata", ROOT / ".ci" / "metadata.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def built(monkeypatch):
    name = "hatchling.metadata.plugin.interface"
    stand_in = ModuleType(name)
    monkeypatch.setattr(stand_in, "MetadataHookInterface", object, raising=False)
    for part in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setitem(sys.modules, name, stand_in)
    module = hook()

    def build(**environment: str) -> dict[str, Any]:
        for key in ("REPOSITORY_URL", "REPOSITORY_REF"):
            monkeypatch.delenv(key, raising=False)
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        found = module.Metadata()
        found.root = str(ROOT)
        fields: dict[str, Any] = {}
        found.update(fields)
        return fields

    return build


def test_the_version_stands_in_one_place():
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    assert metadata.version("onnx-lsuv") == onnx_lsuv.__version__


def test_an_onnx_runtime_comes_by_one_extra_and_never_by_itself():
    def names(lines: list[str]) -> set[str]:
        return {re.split(r"[<>=;\[ ]", line)[0] for line in lines}

    extras = PROJECT["optional-dependencies"]
    assert not {name for name in names(PROJECT["dependencies"]) if name.startswith("onnxruntime")}
    assert names(extras["cpu"]) == {"onnxruntime"}
    assert names(extras["gpu"]) == {"onnxruntime", "onnxruntime-gpu"}
    # The two markers of `gpu` exclude each other.
    first, second = (line.split(";")[1] for line in extras["gpu"])
    for system in ("linux", "win32", "darwin"):
        for machine in ("x86_64", "AMD64", "aarch64", "arm64"):
            values = {"sys_platform": system, "platform_machine": machine}
            assert eval(first, {}, values) != eval(second, {}, values)
    assert not {line for name in ("cpu", "test-tools") for line in extras[name] if "gpu" in line}


def test_a_released_page_has_no_relative_link(built):
    page = built(REPOSITORY_URL="https://example.org/me/onnx-lsuv/", REPOSITORY_REF="v1")["readme"]["text"]
    source = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert len(links) == len(re.findall(r"\]\(([^)\s]+)\)", source))
    assert not [link for link in links if not re.match(r"[a-z]+:|#", link)]
    sources = re.findall(r'(?:src|srcset)="([^"]+)"', page)
    assert len(sources) == len(re.findall(r'(?:src|srcset)="', source)) >= 2
    for link in (*links, *sources):
        assert re.match(r"[a-z]+:|#", link)
        if found := re.fullmatch(r"https://example\.org/me/onnx-lsuv/(blob|raw)/v1/([^#]+)(#.*)?", link):
            assert (ROOT / found[2]).exists()


def test_a_released_package_has_addresses_and_a_checkout_has_none(built):
    urls = built(REPOSITORY_URL="https://example.org/me/onnx-lsuv", REPOSITORY_REF="v1")["urls"]
    assert {"Repository", "Documentation", "Changelog", "Issues"} == set(urls)
    assert all(url.startswith("https://example.org/me/onnx-lsuv/") for url in urls.values())
    bare = built()
    assert bare["urls"] == {}
    assert bare["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")


def test_without_an_onnx_runtime_the_command_says_what_to_install(monkeypatch, tmp_path):
    ort.package.cache_clear()
    monkeypatch.setattr(ort, "_installed", list)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    try:
        with pytest.raises(errors.DeviceError, match=r"pip install 'onnx-lsuv\[gpu\]'.*pip install 'onnx-lsuv\[cpu\]'"):
            ort.package()
        sample = ROOT / "sample_models" / "mlp.onnx"
        done = invoke([str(sample), "-d", str(sample.with_suffix(".npy")), "-o", str(tmp_path / "out.onnx")])
        assert done.status == 5
        assert not list(tmp_path.iterdir())
        assert invoke(["--version"]).status == 0
    finally:
        ort.package.cache_clear()


def test_the_action_uses_the_inputs_that_it_declares_and_options_that_exist():
    path = GITHUB / "actions" / "onnx-lsuv" / "action.yml"
    action = loaded(path)
    assert action["runs"]["using"] == "composite"
    used = set(re.findall(r"inputs\.([\w-]+)", path.read_text(encoding="utf-8")))
    assert used == set(action["inputs"])
    for step in action["runs"]["steps"]:
        # What a caller gives reaches a script through the environment alone.
        assert "inputs." not in step.get("run", "")
        assert ("run" in step) == ("shell" in step)
        assert set(re.findall(r"\$\{?([A-Z_]+)", step.get("run", ""))) <= {
            *step.get("env", {}),
            "RUNNER_TEMP",
            "GITHUB_ACTION_PATH",
        }
    run = action["runs"]["steps"][-1]["run"]
    assert set(re.findall(r'(?<=")--[a-z-]+', run)) == {"--data", "--format", "--report", "--force"} <= options()
    assert action["inputs"]["extra"]["default"] in PROJECT["optional-dependencies"]
    assert set(shlex.split(action["inputs"]["arguments"]["default"])) <= options()
    assert (path.parent / "../../.." / "pyproject.toml").resolve() == ROOT / "pyproject.toml"


def test_the_action_takes_its_arguments_apart_and_runs_none_as_code(tmp_path):
    (step,) = (
        s
        for s in loaded(GITHUB / "actions" / "onnx-lsuv" / "action.yml")["runs"]["steps"]
        if "MODEL" in s.get("env", {})
    )
    script = re.search(r"<<'END'\n(.*)\nEND", step["run"], re.DOTALL)[1]
    (tmp_path / "onnx-lsuv").write_text(f"#!{sys.executable}\nimport sys\nprint(sys.argv[1:])\nsys.exit(3)\n")
    (tmp_path / "onnx-lsuv").chmod(0o755)
    given = {
        "MODEL": "a b.onnx",
        "DATA": "x.npy",
        "ARGUMENTS": "--check --target 'a b=1' $(touch pwned)",
        "REPORT": "r.html",
    }
    environment = {"PATH": str(tmp_path), **given}
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 3
    wanted = ["a b.onnx", "--data", "x.npy", "--check", "--target", "a b=1", "$(touch", "pwned)"]
    assert eval(done.stdout) == [*wanted, "--format", "github", "--report", "r.html", "--force"]
    assert not (tmp_path / "pwned").exists()


def test_the_hook_runs_the_command_with_the_files_that_its_arguments_name():
    (found,) = loaded(ROOT / ".pre-commit-hooks.yaml")
    assert found["entry"] in PROJECT["scripts"]
    assert found["pass_filenames"] is False
    assert found["additional_dependencies"] == PROJECT["optional-dependencies"]["cpu"]
    assert re.search(found["files"], "a/model.onnx")
    assert not re.search(found["files"], "a/model.py")


def test_the_image_copies_what_is_there_and_has_an_extra_that_exists():
    text = (GITHUB / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^ARG EXTRA=(\w+)$", text, re.MULTILINE)[1] in PROJECT["optional-dependencies"]
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
    kept = (GITHUB / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    names = re.findall(r"^!(.+)$", kept, re.MULTILINE)
    assert all((ROOT / name).exists() for name in names)
    # What a build of the package reads.
    assert {"pyproject.toml", "README.md", "LICENSE", "onnx_lsuv", ".ci"} <= set(names)


@pytest.mark.parametrize("path", sorted((GITHUB / "workflows").iterdir()), ids=lambda path: path.stem)
def test_a_workflow_installs_extras_that_exist_and_grants_little(path):
    workflow = loaded(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
        for step in job["steps"]:
            for extras in re.findall(r"pip install '?\.\[([\w,-]+)\]", step.get("run", "")):
                assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
            if step.get("uses", "").startswith("actions/setup-python"):
                assert step["with"]["cache"] == "pip"
    for extras in workflow["jobs"].get("test", {}).get("strategy", {}).get("matrix", {}).get("extras", []):
        assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
