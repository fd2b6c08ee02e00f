"""The modes: initialise, check, dry run, no values."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import onnx_lsuv
from onnx_lsuv.cli.options import Options
from onnx_lsuv.cli.outcome import Outcome, finish, finish_architecture, kept, prints_trains, tells_about
from onnx_lsuv.cli.preflight import check_model, check_outputs, complete_model, load_model
from onnx_lsuv.cli.signals import before_the_end
from onnx_lsuv.cli.terminal import Tell, progress
from onnx_lsuv.cli.validation import validate
from onnx_lsuv.errors import UsageError, listing

if TYPE_CHECKING:
    from onnx_lsuv.batches import Batches
    from onnx_lsuv.layers import Plan
    from onnx_lsuv.lsuv import Result, Settings
    from onnx_lsuv.model import Model, Staging
    from onnx_lsuv.modules import Reference, StateDict
    from onnx_lsuv.runtime import Device


def perform(options: Options) -> int:
    """Do what the options say; return the exit status."""
    settings = validate(options)
    from onnx_lsuv.batches import inputs_of, parse_preparation, parse_shape  # noqa: PLC0415
    from onnx_lsuv.model import staging  # noqa: PLC0415

    shapes = dict(map(parse_shape, options.shape or ()))
    parse_preparation(*options.image_texts)
    paths = [path for path in (options.model, options.compare) if path is not None]
    for path in paths:
        check_model(path)
    models = [load_model(path) for path in paths]
    models[0] = complete_model(options, models[0], shapes)
    check_outputs(options, models)
    for model in models if options.data or options.random else ():
        inputs_of(model.proto.graph)  # what is wrong there is said before what is wrong behind it
    reference = None
    if options.state_dict is not None:
        from onnx_lsuv.modules import read_reference  # noqa: PLC0415

        reference = read_reference(options.state_dict)
    with staging(options.force) as staged:
        before_the_end("files", lambda: _stand(options, staged))
        if options.no_values:
            return _strip(options, models[0], staged)
        return finish(options, _work(options, settings, models, reference, staged), staged)


def _stand(options: Options, staged: Staging) -> str | None:
    """Remove unfinished files; say which stand, as they were given."""
    from onnx_lsuv.model.atomic import abandon  # noqa: PLC0415

    abandon()
    given = [options.target_path, *filter(None, [options.weights_path, options.params_out]), *(options.report or ())]
    stand = [path for path in given if Path(os.path.realpath(path)) in staged.placed]
    return kept(stand) if stand else None


def _strip(options: Options, model: Model, staged: Staging) -> int:
    """Save the architecture alone; return the exit status."""
    from onnx_lsuv.model import stage  # noqa: PLC0415

    found = onnx_lsuv.without_values(model)
    stage(staged, found.model, options.target_path)
    return finish_architecture(options, found, staged)


def _work(
    options: Options, settings: Settings, models: list[Model], reference: Reference | None, staged: Staging
) -> Outcome:
    if options.dry_run:
        return _with_state(_plan(options, settings, models[0]), reference)
    from onnx_lsuv import runtime  # noqa: PLC0415

    device = None
    if options.device == "auto":  # which has to know how much there is to do
        runtime.version()  # that there is none, or are two, is said before data are read
    else:
        device = _open(options)
    with progress(options.color, quiet=options.quiet) as tell:
        if options.check:
            return _check(options, settings, models, device, tell)
        return _initialise(options, settings, models[0], reference, device, tell, staged)


def _open(options: Options, planned: Result | None = None, batches: Batches | None = None) -> Device:
    from onnx_lsuv import runtime  # noqa: PLC0415
    from onnx_lsuv.lsuv.prepare import work_of  # noqa: PLC0415

    return runtime.open_device(
        options.device,
        threads=options.threads,
        allow_tf32=options.allow_tf32,
        custom_ops=options.custom_ops or (),
        work=None if planned is None else work_of(planned.plan, batches),
    )


def _plan(options: Options, settings: Settings, model: Model) -> Outcome:
    from onnx_lsuv.lsuv import require_layers  # noqa: PLC0415

    planned = onnx_lsuv.plan(model, settings)
    if options.data or options.random:
        _batches(planned, options)  # which looks at all of them
    require_layers(planned.plan)
    if not options.portable:
        return Outcome(planned, trains=_trains(planned, options))
    from onnx_lsuv.portable import made_notes  # noqa: PLC0415

    form = onnx_lsuv.make_portable(planned, **_room(options))
    trains = _trains(planned, options, form.model)
    return Outcome(replace(planned, notes=(*planned.notes, *made_notes(form))), trains=trains)


def _room(options: Options) -> dict[str, Any]:
    """Return what values may take of the memory, and where the rest goes."""
    return {"memory": options.memory_bytes, "scratch": options.scratch}


def _check(options: Options, settings: Settings, models: list[Model], device: Device | None, tell: Tell) -> Outcome:
    model, *others = models
    planned = onnx_lsuv.plan(model, replace(settings, keep_bias=True))
    batches = _batches(planned, options, tell)
    device = device or _open(options, planned, batches)
    result = onnx_lsuv.measure(
        planned,
        batches,
        baseline=options.baseline,
        beside=bool(options.report),
        device=device,
        progress=tell,
        **_room(options),
    )
    found = Outcome(result, trains=_trains(result, options))
    if not others:
        return found
    other = onnx_lsuv.plan(others[0], replace(planned.settings, target=(), include=(), exclude=(), strict=False))
    from onnx_lsuv.batches import inputs_of  # noqa: PLC0415
    from onnx_lsuv.report.words import beside  # noqa: PLC0415

    if inputs_of(other.model.proto.graph) != inputs_of(model.proto.graph):
        batches = _batches(other, options, tell)
    measured = onnx_lsuv.measure(other, batches, device=device, progress=tell, **_room(options))
    return replace(found, result=beside(result, measured), other=measured)


def _with_state(outcome: Outcome, reference: Reference | None) -> Outcome:
    """Return the outcome with the state dict of the module, where one was given."""
    if reference is None:
        return outcome
    from onnx_lsuv.modules import state_dict  # noqa: PLC0415

    state = state_dict(outcome.result, reference)
    result = replace(outcome.result, notes=(*outcome.result.notes, *state.notes))
    return replace(outcome, result=result, state=state)


def _initialise(
    options: Options,
    settings: Settings,
    model: Model,
    reference: Reference | None,
    device: Device | None,
    tell: Tell,
    staged: Staging,
) -> Outcome:
    from onnx_lsuv.lsuv import stage_params  # noqa: PLC0415
    from onnx_lsuv.model import load_staged, stage  # noqa: PLC0415

    room = _room(options)
    planned = onnx_lsuv.plan(model, settings)
    given = options.data or options.random or planned.needs_data
    batches = _batches(planned, options, tell) if given else None
    verified, reported = None if options.no_verify else batches, bool(options.report)
    device = device or _open(options, planned, batches)
    result = onnx_lsuv.initialize(planned, batches, device=device, progress=tell, **room)
    if result.device != device.name:  # which `auto` had chosen, and which failed
        device = replace(device, name=result.device, automatic=False)
    if reported and verified is not None:
        result = onnx_lsuv.measure_before(result, verified, device=device, progress=tell, **room)
    given_back = _with_state(Outcome(result), reference)
    result, form = given_back.result, None
    if options.portable:
        form = onnx_lsuv.make_portable(result, verified, device=device, **room)
    start = perf_counter()
    new = result.model if form is None else form.model
    *data, target = stage(staged, new, options.target_path)
    beside = [options.target_path.parent / file.relative_to(target.parent) for file in data]
    files = {"output": (options.target_path, target)}
    if options.weights_path is not None:
        files["weights"] = (options.weights_path, _stage_weights(staged, new, options.weights_path, given_back.state))
    if options.params_out is not None:
        files["params"] = (options.params_out, stage_params(staged, new, options.params_out))
    result = replace(result, seconds={**result.seconds, "save": perf_counter() - start})
    # What is loaded here must not be mapped any more when it is put into place: Windows would refuse.
    written = new if verified is None else load_staged(staged, target)
    saved: Model | Result = written
    trains = None
    if form is not None:
        from onnx_lsuv.portable import carry, plan_form  # noqa: PLC0415

        saved = plan_form(written, result)
        trains = _trains(result, options, saved.whole_plan)
        result = carry(result, form, saved)
    if verified is not None:
        result = onnx_lsuv.measure(saved, verified, like=result, beside=reported, device=device, progress=tell, **room)
    trains = _trains(result, options) if trains is None else trains
    return Outcome(result, files=files, beside=beside, trains=trains, state=given_back.state)


def _stage_weights(staged: Staging, model: Model, path: Path, state: StateDict | None) -> Path:
    from onnx_lsuv.model import read_by, stage_arrays, stage_weights  # noqa: PLC0415

    if state is None:
        return stage_weights(staged, model, path)
    return stage_arrays(staged, state.tensors, path, read_by(model))


def _trains(result: Result, options: Options, form: Model | Plan | None = None) -> list[dict[str, Any]]:
    """Return what trains where, if anything that is written or printed says it."""
    if not prints_trains(options) and not tells_about(options):
        return []
    return [each.as_dict() for each in onnx_lsuv.forecast(result.whole_plan, form, importer=options.importer or ())]


def _batches(planned: Result, options: Options, tell: Tell | None = None) -> Batches:
    """Return the data for a model, as the options say."""
    from onnx_lsuv import batches as kinds  # noqa: PLC0415
    from onnx_lsuv.lsuv import require_layers  # noqa: PLC0415

    inputs = kinds.inputs_of(planned.model.proto.graph)
    require_layers(planned.plan, "measure" if options.check else "initialise")  # data that fit the model would not help
    size, samples = options.batch_size, options.samples
    if options.random:
        from onnx_lsuv.roles import limits_of  # noqa: PLC0415

        program = planned.plan.program
        waiting = {constant.label for name, constant in program.constants.items() if program.is_absent(name)}
        texts = [text for text in options.shape or () if kinds.parse_shape(text)[0] not in waiting]
        shapes, high = kinds.parse_shapes(inputs, texts), limits_of(program)
        return kinds.from_random(inputs, shapes, seed=options.seed, high=high, batch_size=size, samples=samples)
    if not options.data and inputs:
        names = listing(each.name for each in inputs)
        raise UsageError(
            f"the model reads {names}: give samples with '--data PATH', a few hundred prepared as for training, or "
            "'--random' for standard normal data"
        )
    from onnx_lsuv.lsuv.scratch import Scratch  # noqa: PLC0415

    data, limit = options.data or [], options.memory_bytes
    images = kinds.parse_preparation(*options.image_texts) if any(options.image_texts) else None
    scratch = Scratch.within(limit, options.scratch)
    with redirect_stdout(sys.stderr):  # where results go nobody else writes: `data` may name a function
        return kinds.from_paths(
            inputs,
            data,
            batch_size=size,
            samples=samples,
            limit_bytes=limit,
            keep=scratch.rows,
            images=images,
            progress=tell,
        )
