"""Models of other projects and exporters, from the corpus beside the repository, with data as its manifest says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

CORPUS = Path(__file__).resolve().parents[2] / "shared" / "corpus"
MANIFEST = CORPUS / "manifest.json"
ENTRIES: list[dict[str, Any]] = json.loads(MANIFEST.read_text()) if MANIFEST.is_file() else []
ABSENT = "the corpus is not there: ../shared/corpus/manifest.json"
SAMPLES = 8
# A squeeze to two units may have both cut off by its ReLU, which is for the report to say; another draw has not.
SEEDS = {"rapidocr__ch_ppocr_mobile_v2.0_cls_mobile.onnx": 1}
# They take more than a second each.
SLOW = frozenset({
    "Linzaer_Ultra-Light-Fast-Generic-Face-Detector-1MB__version-RFB-320", "basic_pitch__nmp",
    "ecmwf_infero__cyclone_model_200x200", "keijiro_SelfieBarracuda__selfie_segmentation_landscape",
    "microsoft_Windows-Machine-Learning__SqueezeNet_fp16", "microsoft_onnxruntime-extensions__FastestDet",
    "onnx__light_inception_v1", "onnx__light_resnet50", "onnxruntime_onnxruntime-qnn__squeezenet_tensor_input",
    "sasekazu_sed-gen-web__sasekazu_sed-gen-web_unet", "silero_vad__silero_vad", "speechmos__model_v8",
    "light_bvlc_alexnet", "light_densenet121", "light_resnet50", "light_vgg19", "light_zfnet512",
})  # fmt: skip
# The light models that come with onnx: real architectures whose weights are made by ConstantOfShape.
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def named(*kinds: str) -> list[Any]:
    """Return the entries that are expected to end so, as parameters with a name; the large ones are marked slow."""
    found = [(entry, entry["file"].removesuffix(".onnx")) for entry in ENTRIES if entry["expect"] in kinds]
    return [pytest.param(e, id=name, marks=[pytest.mark.slow] if name in SLOW else []) for e, name in found]


def draw(info: dict[str, Any], shape: list[int], seed: int) -> np.ndarray:
    """Draw what the manifest says: floats standard normal, integers between its bounds, strings alike."""
    generator = np.random.default_rng(seed)
    if info["dtype"] == "string":
        return np.full(shape, "word", dtype=object)
    if info["dtype"].startswith("float"):
        return np.asarray(generator.standard_normal(shape)).astype(info["dtype"])
    if info["dtype"] == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    return np.asarray(generator.integers(info["min"], info["max"] + 1, shape)).astype(info["dtype"])


def batches_of(entry: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    """Return one batch of 8 samples where the model takes more than one at a time, else 8 batches as it takes them.

    Which axis counts samples is seen from what changed when the manifest's author ran a batch of 4.
    """
    ort = entry.get("ort") or {}
    inputs = ort.get("inputs")
    if not inputs:
        declared = {v["name"]: v for v in entry.get("declared_inputs") or ()}
        shapes = {n: [d if isinstance(d, int) and d > 0 else SAMPLES for d in v["shape"]] for n, v in declared.items()}
        return [{n: draw({"dtype": "float32"}, shape, i) for i, (n, shape) in enumerate(shapes.items())}]
    if ort.get("batch4"):
        shapes = {
            name: [SAMPLES if big == 4 and small == 1 else small for small, big in zip(v["shape"], more, strict=True)]
            for name, v in inputs.items()
            for more in [ort["inputs_batch4"].get(name, v["shape"])]
        }
        return [{n: draw(v, shapes[n], i) for i, (n, v) in enumerate(inputs.items())}]
    return [
        {n: draw(v, v["shape"], 100 * batch + i) for i, (n, v) in enumerate(inputs.items())} for batch in range(SAMPLES)
    ]
