"""A model in memory: the proto, the bytes and the arrays are what the files of `save` and `save_weights` have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.numpy
from oracle import normal, parse

import onnx_lsuv
from onnx_lsuv import Result, errors
from onnx_lsuv.model import saving

X = normal(32, 16, seed=3)
TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[N,16] x) => (float[N,4] y) {
    a = Gemm(x, w, b) r = Relu(a) y = MatMul(r, v)
}"""


@pytest.fixture(params=["inside", "external", "one alone"])
def result(request: pytest.FixtureRequest, tmp_path: Path) -> Result:
    """Initialise a model from a file: with its weights in it, in a data file, or one of the two there."""
    proto = parse(TEXT, w=normal(16, 16), b=normal(16), v=normal(16, 4, seed=1))
    path = tmp_path / "m.onnx"
    if request.param == "inside":
        onnx.save(proto, path)
    else:
        limit = {"external": 0, "one alone": 300}[request.param]
        onnx.save_model(proto, path, save_as_external_data=True, size_threshold=limit)
    return onnx_lsuv.initialize(onnx_lsuv.load(path), X)


def test_the_proto_and_the_bytes_are_those_of_the_saved_file_with_its_data(result, tmp_path):
    onnx_lsuv.save(result.model, tmp_path / "saved.onnx")
    saved = onnx.load(tmp_path / "saved.onnx")  # external data and all
    assert onnx_lsuv.to_proto(result.model) == saved
    data = onnx_lsuv.to_bytes(result.model)
    assert onnx.load_from_string(data) == saved
    sessions = [
        onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"])
        for each in (data, str(tmp_path / "saved.onnx"))
    ]
    first, second = (session.run(None, {"x": X})[0] for session in sessions)
    np.testing.assert_array_equal(first, second)
    # And back: nothing is left that needs a file.
    again = onnx_lsuv.measure(onnx_lsuv.from_proto(onnx_lsuv.to_proto(result.model)), X)
    assert again.good


def test_the_weights_are_those_of_the_file_of_weights_and_arrays_of_their_own(result, tmp_path):
    onnx_lsuv.save_weights(result.model, tmp_path / "w.safetensors")
    file, arrays = safetensors.numpy.load_file(tmp_path / "w.safetensors"), result.weights()
    assert file.keys() == arrays.keys() == {"w", "b", "v"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, file[name])
        assert array.dtype == file[name].dtype
        assert array.flags.writeable
    arrays["w"][:] = 0
    assert result.weights()["w"].any()


def test_what_is_too_large_with_its_data_is_one_sentence(result, monkeypatch):
    whole = len(onnx_lsuv.to_bytes(result.model))
    monkeypatch.setattr(saving, "LIMIT", whole // 2)
    with pytest.raises(errors.OutputError, match="2 GiB"):
        onnx_lsuv.to_bytes(result.model)
