"""What PyTorch trains, through onnx2torch and onnx2pytorch, and with the weights loaded by name.

Needs the extra `train`; the other importers have environments of their own, see `prove.py`.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import classifiers
import numpy as np
import onnxruntime
import prove
import pytest
import registered
import variants
from safetensors.numpy import load_file
from train import Job, train

import onnx_lsuv
from onnx_lsuv.importers import IMPORTERS, forecast
from onnx_lsuv.lsuv.prepare import plan_of
from onnx_lsuv.portable import make_portable

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'onnx-lsuv[train]'")

# What importers and torchvision warn of is theirs; a warning of onnx-lsuv would be an error in the other tests.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]
PAIR = ("onnx2torch", "onnx2pytorch")
# Held-out accuracy that every file reaches whose weights all train; transformers learn more slowly.
REACHED = {"transformer": 0.7, "transformer-written-out": 0.7}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Every model initialised, as it is and in its portable form, with what there is to do."""
    folder = tmp_path_factory.mktemp("files")
    return {(name, form): job for name, form, job in prove.write_files(folder)}


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], dict[str, int]]]:
    """Every file of `variants.py`, with the number of weights foretold for each importer."""
    folder = tmp_path_factory.mktemp("variants")
    return {name: (job, foretold) for name, job, foretold in prove.write_variants(folder)}


@pytest.mark.parametrize("form", prove.FORMS)
@pytest.mark.parametrize("name", classifiers.MODELS)
@pytest.mark.parametrize("importer", PAIR)
def test_trains(files: dict[tuple[str, str], dict[str, Any]], importer: str, name: str, form: str) -> None:
    row = train(importer, Job(**files[name, form]))
    plan = plan_of(onnx_lsuv.load(files[name, form]["model"]))
    (foretold,) = (each.as_is for each in forecast(plan) if each.importer == importer)
    assert (row["trainable"], row["weights"]) == (foretold.trainable, foretold.weights), row
    if foretold.trainable == foretold.weights:
        assert row["difference"] == 0, "the parameters are not the initializers, bit for bit"
        assert row["last"] < 0.5 * row["first"]
        assert row["accuracy"] > REACHED.get(name, 0.9)
    else:
        assert form == "as is", "the portable form does not train"


@pytest.mark.parametrize("name", variants.VARIANTS)
@pytest.mark.parametrize("importer", PAIR)
def test_the_table_foretells(forms: dict[str, tuple[dict[str, Any], dict[str, int]]], importer: str, name: str) -> None:
    job, foretold = forms[name]
    row = train(importer, Job(**job))
    assert row["trainable"] == foretold[importer], row


@pytest.mark.parametrize("importer", PAIR)
def test_versions(importer: str) -> None:
    assert importlib.metadata.version(importer) == IMPORTERS[importer].version


@pytest.mark.parametrize("importer", PAIR)
def test_operators(importer: str) -> None:
    row = json.loads(prove.TABLE.read_text())["importers"][importer]
    assert registered.LISTS[importer]() == {"operators": row["operators"]}


class Digits(torch.nn.Module):
    """A convolutional network as a person writes it, with the names that the file's initializers have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16)
        self.conv2, self.bn2 = torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.BatchNorm2d(32)
        self.fc1, self.fc2 = torch.nn.Linear(128, 64), torch.nn.Linear(64, 10)

    def forward(self, x: Any) -> Any:
        pool, relu = torch.nn.functional.max_pool2d, torch.relu
        x = pool(relu(self.bn1(self.conv1(x))), 2)
        x = pool(relu(self.bn2(self.conv2(x))), 2)
        return self.fc2(relu(self.fc1(x.flatten(1))))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_weights_by_name(tmp_path: Path, suffix: str) -> None:
    images = classifiers.digits((1, 8, 8))[0][:256]
    model = onnx_lsuv.from_proto(classifiers.MODELS["cnn-bn"]())
    result = onnx_lsuv.initialize(model, [{"image": images}], seed=0)
    onnx_lsuv.save(result.model, tmp_path / "model.onnx")
    path = tmp_path / f"weights{suffix}"
    onnx_lsuv.save_weights(result.model, path)
    weights = load_file(path) if suffix == ".safetensors" else dict(np.load(path))
    net = Digits()
    missing, unexpected = net.load_state_dict({k: torch.from_numpy(v) for k, v in weights.items()}, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": images})[0]
    with torch.no_grad():
        found = net.eval()(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.5, "nothing to compare"


def test_portable_gives_the_same_outputs(tmp_path: Path) -> None:
    images = classifiers.digits((64,))[0][:256]
    result = onnx_lsuv.initialize(onnx_lsuv.from_proto(classifiers.MODELS["mlp"]()), [{"image": images}], seed=0)
    portable = make_portable(result.model)
    assert portable.steps
    outputs = []
    for name, model in (("as-is", result.model), ("portable", portable.model)):
        onnx_lsuv.save(model, tmp_path / f"{name}.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {"image": images})[0])
    np.testing.assert_allclose(outputs[1], outputs[0], rtol=1e-5, atol=1e-5)
