"""Which initializers of a saved model a trainer trains and which it freezes, as a file.

    requires_grad, frozen_params    as `onnxruntime.training.artifacts.generate_artifacts` takes them
    roles                           the same names and no others, by role
    not_initializers                what is trained by its role, and cannot be where it is: no initializer of the graph.
                                    What is all alike, as a state of zeros, may be an exporter's, and is not named

What is in neither list stays in the graph as it is: settings, such as the shape of a Reshape. A running mean and
variance that are frozen are kept up to date by ONNX Runtime all the same.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from onnx_lsuv.layers import find_layers
from onnx_lsuv.lsuv.result import Result
from onnx_lsuv.model import Model, Output, Staging, check_outputs, check_suffix, given_model, promoted, read_by, staging
from onnx_lsuv.program import expand
from onnx_lsuv.program.program import FLOAT_TYPES, stored
from onnx_lsuv.roles import ROLES, TRAINED, is_alike


def save_params(model: Model | Result, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write which initializers of the file that `save` writes are trained, and which frozen, to .json; return its path.

    Whole or not at all, as `save` does; an existing file is replaced only with `force`.

    Args:
        model: what is saved, or a result, whose model is meant.
        path: of the file.
        force: replace an existing one.

    Raises:
        UsageError: the file is of another kind, or what is given is no model.
        ModelError: the model is broken.
        OutputError: the file cannot be written.
    """
    with staging(force) as staged:
        target = stage_params(staged, model, path)
        staged.commit()
    return target


def stage_params(staged: Staging, model: Model | Result, path: str | os.PathLike[str]) -> Path:
    """Write the file of `save_params`, which is put into place with all others; return where."""
    check_params(path)
    found = params_of(model)
    read = read_by(model.model if isinstance(model, Result) else model)
    target = check_outputs([Output(Path(path))], read, force=staged.force)[0]
    return staged.add(target.parent, target.name, [f"{json.dumps(found, indent=2)}\n".encode()])


def check_params(path: str | os.PathLike[str]) -> None:
    """Raise UsageError for a file that the names are not written to."""
    check_suffix(path, "the names of parameters are", (".json",))


def params_of(model: Model | Result) -> dict[str, Any]:
    """Return what is written to the file; arguments and errors as for `save_params`."""
    given = given_model(model.model if isinstance(model, Result) else model)
    known = model.plan if isinstance(model, Result) else None
    plan = known if known is not None and known.program.model is given else find_layers(expand(given))
    moved = set(promoted(given))
    roles: dict[str, list[str]] = {role: [] for role in ROLES if role != "setting"}
    others: list[str] = []
    for name, role in plan.roles.items():
        constant = plan.program.constants[name]
        if role.role not in roles or constant.elem_type not in FLOAT_TYPES:
            continue
        if constant.scope == "main" and (constant.origin == "initializer" or constant.site in moved):
            roles[role.role].append(constant.label)
        elif role.role in TRAINED and not is_alike(stored(plan.program, name)):
            others.append(constant.label)
    found = {role: names for role, names in roles.items() if names}
    return {
        "requires_grad": [name for role, names in found.items() if role in TRAINED for name in names],
        "frozen_params": [name for role, names in found.items() if role not in TRAINED for name in names],
        "roles": found,
        "not_initializers": others,
    }
