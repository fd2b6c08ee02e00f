"""What could not be read or written is refused before the work; models are loaded."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_lsuv.cli.options import Format, Options
from onnx_lsuv.errors import ModelError, UsageError, meant

if TYPE_CHECKING:
    from onnx_lsuv.model import Model
    from onnx_lsuv.model.targets import Read


def load_model(path: Path) -> Model:
    """Load a model; raises ModelError, which for a file of another framework says how it becomes ONNX."""
    from onnx_lsuv.model import load  # noqa: PLC0415
    from onnx_lsuv.model.kinds import SUFFIXES  # noqa: PLC0415

    try:
        return load(path)
    except ModelError as error:
        kind = SUFFIXES.get(path.suffix.lower())
        if kind is not None and kind.model and os.path.isfile(path):  # noqa: PTH113  (False where a name is too long)
            raise ModelError(f"{path} is no ONNX model but {kind.model}") from error
        raise


def complete_model(options: Options, model: Model, shapes: Mapping[str | None, tuple[int, ...]]) -> Model:
    """Return a model, an architecture without weights as one that waits for them; see `onnx_lsuv.complete`.

    Args:
        options: which say what data are given for.
        model: as it was loaded.
        shapes: the values of --shape, which with --random may be for inputs, and else for tensors without one alone.
    """
    from onnx_lsuv.architecture import complete  # noqa: PLC0415
    from onnx_lsuv.batches import default_limit, inputs_given, inputs_of  # noqa: PLC0415

    named = {name: shape for name, shape in shapes.items() if name is not None}

    def given() -> Collection[str]:  # a table, or a file of PyTorch's, is read whole for that
        if options.random:
            return named
        if len(model.proto.graph.input) < 2:
            return ()
        return inputs_given(inputs_of(model.proto.graph), options.data or (), default_limit() // 4)

    done = complete(model, given, named)
    if shapes and not options.random and not done.absent:
        raise UsageError("--shape is the shape of random data: give --random too")
    return done


def check_model(path: Path) -> None:
    """Raise ModelError for a model that is not there, or a folder, with the name that was perhaps meant."""
    with suppress(OSError):  # of what cannot even be looked at, loading says why
        if path.is_dir():
            raise ModelError(f"the model {str(path)!r} is a folder{_inside(path)}")
        if not path.exists() and not path.is_symlink() and path.parent.is_dir():
            near = meant(path.name, [each.name for each in path.parent.glob("*.onnx")])
            raise ModelError(f"there is no model file {str(path)!r}{near}")


def _inside(path: Path) -> str:
    """Say what to give instead of a folder."""
    from onnx_lsuv.model.kinds import TENSORFLOW  # noqa: PLC0415

    if (path / "saved_model.pb").exists():
        return f" of TensorFlow: {TENSORFLOW}, option --saved-model"
    found = sorted(path.glob("*.onnx"))
    if not found:
        return " without .onnx files: give a file"
    return f": give {'a file in it, such as' if found[1:] else 'the file in it,'} {str(found[0])!r}"


def check_outputs(options: Options, models: list[Model]) -> None:
    """Raise OutputError for an output that could not be written or is read, UsageError for a file named for two."""
    from onnx_lsuv import model as files  # noqa: PLC0415

    outputs = []
    if options.no_values:
        outputs = [files.Output(options.target_path)]  # which needs no data file
    elif options.writes:
        outputs = files.outputs_of(models[0], options.target_path, options.force)
    if options.weights_path is not None:
        outputs.append(files.Output(options.weights_path, "the weights file"))
    if options.params_out is not None:
        outputs.append(files.Output(options.params_out, "the file of parameters"))
    outputs += [files.Output(path, "the report") for path in options.report or ()]
    summary = step_summary(options)
    if summary is not None:
        outputs.append(files.Output(summary, "the step summary of GITHUB_STEP_SUMMARY", appended=True))
    files.check_outputs(outputs, _read(options, models), force=options.force)
    # The portable form has tensors of its own, and a module too.
    if options.weights_out is not None and not (options.portable or options.state_dict):
        files.check_weights(models[0], options.weights_out)


def step_summary(options: Options) -> Path | None:
    """Return the file that GitHub shows as the summary of a workflow's step, where the result is added to it."""
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    return Path(path) if path and options.output_format is Format.github else None


def _read(options: Options, models: list[Model]) -> Iterator[Read]:
    from onnx_lsuv.batches import files_of  # noqa: PLC0415
    from onnx_lsuv.model import read_by  # noqa: PLC0415

    for model in models:
        yield from read_by(model)
    for path in files_of(options.data or ()):
        yield path, "read as data, which are never written to"
    if options.state_dict is not None:
        yield options.state_dict, "read as the state dict of the module, which is never written to"
    if options.baseline is not None:
        yield options.baseline, "read as the baseline, which is never written to"
    for library in options.custom_ops or ():
        yield Path(library), "a library of custom operators, which is never written to"
    yield 1, "where standard output goes"
    yield 2, "where standard error goes"
