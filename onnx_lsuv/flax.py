"""Flax's modules, initialised in one call: exported in memory by jax2onnx, every tensor under its path as its name.

    import onnx_lsuv.flax

    variables, result = onnx_lsuv.flax.initialize(module, variables, batch)  # linen
    result = onnx_lsuv.flax.initialize_(module, batch)  # nnx, in place

Needs Flax and jax2onnx: `pip install 'onnx-lsuv[cpu,flax]'`. Nothing else in this package imports them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import jax
import jax2onnx
import numpy as np
import onnx
from flax import nnx
from jax.tree_util import keystr, tree_flatten, tree_flatten_with_path, tree_unflatten

from onnx_lsuv.lsuv import Result, Settings
from onnx_lsuv.lsuv import initialize as initialize_file
from onnx_lsuv.lsuv.settings import Choices
from onnx_lsuv.model import Array, Model, from_proto
from onnx_lsuv.modules.bridge import exporting, feed, taken_back
from onnx_lsuv.runtime import Device


def initialize(
    module: Any,
    variables: Any,
    batch: Any,
    settings: Settings | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    **choices: Unpack[Choices],
) -> tuple[Any, Result]:
    """Give a linen module's layers fresh weights, scaled to unit output variance on a batch (LSUV).

    Args:
        module: a linen module, or a function of the variables and the batch, as its `apply` is one.
        variables: as `module.init` gives them; they stay as they are.
        batch: what the module is called with: an array, a tuple of arguments, or a dict of keyword arguments; what is
            no array, `train=False`, is handed through.
        settings: how to do it, as for `onnx_lsuv.initialize`; so are the others. Patterns are for paths,
            `include=["params/Conv_*"]`.
        device: where ONNX Runtime runs.
        threads: how many cores to use; None for all.
        memory: as for `onnx_lsuv.initialize`.
        choices: fields of `Settings` as keywords.

    Returns:
        New variables of the same structure, shapes and types, and the result; its model is the exported one with the
        new values, which `onnx_lsuv.save` writes.

    Raises:
        UsageError: an argument is wrong.
        ModelError: jax2onnx cannot export the module, there is nothing to initialise, or ONNX Runtime refuses it.
        DataError: the batch does not fit.
    """
    apply = getattr(module, "apply", module)
    leaves, tree = tree_flatten_with_path(variables)
    own = {keystr(path, simple=True, separator="/").removesuffix("/value"): leaf for path, leaf in leaves}
    floats = {name: leaf for name, leaf in own.items() if _is_float(leaf)}
    given = batch if isinstance(batch, tuple | Mapping) else (batch,)
    parts, shape = tree_flatten(given)
    places = [i for i, part in enumerate(parts) if hasattr(part, "dtype")]
    arrays = [np.asarray(jax.numpy.asarray(parts[i])) for i in places]

    def call(*values: Any) -> Any:
        new = own | dict(zip(floats, values, strict=False))
        whole = list(parts)
        for i, value in zip(places, values[len(floats) :], strict=True):
            whole[i] = value
        inputs = tree_unflatten(shape, whole)
        args, named = ((), inputs) if isinstance(inputs, Mapping) else (inputs, {})
        return apply(tree_unflatten(tree, list(new.values())), *args, **named)

    model = _exported(call, {name: np.asarray(leaf) for name, leaf in floats.items()}, arrays, type(module).__name__)
    result = initialize_file(
        model, feed(model, arrays, "arrays"), settings, device=device, threads=threads, memory=memory, **choices
    )
    tensors, result = taken_back(result, floats)
    for name, values in tensors.items():
        own[name] = jax.device_put(np.asarray(values, floats[name].dtype), getattr(floats[name], "sharding", None))
    return tree_unflatten(tree, list(own.values())), result


def initialize_(
    module: nnx.Module,
    batch: Any,
    settings: Settings | None = None,
    *,
    device: str | Device = "cpu",
    threads: int | None = None,
    memory: int | str | None = None,
    **choices: Unpack[Choices],
) -> Result:
    """Do the same to an nnx module, in place; it is exported in evaluation mode, and stays in its own.

    Paths are those of its state without the last part, `conv/kernel`. Arguments and errors are those of `initialize`.
    """
    kept, state = nnx.split(module)
    evaluated = nnx.merge(kept, state)
    evaluated.eval()
    graph, values = nnx.split(evaluated)

    def apply(values: Any, *args: Any, **named: Any) -> Any:
        return nnx.merge(graph, values)(*args, **named)

    new, result = initialize(apply, values, batch, settings, device=device, threads=threads, memory=memory, **choices)
    nnx.update(module, new)
    return result


def _is_float(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and bool(jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating))


def _exported(call: Callable[..., Any], tensors: Mapping[str, Array], arrays: list[Array], kind: str) -> Model:
    """Export with the tensors as inputs, so that none is folded or renamed; then give these their values."""
    every = [*tensors.values(), *arrays]
    specs = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in every]
    names = [*tensors, *(f"input_{i}" for i in range(len(arrays)))]
    with exporting(f"jax2onnx cannot export {kind}"):
        double = any(each.dtype == np.float64 for each in every)
        proto = jax2onnx.to_onnx(call, specs, input_names=names, enable_double_precision=double)
    inputs = [each for each in proto.graph.input if each.name not in tensors]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(each, name) for name, each in tensors.items())
    return from_proto(proto)
