"""ONNX Runtime: devices, sessions, bound runs. No other package imports it.

    providers  what is known of each of ONNX Runtime's execution providers, a row each; the words of `--device`
    package    ONNX Runtime itself
    devices    a word -> where a model runs, on which cores; a trial of what is no CPU
    blocks     the CPU's layout for convolutions: how wide its blocks are, and whether `graph` may use it
    sessions   a model is loaded and run
    values     arrays on the host <-> what ONNX Runtime holds

A word becomes a device (`open_device`), a serialised model on it a session (`load`), arrays values (`value_of`), and
`run` binds these: inputs are OrtValues over the arrays' own memory, so a weight is neither copied nor serialised on the
CPU; what stays between runs stays on the device, as do the inputs that runs share (`keeping`).
"""

from onnx_lsuv import loaded_on_use

TYPE_CHECKING = False  # as typing has it, which takes longer to load than the rest
if TYPE_CHECKING:
    from onnx_lsuv.runtime.devices import Device, block, device_of, left_alone, open_device, room
    from onnx_lsuv.runtime.package import version
    from onnx_lsuv.runtime.providers import check_device, device_words
    from onnx_lsuv.runtime.sessions import Session, keeping, load, output_types, release, run
    from onnx_lsuv.runtime.values import array_of, has_array, value_of

__all__ = [
    "Device",
    "Session",
    "array_of",
    "block",
    "check_device",
    "device_of",
    "device_words",
    "has_array",
    "keeping",
    "left_alone",
    "load",
    "open_device",
    "output_types",
    "release",
    "room",
    "run",
    "value_of",
    "version",
]

# `check_device`, in the first of them, needs no NumPy and no ONNX.
__getattr__ = loaded_on_use(__name__, __all__, "providers package devices values sessions")
