"""ONNX Runtime: devices, sessions, bound runs. No other package imports it.

    devices   where a model runs
    sessions  a model is loaded and run
    values    arrays on the host <-> what ONNX Runtime holds
    text      arrays of text -> what ONNX Runtime holds
    package   ONNX Runtime itself

Inputs are bound as OrtValues over the arrays' own memory, so a weight is neither copied nor serialised on the CPU;
what stays between runs stays on the device.
"""

from __future__ import annotations

from onnx_lsuv.runtime.devices import Device, block, device_of, open_device
from onnx_lsuv.runtime.package import version
from onnx_lsuv.runtime.sessions import Session, load, output_types, release, run
from onnx_lsuv.runtime.values import array_of, value_of

__all__ = [
    "Device",
    "Session",
    "array_of",
    "block",
    "device_of",
    "load",
    "open_device",
    "output_types",
    "release",
    "run",
    "value_of",
    "version",
]
