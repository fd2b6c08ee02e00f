"""Text for ONNX Runtime.

Its Python interface makes no OrtValue of strings, and takes none from NumPy where inputs are bound. A session that
hands on a constant does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, ValueInfoProto, helper

from onnx_lsuv.runtime.package import package


def text_value(array: NDArray[Any]) -> Any:
    """Return an OrtValue on the host for an array of str."""
    strings = [str(each).encode() for each in np.asarray(array).reshape(-1)]
    tensor = TensorProto(name="x", data_type=TensorProto.STRING, dims=array.shape, string_data=strings)
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "text", [], [ValueInfoProto(name="y")], [tensor])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    ort = package()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_output("y", "cpu")
    session.run_with_iobinding(binding)
    return binding.get_outputs()[0]
