"""The module that a file came from: its tensors' names, orientation and types, for what it is to load back.

    reference   its tensors by name, from a file or from memory
    views       how a tensor lies in the constants of a file: axes in another order, blocks
    search      what is known of where they are
    matching    which constants hold which tensor: by name, by value
    blocks      ... in pieces: gates in another order, query, key and value
    folded      ... up to a norm that the exporter folded into it; and by what stands beside it
    state       the new values by the module's names; what was not found, and why
    bridge      what initialising a framework's module in place takes, whatever the framework

The exporter's old values tell which tensor is which; the new ones go the same way back.
"""

from onnx_lsuv.modules.reference import Reference, read_reference
from onnx_lsuv.modules.state import HOWS, StateDict, TensorMatch, save_state_dict, state_dict

__all__ = ["HOWS", "Reference", "StateDict", "TensorMatch", "read_reference", "save_state_dict", "state_dict"]
