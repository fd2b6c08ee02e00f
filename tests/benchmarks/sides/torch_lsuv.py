"""Initialise an ONNX model by the package `lsuv` on PyTorch, through onnx2torch; print as JSON what was done.

    python torch_lsuv.py MODEL BATCH.npy

What it does: convert the model, run `LSUVinit` on the batch with its defaults (tolerance 0.1 on the std), fetch the
weights as arrays. What it does not: put them back into the ONNX file, save, verify; and scale a MatMul, which the
converter makes a module of its own that `lsuv` does not know.
"""

import json
import sys
from importlib.metadata import version
from time import perf_counter
from types import ModuleType

import numpy as np
import torch
from lsuv.lsuvinit import LSUVinit, is_relevant_layer


def stand_in_for_torchvision() -> None:
    """Let onnx2torch be imported without it: it has wheels for some builds of PyTorch only, and fails beside others.

    Of it come NonMaxSuppression and RoiAlign alone, which no net here has.
    """
    found = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops")}
    found["torchvision"].ops = found["torchvision.ops"]
    found["torchvision.ops"].roi_align = found["torchvision.ops"].nms = None
    sys.modules.update(found)


def main() -> None:
    stand_in_for_torchvision()
    import onnx2torch  # noqa: PLC0415

    if not sys.argv[1:]:  # asked for what is installed
        json.dump({name: version(name) for name in ("torch", "onnx2torch", "lsuv")}, sys.stdout)
        return
    path, data = sys.argv[1:]
    start = perf_counter()
    net = onnx2torch.convert(path)
    converted = perf_counter()
    forwards = 0

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    net.register_forward_hook(count)
    torch.manual_seed(0)
    net = LSUVinit(net, torch.from_numpy(np.load(data)), verbose=False)
    initialised = perf_counter()
    weights = {name: value.numpy() for name, value in net.state_dict().items()}
    account = {
        "convert": converted - start,
        "lsuv": initialised - converted,
        "fetch": perf_counter() - initialised,
        "forwards": forwards,
        "layers": sum(map(is_relevant_layer, net.modules())),
        "tensors": len(weights),
    }
    json.dump(account, sys.stdout)


if __name__ == "__main__":
    main()
