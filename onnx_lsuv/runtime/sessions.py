"""Sessions: a model is loaded and run."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, helper

from onnx_lsuv.errors import DataError, DeviceError, DeviceMemoryError, LsuvError, ModelError
from onnx_lsuv.runtime.devices import Device, cause_of, limited
from onnx_lsuv.runtime.package import message_of, package, quiet_options, version
from onnx_lsuv.runtime.providers import MEMORY
from onnx_lsuv.runtime.values import type_of

# ONNX Runtime cuts a matrix product into as many parts as it has threads, and the parts' shapes decide the order of
# sums. So the number of parts is the machine's, whatever it is asked to use: how many cores the threads may run on is
# a matter of affinity, and the bytes are the same for any number.
_PARTS = min(os.cpu_count() or 1, 16)


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """A loaded model."""

    session: Any
    device: Device
    place: tuple[str, int]  # of what it computes, in ONNX Runtime's words
    names: Mapping[str, str] = field(default_factory=dict)  # the model's, of values that the caller calls otherwise
    binding: Any = None  # where inputs stay from run to run
    given: dict[str, Any] = field(default_factory=dict)  # these, by the caller's names


def load(model: bytes, device: Device, *, fold: bool = True, optimize: bool = True) -> Session:
    """Load a serialised model.

    Args:
        model: ONNX.
        device: where it will run.
        fold: let ONNX Runtime compute what depends on constants alone when it loads the model.
        optimize: let it fuse and drop nodes, which depends on where constants are listed; else it runs what is written.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        DeviceError: it would not run on the device asked for; DeviceMemoryError where it is too large for that.
    """
    ort = package()
    options = quiet_options()
    options.intra_op_num_threads = _PARTS
    options.use_deterministic_compute = True
    # Weights are inputs here, so the levels above find nothing to fuse; and some of their passes crash (see README).
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_BASIC if optimize else levels.ORT_DISABLE_ALL
    # Nodes run in the order in which they are written: what a layer needs is made right before it, not long before.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # Buffers are used once: planning them ahead for the next run is lost work.
    options.enable_mem_pattern = False
    # The next stage takes the memory of the last one: fresh memory is slow to touch.
    for each in {device, Device("cpu", 1)}:
        if each.kind == "cpu" or each.provider.arena != "cpu":
            _share_memory(each.provider.name, each.kind, each.index)
    options.add_session_config_entry("session.use_env_allocators", "1")
    # Threads that wait by spinning take the cores from the next stage's session, and from everybody else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in device.custom_ops:
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise DeviceError(
                f"The custom-operator library {library!r} cannot be loaded: {message_of(error)}."
            ) from error
    off = [] if fold else ["ConstantFolding"]
    # ONNX Runtime 1.31 moves a Transpose past a blocked QuantizeLinear and leaves the steps as they are.
    off += ["TransposeOptimizer"] if b"block_size" in model else []
    provider = device.provider
    providers = {provider.name: provider.options(device.index, device.allow_tf32), "CPUExecutionProvider": {}}

    def work() -> Any:
        # The session's threads inherit the affinity of the thread that makes them.
        with limited(device.threads):
            # Without what falls back to the CPU by itself, and says so on standard output.
            return ort.InferenceSession(
                model, options, providers=list(providers.items()), disabled_optimizers=off, enable_fallback=0
            )

    try:
        # Each thread that has to do with a GPU has handles of its libraries made; so the one that runs loads too.
        session = work() if device.kind == "cpu" else _interruptible(work, lambda: None)
    except Exception as error:
        raise _refused(error, device) from error
    if session.get_providers()[0] != provider.name:
        raise DeviceError(f"ONNX Runtime did not start {provider.title} on {device.name!r}: use '--device cpu'.")
    return Session(session, device, (device.kind, device.index))


def output_types(session: Session) -> dict[str, TypeProto]:
    """Return the types of a session's outputs, their shapes left open."""
    called = {inner: name for name, inner in session.names.items()}
    return {called.get(output.name, output.name): type_of(output.type) for output in session.session.get_outputs()}


def keeping(session: Session) -> Session:
    """Return a session whose inputs stay from run to run: a device with its own memory gets each of them once."""
    return replace(session, binding=session.session.io_binding(), given={})


def run(session: Session, inputs: Mapping[str, Any], outputs: Sequence[str], on_host: Set[str]) -> dict[str, Any]:
    """Run a session once.

    Args:
        session: what to run.
        inputs: an OrtValue for each input; of one that keeps them, for those that are new or change.
        outputs: names to compute.
        on_host: those of them wanted on the host; the others stay on the device.

    Raises:
        DataError: an index in the data lies outside the model's tables.
        DeviceMemoryError: the memory of the device does not hold the batch.
        DeviceError: anything else that goes wrong while running.
    """
    session = session if session.binding else keeping(session)
    session.given.update(inputs)
    binding = session.binding
    options = package().RunOptions()
    options.log_severity_level = 4
    # The default, said: where it is missing the Python side catches an exception, which takes as long as a small run.
    options.add_run_config_entry("gpu_graph_id", "0")

    def work() -> None:
        with limited(session.device.threads):
            binding.clear_binding_outputs()  # they would be written over
            for name, value in inputs.items():
                binding.bind_ortvalue_input(session.names.get(name, name), value)  # which takes it to the device
            for name in outputs:
                binding.bind_output(session.names.get(name, name), *(("cpu", 0) if name in on_host else session.place))
            session.session.run_with_iobinding(binding, options)

    try:
        _interruptible(work, partial(setattr, options, "terminate", True))
    except Exception as error:
        text = message_of(error)
        if re.search(
            r"ind(ex|ices).*(bounds|range)|out of (data )?bounds|out of range value in ind", text, re.IGNORECASE
        ):
            raise DataError(f"An index in the data lies outside a table of the model: {text}.") from error
        raise _failed(text, session.device) from error
    return dict(zip(outputs, binding.get_outputs(), strict=True))


def _interruptible(work: Callable[[], Any], stop: Callable[[], None]) -> Any:
    """Return what something of ONNX Runtime gives, but for a signal, which stops it, between two of its nodes.

    This is for callers of the library: Python answers signals in its main thread only, and not before that comes back
    from C++; so the main thread waits. The command line has a thread that ends the process, and needs none of it.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    running = _beside(os.getpid()).submit(work)
    try:
        return running.result()
    except BaseException:
        stop()
        wait([running])
        raise
    finally:
        del running  # an error knows this frame, and the future its error: while the frame knows the future, all stay


@lru_cache(maxsize=1)
def _beside(process: int) -> ThreadPoolExecutor:
    """Return a thread for runs, always the same one: CUDA's libraries are set up for each thread anew."""
    return ThreadPoolExecutor(1, thread_name_prefix=f"run-{process}")


@lru_cache
def _share_memory(provider: str, kind: str, index: int) -> None:
    """Make the allocator of a device's memory that all sessions share."""
    ort = package()
    place = ort.OrtMemoryInfo(
        kind.capitalize(), ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, index, ort.OrtMemType.DEFAULT
    )
    # On the host it grows by what is asked for, not to the next power of two; but a GPU takes long for each time.
    most = {"arena_extend_strategy": 0, "max_power_of_two_extend_bytes": 1 << 26}
    config = ort.OrtArenaCfg({"arena_extend_strategy": 1} if kind == "cpu" else most)
    ort.create_and_register_allocator_v2(provider, place, {"device_id": str(index)} if index else {}, config)


def release(device: Device) -> None:
    """Give back the memory that the runs so far took and no value holds any more, if the device does not keep it.

    It is slow to come again, so a device that a caller opened keeps it for the next run.
    """
    if device.kept:
        return
    ort = package()
    tensor = helper.make_tensor_value_info("x", TensorProto.FLOAT, [0])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "nothing", [tensor], [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    session = load(model.SerializeToString(), replace(device, threads=1, custom_ops=()))
    # The allocators are cleared out at the end of a run that asks for it.
    options = ort.RunOptions()
    places = dict.fromkeys(("cpu:0", f"{device.provider.arena}:{device.index}"))
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", ";".join(places))
    session.session.run(None, {"x": np.zeros(0, np.float32)}, options)


def _refused(error: Exception, device: Device) -> LsuvError:
    text = message_of(error)
    unknown = re.search(r"([\w.…]*):?([\w…]+)\(-?\d+\) is not a registered function/op", text)
    if unknown:
        name = ".".join(part for part in unknown.groups() if part)
        return ModelError(
            f"ONNX Runtime does not know the operator {name!r}: name the library that holds it with '--custom-ops' "
            "(open_device)."
        )
    if re.search(MEMORY, text, re.IGNORECASE) or re.search(r"\bCU(DA|DNN|BLAS)\b.*(error|fail)", text, re.IGNORECASE):
        return _failed(text, device)
    return ModelError(f"ONNX Runtime {version()} cannot load the model: {text}.")


def _failed(text: str, device: Device) -> DeviceError:
    """Return an error of the device's own."""
    if re.search(MEMORY, text, re.IGNORECASE):
        wanted = re.search(r"size:? ?(\d+)", text)
        short = f" where {wanted[1]} bytes more were needed" if wanted else ""
        cpu = "" if device.kind == "cpu" else ", or '--device cpu' (device='cpu')"
        return DeviceMemoryError(
            f"The memory of {device.name!r} ran out{short}: give smaller batches with '--batch-size' (batches), fewer "
            f"samples with '--samples'{cpu}."
        )
    return DeviceError(f"ONNX Runtime could not run the model on this data: {cause_of(device.provider, text) or text}.")
