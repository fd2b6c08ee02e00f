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

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onnx_lsuv.layers import Layer, Plan
from onnx_lsuv.model import Array
from onnx_lsuv.modules.reference import Reference
from onnx_lsuv.modules.views import BLOCKS, Part, View, digest, is_plain, orders, whole
from onnx_lsuv.operators import of
from onnx_lsuv.program import Program, stored
from onnx_lsuv.program.program import FLOAT_TYPES

ROUNDING = {2: 1e-2, 4: 1e-5, 8: 1e-5}  # relative, by bytes of a float; BatchNormalization's variance takes its part
PIECES = 64  # of one constant at most
# How frameworks call the statistics of a BatchNormalization, by the place that ONNX gives them.
STATISTICS = {**{"running_mean": 3, "moving_mean": 3, "mean": 3}, **{"running_var": 4, "moving_variance": 4, "var": 4}}
# Where Flax keeps what belongs together.
COLLECTIONS = ("params", "batch_stats")


@dataclass(frozen=True, slots=True)
class Match:
    """Where a tensor's values are."""

    how: str
    view: View

    @property
    def constants(self) -> tuple[str, ...]:
        """The constants that hold it, by their names in the program."""
        return tuple(dict.fromkeys(part.constant for part in self.view.parts))


@dataclass
class Search:
    """What is known so far."""

    plan: Plan
    reference: Reference
    found: dict[str, Match] = field(default_factory=dict)  # by tensor
    folded: set[str] = field(default_factory=set)  # tensors of norms that the file has no more
    factors: dict[str, Array] = field(default_factory=dict)  # of a tensor, by which these norms are folded into it
    copies: dict[str, str] = field(default_factory=dict)  # constants that the module has no place for: what it has

    @property
    def program(self) -> Program:
        """The file as it was given."""
        return self.plan.program

    @cached_property
    def held(self) -> dict[str, frozenset[int]]:
        """The float constants in the order of their first use; as which statistics of a norm each is used, or 0."""
        places = defaultdict[str, set[int]](set)
        for node in self.program.walk():
            roles = of(node).roles
            for i, name in enumerate(node.inputs):
                root = behind_identities(self.program, name)
                if root in self.program.constants and node.op_type != "Identity":
                    places[root].add(i if roles.get(i) == "statistics" else 0)
        known = self.program.constants
        return {name: frozenset(each) for name, each in places.items() if known[name].elem_type in FLOAT_TYPES}

    def old(self, constant: str) -> Array:
        """Return the values that the file was given with."""
        return stored(self.program, constant)

    def left(self) -> list[str]:
        """Return the tensors that are not found yet."""
        return [name for name in self.reference.floats() if name not in self.found and name not in self.folded]

    def free(self) -> list[str]:
        """Return the constants that no tensor has yet."""
        taken = {constant for match in self.found.values() for constant in match.constants}
        return [name for name in self.held if name not in taken and name not in self.copies]

    def fits(self, tensor: str, constant: str) -> bool:
        """Whether a tensor may be that constant by what its name says of statistics."""
        return statistic(tensor) in self.held[constant]


def match(plan: Plan, reference: Reference) -> Search:
    """Find the tensors of a module among the constants of a file."""
    search = Search(plan, reference)
    by_name(search)
    set_folded(search)
    by_value(search)
    set_folded(search)
    by_blocks(search)
    by_scaled_value(search)
    beside(search)
    return search


def behind_identities(program: Program, name: str) -> str:
    """Return the value that a name stands for: nodes that only give another name are seen through."""
    while name in program.producers and program.producers[name][0].op == "Identity":
        name = program.producers[name][0].inputs[0]
    return name


def statistic(tensor: str) -> int:
    """Return which operand of a BatchNormalization a tensor is by its name, 3 or 4; 0 for all that is no statistic."""
    return STATISTICS.get(_last(tensor)[2], 0)


def set_folded(search: Search) -> None:
    """Set the norms apart that the file cannot have: no statistics are left in it."""
    if any(search.held[name] - {0} for name in search.free()):
        return
    norms = {_module(name) for name in search.left() if statistic(name)}
    search.folded.update(name for name in search.left() if _module(name) in norms)


def _module(tensor: str) -> str:
    parent, joint, _ = _last(tensor)
    first, _, rest = parent.partition(joint or ".")
    return rest if first in COLLECTIONS else parent


def by_name(search: Search) -> None:
    """Find tensors whose name the file knows."""
    program, reference = search.program, search.reference
    labels = {program.constants[name].label: name for name in reversed(search.held)}
    for tensor in reference.floats():
        name = labels.get(tensor) or behind_identities(program, program.names.get(tensor, ""))
        if name not in search.held:
            continue
        axes = _orientation(search, tensor, name)
        if axes is not None:
            search.found[tensor] = Match("name", whole(name, program.constants[name].dims, axes))


def _orientation(search: Search, tensor: str, constant: str) -> tuple[int, ...] | None:
    """Return the order of a constant's axes in which it is the tensor of that name; None where it is another."""
    shape, dims = search.reference.tensors[tensor].shape, search.program.constants[constant].dims
    fits = [axes for axes in orders(len(dims)) if tuple(dims[i] for i in axes) == shape]
    if not fits and _long(shape) == _long(dims):
        return tuple(range(len(dims)))
    if len(fits) == 2:  # a square one: its values tell
        old = search.old(constant)
        given = _as(search.reference.read(tensor), old)
        fits.sort(key=lambda axes: not np.array_equal(old.transpose(axes), given))
    return fits[0] if fits else None


def _long(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _as(values: Array, other: Array) -> Array:
    """Return values in the type of others, rounded as an exporter rounds them."""
    with np.errstate(over="ignore"):
        return values.astype(other.dtype, copy=False)


def by_value(search: Search) -> None:
    """Find tensors whose values the file holds, all in a row."""
    names = [name for name in search.reference.floats() if name not in search.folded]
    sizes = {search.reference.size(name) for name in search.left()} - {0, 1}
    by_digest: dict[bytes, list[tuple[str, tuple[int, ...]]]] = defaultdict(list)
    types = {}
    for constant in search.held:
        if search.program.constants[constant].size not in sizes:
            continue
        old = search.old(constant)
        types[old.dtype] = old
        seen = set[bytes]()
        for axes in orders(old.ndim):
            key = digest(old.transpose(axes))
            if key not in seen:
                by_digest[key].append((constant, axes))
                seen.add(key)
    groups = defaultdict[tuple[bytes, bool], list[str]](list)
    for name in names:
        if search.reference.size(name) not in sizes:
            continue
        values = search.reference.read(name)
        for other in types.values():
            key = digest(_as(values, other))
            if key in by_digest:
                groups[key, is_plain(values)].append(name)
    for (key, plain), tensors in groups.items():
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
        chosen = unused or fitting
        clear = len(chosen) in (1, len(lost)) or not any(name in search.plan.roles for name in chosen)
        if not (lost and chosen and clear):
            continue
        for i, name in enumerate(lost):
            constant = chosen[min(i, len(chosen) - 1)]
            axes = _plain_axes(search, name, constant) if plain else constants[constant]
            how = "value" if len(chosen) == 1 else "order"
            search.found[name] = Match(how, whole(constant, search.program.constants[constant].dims, axes))


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
    kept = [name for name in constants if name not in search.plan.roles]
    shared = len({search.reference.same.get(name, name) for name in tensors}) < len(tensors)
    if len(constants) < 2 or not (shared or 0 < len(kept) < len(constants)):
        return False
    constant = (kept or list(constants))[0]
    search.copies.update({name: constant for name in constants if name != constant})
    for name in tensors:
        view = whole(constant, search.program.constants[constant].dims, constants[constant])
        search.found[name] = Match("tied", view)
    return True


def by_blocks(search: Search) -> None:
    """Find tensors whose values the file holds in pieces, or together with others'."""
    pieces = _Pieces(search)
    used = set[Part]()
    for name in search.left():
        values = search.reference.read(name)
        if values.size < 2 or is_plain(values):
            continue
        for view in _views(values, pieces, used):
            search.found[name] = Match("value", view)
            used.update(view.parts)
            break


def _views(values: Array, pieces: _Pieces, used: set[Part]) -> Iterator[View]:
    for turned in (False, True) if values.ndim == 2 else (False,):
        row = (values.T if turned else values).reshape(-1)
        length = values.shape[-1] if turned else values.shape[0]
        for count in BLOCKS:
            if length % count:
                continue
            parts = [pieces.find(block, used) for block in np.split(row, count)]
            if all(parts):
                yield View(tuple(part for part in parts if part), turned)


@dataclass
class _Pieces:
    """The constants that no tensor has, cut into pieces of a size, by their values."""

    search: Search
    cut: dict[int, dict[bytes, list[Part]]] = field(default_factory=dict)

    def find(self, block: Array, used: set[Part]) -> Part | None:
        """Return the first piece with these values that no tensor has."""
        if block.size not in self.cut:
            self.cut[block.size] = self._cut(block.size)
        if not self.cut[block.size]:
            return None
        found = [each for key in self._keys(block) for each in self.cut[block.size].get(key, ())]
        return next((part for part in found if part not in used), found[0] if found else None)

    def _keys(self, block: Array) -> set[bytes]:
        return {digest(_as(block, np.empty(0, dtype))) for dtype in self._types}

    @cached_property
    def _free(self) -> list[str]:
        return [name for name in self.search.free() if self.search.program.constants[name].size > 1]

    @cached_property
    def _types(self) -> set[np.dtype[np.generic]]:
        return {self.search.old(name).dtype for name in self._free}

    def _cut(self, size: int) -> dict[bytes, list[Part]]:
        found = defaultdict[bytes, list[Part]](list)
        for name in self._free:
            total = self.search.program.constants[name].size
            if total % size or not 0 < total // size <= PIECES:
                continue
            old = self.search.old(name)
            for axes in orders(old.ndim):
                row = old.transpose(axes).reshape(-1)
                for start in range(0, total, size):
                    found[digest(row[start : start + size])].append(Part(name, axes, start, size))
        return found


def by_scaled_value(search: Search) -> None:
    """Find weights into which the exporter folded the norm behind them, and the factor of each channel."""
    if not search.folded:
        return
    free = [name for name in search.free() if len(search.program.constants[name].dims) >= 2]
    for name in search.reference.floats():
        shape, known = search.reference.tensors[name].shape, search.found.get(name)
        if len(shape) < 2 or name in search.folded or (known is not None and known.how != "name"):
            continue
        for constant in free if known is None else known.constants:
            dims = search.program.constants[constant].dims
            fits = [axes for axes in orders(len(dims)) if tuple(dims[i] for i in axes) == shape]
            found = ((axes, _factors(search, name, constant, axes)) for axes in fits)
            axes, factors = next((each for each in found if each[1] is not None), ((), None))
            if factors is not None:
                search.found[name] = known or Match("scaled", whole(constant, dims, axes))
                search.factors[name] = factors
                break
        free = [each for each in free if search.found.get(name) is None or each not in search.found[name].constants]


def _factors(search: Search, tensor: str, constant: str, axes: tuple[int, ...]) -> Array | None:
    """Return what a tensor is multiplied by to be a constant, one factor for each channel; None where there is none."""
    values, others = search.reference.read(tensor), search.old(constant).transpose(axes)
    for axis in {0, 1, values.ndim - 1}:
        one = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
        other = np.moveaxis(others, axis, 0).reshape(one.shape).astype(np.float64)
        norm = (one**2).sum(1)
        factor = (one * other).sum(1) / np.where(norm > 0, norm, 1)
        most = ROUNDING[min(values.itemsize, others.itemsize)] * np.abs(other).max(1, initial=0)
        if one.shape[1] > 1 and factor.any() and (np.abs(one * factor[:, None] - other).max(1) <= most).all():
            # A norm that starts with a scale of 0 lets nothing through, and tells nothing of the scale.
            return np.where(factor == 0, 1, factor).reshape([-1 if i == axis else 1 for i in range(values.ndim)])
    return None


def beside(search: Search) -> None:
    """Find the biases of layers whose weights are known."""
    free = set(search.free())
    for layer in search.plan.layers:
        if len(layer.bias) != 1:
            continue
        for weight in [name for name, each in search.found.items() if each.constants == layer.source.constants]:
            head, joint, tail = _last(weight)
            bias = head + joint + re.sub("weight|kernel", "bias", tail)
            if bias == weight or bias not in search.reference.tensors:
                continue
            if weight in search.factors:
                search.factors[bias] = search.factors[weight].reshape(-1)
            view = _bias_view(search, layer, weight)
            if bias not in search.found and layer.bias[0] in free and search.reference.size(bias) == view.size:
                search.found[bias] = Match("beside", view)


def _bias_view(search: Search, layer: Layer, weight: str) -> View:
    """Return where a layer's bias lies: of a recurrent one, (directions, 2 gates H), in blocks as its weight's are."""
    constants, bias, parts = search.program.constants, layer.bias[0], search.found[weight].view.parts
    dims, of_weight = constants[bias].dims, constants[layer.source.constant].dims
    if len(of_weight) != 3 or dims != (of_weight[0], 2 * of_weight[1]):
        return whole(bias, dims)
    # Rows of (directions, gates H, inputs), as they come; those of R's biases are behind those of W's.
    at, rows = layer.position - 1, of_weight[1]
    firsts = [divmod(part.start // of_weight[2], rows) for part in parts]
    size = parts[0].size // of_weight[2]
    return View(tuple(Part(bias, (0, 1), (2 * d + at) * rows + row, size) for d, row in firsts))


def _last(name: str) -> tuple[str, str, str]:
    at = max(name.rfind("."), name.rfind("/"))
    return name[: max(at, 0)], name[at : at + 1] if at >= 0 else "", name[at + 1 :]
