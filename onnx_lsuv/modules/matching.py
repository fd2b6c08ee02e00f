"""Which constants of a file hold which tensor of a module: by names, then by values, then by what stands beside it.

    name      the constant has the tensor's name, or an Identity gives it that name
    value     its values are the tensor's, in one of the orders of axes, or block by block; a float of another width is
              rounded as the exporter rounded it
    order     of several equal ones, as new norms are, the first is the first
    tied      equal tensors, of which the file has one that stays as it is, an embedding, and one of a layer's own
    scaled    its values are the tensor's up to a factor a channel: scale / sqrt(variance + epsilon) of the norm behind,
              which is folded into it. The new values are divided by it: so the module, whose norm multiplies, gives
              what the file gives
    beside    it is the bias of a layer whose weight is known

Each step is about the tensors that those before it did not find.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from onnx_lsuv.layers import Plan
from onnx_lsuv.modules.blocks import by_blocks
from onnx_lsuv.modules.folded import beside, by_scaled_value, set_folded
from onnx_lsuv.modules.reference import Reference
from onnx_lsuv.modules.search import Match, Search, as_type, behind_identities, long_axes, statistic
from onnx_lsuv.modules.views import digest, orders, whole
from onnx_lsuv.roles import is_alike


def match(plan: Plan, reference: Reference) -> Search:
    """Find the tensors of a module among the constants of a file."""
    search = Search(plan, reference)
    by_name(search)
    set_folded(search)
    by_value(search, plain=False)
    set_folded(search)
    by_blocks(search)
    by_scaled_value(search)
    beside(search)
    by_value(search, plain=True)
    set_folded(search)
    return search


def by_name(search: Search) -> None:
    """Find tensors whose name the file knows."""
    program, reference = search.program, search.reference
    labels = {program.constants[name].label: name for name in reversed(search.held)}
    more, less = _prefixes(list(reference.floats()), [*labels, *program.names])
    for tensor in reference.floats():
        known = more + tensor.removeprefix(less)
        name = labels.get(known) or behind_identities(program, program.names.get(known, ""))
        if name not in search.held:
            continue
        axes = _orientation(search, tensor, name)
        if axes is not None:
            search.found[tensor] = Match("name", whole(name, program.constants[name].dims, axes))


def _prefixes(tensors: Sequence[str], known: Sequence[str]) -> tuple[str, str]:
    """Return what to put before a module's names, and what to take away, where it was exported inside another one.

    So does a wrapper that returns the logits alone, or one that spreads the batch over devices.
    """
    if set(tensors) & set(known):
        return "", ""
    found = Counter[tuple[str, str]]()
    for name in set(known):
        for tensor in tensors:
            if name.endswith(f".{tensor}"):
                found[name.removesuffix(tensor), ""] += 1
            elif tensor.endswith(f".{name}"):
                found["", tensor.removesuffix(name)] += 1
    return found.most_common(1)[0][0] if found else ("", "")


def _orientation(search: Search, tensor: str, constant: str) -> tuple[int, ...] | None:
    """Return the order of a constant's axes in which it is the tensor of that name; None where it is another."""
    shape, dims = search.reference.tensors[tensor].shape, search.program.constants[constant].dims
    fits = [axes for axes in orders(len(dims)) if tuple(dims[i] for i in axes) == shape]
    if not fits and long_axes(shape) == long_axes(dims):
        return tuple(range(len(dims)))
    if len(fits) == 2:  # a square one: its values tell
        old = search.old(constant)
        given = as_type(search.reference.read(tensor), old)
        fits.sort(key=lambda axes: not np.array_equal(old.transpose(axes), given))
    return fits[0] if fits else None


def by_value(search: Search, *, plain: bool) -> None:
    """Find tensors whose values the file holds, all in a row: those that differ, or those that are all the same."""
    names = [name for name in search.reference.floats() if name not in search.folded]
    sizes = {search.reference.size(name) for name in search.left()} - {0, 1}
    by_digest: dict[bytes, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    types = {}
    for constant in search.held:
        if search.program.constants[constant].size not in sizes or search.program.is_absent(constant):
            continue
        old = search.old(constant)
        types[old.dtype] = old
        seen = set[bytes]()
        for axes in orders(old.ndim):
            key = digest(old.transpose(axes))
            if key not in seen:
                by_digest[key].append((constant, axes))
                seen.add(key)
    groups = defaultdict[bytes, list[str]](list)
    for name in names:
        if search.reference.size(name) not in sizes:
            continue
        values = search.reference.read(name)
        for other in types.values() if is_alike(values) == plain else ():
            key = digest(as_type(values, other))
            if key in by_digest:
                groups[key].append(name)
    for key, tensors in groups.items():
        if any(name not in search.found for name in tensors):
            _equal(search, tensors, by_digest[key], plain=plain)


def _equal(
    search: Search, tensors: Sequence[str], places: Sequence[tuple[str, tuple[int, ...]]], *, plain: bool
) -> None:
    """Settle which of equal constants are which of equal tensors."""
    constants = dict(places)
    if not plain and _tied(search, tensors, constants):
        return
    free = search.free()
    for signature in dict.fromkeys(_signature(search, name, plain=plain) for name in tensors):
        alike = [name for name in tensors if _signature(search, name, plain=plain) == signature]
        lost = [name for name in alike if name not in search.found]
        fitting = [name for name in constants if _may_be(search, alike[0], name, plain=plain)]
        unused = [name for name in fitting if name in free]
        # Where the exporter merged them, those that are left are the ones that others have.
        chosen = _in_order(search, alike, fitting) or unused or fitting
        clear = len(chosen) in (1, len(lost)) or not any(name in search.changing for name in chosen)
        if not (lost and chosen and clear):
            continue
        for i, name in enumerate(lost):
            constant = chosen[min(i, len(chosen) - 1)]
            axes = _plain_axes(search, name, constant) if plain else constants[constant]
            how = "value" if len(set(chosen)) == 1 else "order"
            search.found[name] = Match(how, whole(constant, search.program.constants[constant].dims, axes))


def _in_order(search: Search, tensors: Sequence[str], constants: Sequence[str]) -> list[str]:
    """Return whose use each lost one of equal tensors is, where there are as many uses; nothing where there are not."""
    place = statistic(tensors[0])
    uses = [name for name, used in search.uses if name in constants and used == place]
    if len(uses) != len(tensors):
        return []
    pairs = list(zip(tensors, uses, strict=True))
    known = [name not in search.found or search.found[name].constants == (use,) for name, use in pairs]
    return [use for name, use in pairs if name not in search.found] if all(known) else []


def _signature(search: Search, tensor: str, *, plain: bool) -> tuple[object, ...]:
    """Return what equal tensors may differ in: what their names say and, where values say little, their shapes."""
    return (statistic(tensor), search.reference.tensors[tensor].shape if plain else ())


def _may_be(search: Search, tensor: str, constant: str, *, plain: bool) -> bool:
    axes = not plain or _plain_axes(search, tensor, constant) is not None
    return axes and search.fits(tensor, constant)


def _plain_axes(search: Search, tensor: str, constant: str) -> tuple[int, ...] | None:
    shape, dims = search.reference.tensors[tensor].shape, search.program.constants[constant].dims
    return next((axes for axes in orders(len(dims)) if tuple(dims[i] for i in axes) == shape), None)


def _tied(search: Search, tensors: Sequence[str], constants: dict[str, tuple[int, ...]]) -> bool:
    """Settle tensors that are one in the module, where the exporter made two of them.

    One that stays as it is, as an embedding does, is what all of them are: the module has no place for another.
    """
    kept = [name for name in constants if name in search.tables and name not in search.changing]
    shared = len({search.reference.same.get(name, name) for name in tensors}) < len(tensors)
    if len(constants) < 2 or not (shared or 0 < len(kept) < len(constants)):
        return False
    constant = (kept or list(constants))[0]
    search.copies.update({name: constant for name in constants if name != constant})
    for name in tensors:
        view = whole(constant, search.program.constants[constant].dims, constants[constant])
        search.found[name] = Match("tied", view)
    return True
