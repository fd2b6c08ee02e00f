"""The modes: initialise, check, dry run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from onnx_lsuv.cli.ending import Ending, finish, kept
from onnx_lsuv.cli.foreign import load_model
from onnx_lsuv.cli.options import Format, Options, memory, targets, validate
from onnx_lsuv.cli.outputs import check_model, check_outputs
from onnx_lsuv.cli.signals import before_the_end
from onnx_lsuv.cli.terminal import Tell, progress
from onnx_lsuv.errors import DataError, ModelError, UsageError, listing

if TYPE_CHECKING:
    from onnx_lsuv.batches import Batches
    from onnx_lsuv.lsuv import Result
    from onnx_lsuv.model import Model, Staging
    from onnx_lsuv.runtime import Device


def perform(options: Options) -> int:
    """Do what the options say; return the exit status."""
    validate(options)
    from onnx_lsuv.batches import parse_shape  # noqa: PLC0415
    from onnx_lsuv.model import staging  # noqa: PLC0415

    for text in options.shape or ():
        parse_shape(text)
    paths = [options.model, *([] if options.compare is None else [options.compare])]
    for path in paths:
        check_model(path)
    models = [load_model(path) for path in paths]
    check_outputs(options, models)
    with staging(options.force) as staged:
        before_the_end("files", lambda: _stand(options, staged))
        return finish(options, _work(options, models, staged), staged)


def _work(options: Options, models: list[Model], staged: Staging) -> Ending:
    model = models[0]
    if options.dry_run:
        from onnx_lsuv.cli.planned import planned  # noqa: PLC0415

        if options.data or options.random:
            _batches(model, options)  # which looks at all of them
        return _trains(Ending(planned(model, options)), options)
    from onnx_lsuv import runtime  # noqa: PLC0415

    device = runtime.open_device(
        options.device, threads=options.threads, allow_tf32=options.allow_tf32, custom_ops=options.custom_ops or ()
    )
    with progress(options.color, quiet=options.quiet) as tell:
        if options.check:
            return _trains(_check(models, _batches(model, options), device, options, tell), options)
        given = bool(options.data) or options.random or _needs_data(model, options)
        return _initialise(model, _batches(model, options) if given else None, device, options, tell, staged)


def _trains(ending: Ending, options: Options) -> Ending:
    """Add what trains where, if anything that is written or printed says it."""
    told = options.dry_run or options.verbose or options.report or options.output_format is not Format.text
    if ending.trains or not told:
        return ending
    if options.portable:
        from onnx_lsuv.cli.training import portable_beforehand  # noqa: PLC0415

        return portable_beforehand(ending, options)
    from onnx_lsuv.importers import forecast  # noqa: PLC0415

    return replace(ending, trains=[each.as_dict() for each in forecast(ending.result.model)])


def _stand(options: Options, staged: Staging) -> str | None:
    """Remove unfinished files; say which stand, as they were given."""
    from onnx_lsuv.model.atomic import abandon  # noqa: PLC0415

    abandon()
    given = [options.target_path, *filter(None, [options.weights_out]), *(options.report or ())]
    stand = [path for path in given if Path(os.path.realpath(path)) in staged.placed]
    return kept(stand) if stand else None


def patterns(options: Options) -> dict[str, Any]:
    """Return which layers are wanted, as the library takes it."""
    return {"include": tuple(options.include or ()), "exclude": tuple(options.exclude or ())}


def _check(models: list[Model], batches: Batches, device: Device, options: Options, tell: Tell) -> Ending:
    from onnx_lsuv import lsuv  # noqa: PLC0415

    model, *others = models
    wanted: dict[str, Any] = {"target_std": options.target_std, "tolerance": options.tolerance}
    wanted |= {"device": device, "progress": tell}
    result = lsuv.measure(model, batches, target=targets(options), **wanted, **patterns(options))
    if not others:
        return Ending(result)
    other = others[0]
    from onnx_lsuv.batches import inputs_of  # noqa: PLC0415

    if inputs_of(other.proto.graph) != inputs_of(model.proto.graph):
        batches = _batches(other, options)
    return Ending(result, other=lsuv.measure(other, batches, **wanted))


def _initialise(
    model: Model, batches: Batches | None, device: Device, options: Options, tell: Tell, staged: Staging
) -> Ending:
    from onnx_lsuv import lsuv  # noqa: PLC0415
    from onnx_lsuv.model import load_staged, stage, stage_weights  # noqa: PLC0415

    result: Result = lsuv.initialize(
        model,
        batches,
        seed=options.seed,
        init=options.init.value,
        target_std=options.target_std,
        target=targets(options),
        rescale=not options.no_rescale,
        fresh=options.fresh,
        keep_bias=options.keep_bias,
        center=options.center,
        memory=memory(options),
        scratch=options.scratch,
        device=device,
        progress=tell,
        **patterns(options),
    )
    trains: list[dict[str, Any]] = []
    if options.portable:
        from onnx_lsuv.cli.training import made_portable  # noqa: PLC0415

        result, batches, trains = made_portable(result, batches, device, options)
    start = perf_counter()
    *_, target = stage(staged, result.model, options.target_path)
    files = {"output": (options.target_path, target)}
    if options.weights_out is not None:
        files["weights"] = (options.weights_out, stage_weights(staged, result.model, options.weights_out))
    result = replace(result, seconds={**result.seconds, "save": perf_counter() - start})
    computed = result.model
    if not options.no_verify and batches is not None:
        saved = load_staged(staged, target)
        result = lsuv.measure(saved, batches, like=result, tolerance=options.tolerance, device=device, progress=tell)
    ending = _trains(Ending(result, files=files, trains=trains), options)
    # The file that was measured must not be mapped any more when it is put into place: Windows would refuse.
    return replace(ending, result=replace(ending.result, model=computed))


def _needs_data(model: Model, options: Options) -> bool:
    """Whether anything has to be measured: layers, or the statistics of BatchNormalizations."""
    from onnx_lsuv.lsuv.prepare import plans_of  # noqa: PLC0415

    if not options.no_rescale:
        return True
    plan, _ = plans_of(model, keep_bias=options.keep_bias, fresh=options.fresh, **patterns(options))
    return bool(plan.norms)


def _batches(model: Model, options: Options) -> Batches:
    try:
        return _read_batches(model, options)
    except (UsageError, DataError):
        # What is wrong with the model comes first: data that fit it would not help.
        from onnx_lsuv.lsuv.prepare import nothing_to_do, plan_of  # noqa: PLC0415

        plan = plan_of(model)
        if not plan.layers:
            raise ModelError(nothing_to_do(plan)) from None
        raise


def _read_batches(model: Model, options: Options) -> Batches:
    from onnx_lsuv import batches as kinds  # noqa: PLC0415

    inputs = kinds.inputs_of(model.proto.graph)
    cut: dict[str, Any] = {"batch_size": options.batch_size, "samples": options.samples}
    if options.random:
        from onnx_lsuv.program import expand  # noqa: PLC0415
        from onnx_lsuv.roles import limits_of  # noqa: PLC0415

        shapes = kinds.parse_shapes(inputs, options.shape or [])
        return kinds.from_random(inputs, shapes, seed=options.seed, high=limits_of(expand(model)), **cut)
    if not options.data and inputs:
        names = listing(each.name for each in inputs)
        raise UsageError(
            f"the model reads {names}: give samples with '--data PATH', a few hundred prepared as for training, or "
            "'--random' for standard normal data"
        )
    return kinds.from_paths(inputs, options.data or [], limit_bytes=memory(options), **cut)
