"""Models of other projects and exporters, of which the architecture alone is left, become models again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import oracle
import pytest
from corpus import CORPUS, ENTRIES, batches_of
from stripping import STRIPS

import onnx_lsuv

# By how they come; what the third way leaves tells no shape of some of them.
WILD = {
    "Avafly_tiny-cnn__models_model": "all",
    "microsoft_Windows-Machine-Learning__Network": "all",
    "webonnx_wonnx__opt-mnist": "all",
    "NVIDIA_TensorRT__lstm": "all",
    "sklearn__sk_mlp_clf": "all",
    "torch__cnn_bn_opsets__ts_op9": "all",
    "torch__cnn_depthwise_grouped__ts": "all",
    "torch__dcgan_generator__ts": "all",
    "torch__lstm_bi_2l__ts": "all",
    "torch__tied_lm_nofold__ts": "all",
    "torch__transformer_encoder__dynamo": "all",
    "torch__unet_convtranspose__dynamo": "all",
    "hf__hf_vit__dynamo": "all",
    "jax__jax_convtranspose": "all",
    "oracle_tribuo__tinybert": "shapes",
    "microsoft_onnxruntime-genai__tiny-random-gpt2-fp32_past": "shapes",
    "ort__hf_bert__ts__tfopt_bert": "shapes",
    "torch__lora_merged_nofold__ts": "shapes",
}
CASES = [
    pytest.param(entry, kind, id=f"{name}, {kind}")
    for entry in ENTRIES
    for kind in STRIPS
    if (name := entry["file"].removesuffix(".onnx")) in WILD and (WILD[name] == "all" or kind != "names")
]


def checked(path: Path, batches: list[dict[str, Any]]) -> onnx_lsuv.Result:
    """Initialise an architecture; look at what is saved by the checker, a plain session, and an oracle."""
    model = onnx_lsuv.complete(onnx_lsuv.load(path), list(batches[0]))
    assert model.absent
    result = onnx_lsuv.initialize(model, batches)
    target = path.with_name("out.onnx")
    onnx_lsuv.save(result.model, target)
    onnx.checker.check_model(target)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} <= set(batches[0])
    session.run(None, batches[0])
    result = onnx_lsuv.measure(onnx_lsuv.load(target), batches, like=result)
    saved = onnx.load(target)
    ok = [row for row in result.layers if row.status == "ok"]
    where = oracle.values_of_layers(saved, [(row.name, row.op.rpartition(".")[2]) for row in ok])
    moments = oracle.measure(saved, batches, list(dict.fromkeys(where.values())))
    for i, row in enumerate(ok):
        if not any(other.status == "shared" for other in result.layers):
            assert abs(moments[where[i]].var / row.target**2 - 1) < 0.005, row.name
    assert all(np.isfinite(array).all() for array in oracle.all_float_tensors(saved).values())
    return result


@pytest.mark.parametrize(("entry", "kind"), CASES)
@pytest.mark.few(12)
def test_wild_architectures_become_models(entry: dict[str, Any], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "bare.onnx"
    STRIPS[kind](onnx.load(CORPUS / entry["file"]), path)
    result = checked(path, batches_of(entry))
    assert result.good
    assert {row.status for row in result.layers} <= {"ok", "drawn", "shared"}
    assert any(change.absent for change in result.changes)


@pytest.mark.skipif(not ENTRIES, reason="the corpus is not there")
def test_a_model_that_lost_its_data_file(tmp_path: Path) -> None:
    folder = CORPUS / "handmade__external_missing_file_model"
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    result = checked(tmp_path / "model.onnx", [{"x": oracle.normal(32, 6)}])
    assert [row.status for row in result.layers] == ["ok", "ok"]
