"""Put local functions in the place of their calls.

`onnx.inliner` does it, and leaves out two things, which are done before: it does not give a call the attributes that
have a default in the function, and it refuses a function of another opset than the model's. ONNX Runtime reads a
function's body in the model's opset, whatever the function says, so that is what it says here.
"""

from __future__ import annotations

import numpy as np
import onnx.inliner
from onnx import helper

from onnx_lsuv.portable.draft import Draft
from onnx_lsuv.portable.header import all_nodes
from onnx_lsuv.portable.scopes import attribute_of, is_op


def inline_functions(draft: Draft) -> None:
    """Put local functions in the place of their calls; a constant in a function stays one tensor for all calls."""
    proto = draft.proto
    if not proto.functions:
        return
    functions = {(f.domain, f.name, f.overload): f for f in proto.functions}
    known = {entry.domain: entry.version for entry in proto.opset_import}
    for function in proto.functions:
        for entry in function.opset_import:
            if entry.domain not in known:
                proto.opset_import.add(domain=entry.domain, version=entry.version)
                known[entry.domain] = entry.version
            entry.version = known[entry.domain]
        for node in function.node:
            _mark_floats(draft, node)
    calls: dict[tuple[str, str], None] = {}
    for node in all_nodes(proto):
        called = functions.get((node.domain, node.op_type, node.overload))
        if called is not None:
            given = {attribute.name for attribute in node.attribute}
            node.attribute.extend(each for each in called.attribute_proto if each.name not in given)
            calls[node.domain, node.op_type] = None
    draft.proto = onnx.inliner.inline_local_functions(proto)
    del draft.proto.functions[:]
    for domain, name in calls:
        draft.did("function put in the place of its calls", f"{domain}.{name}", "no importer knows local functions")


def _mark_floats(draft: Draft, node: onnx.NodeProto) -> None:
    """Let a constant that is a list of floats be a tensor, which has a mark."""
    floats = attribute_of(node, "value_floats") if is_op(node, "Constant") else None
    if floats is not None and not floats.ref_attr_name:
        floats.CopyFrom(helper.make_attribute("value", draft.tensor("", np.array(floats.floats, np.float32))))
