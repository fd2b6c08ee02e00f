"""A result as text for a terminal or a log: a table of layers, what was left alone, a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_lsuv.errors import clean
from onnx_lsuv.layers import find_centres, tensor_names
from onnx_lsuv.lsuv import LayerReport, Result
from onnx_lsuv.report import layout
from onnx_lsuv.report.columns import Filled, layers_of, number, plain
from onnx_lsuv.report.words import fates, groups, only_there, roles_listed, roles_told, sentences, told

CAUSES = 10  # lines that say why a layer is as it is, unless every one is asked for
PAINT = {"ok": "green", "not-reached": "yellow", "off": "red", "degenerate": "red"}
_FRESH = ("embedding", "token", "scale", "shift", "slope", "state")
_DONE = "name op weight shape std_drawn scale target std std_other signal dead saturated outcome"
_PLAN = "name op weight path shape matrices outcome"
_WHOLE_PLAN = "name scope op weight dtype path shape matrices outcome"


@dataclass(frozen=True, slots=True)
class _Page:
    """How wide lines may be, what they may hold, and whether every name is told."""

    width: int
    color: bool
    encoding: str
    wrap: bool
    every: bool

    def name(self, given: str) -> str:
        """Return a name from the file with everything escaped that could hide, move the cursor or not be shown."""
        return clean(given).encode(self.encoding, "backslashreplace").decode(self.encoding)

    def names(self, given: Iterable[str], every: bool = False) -> str:
        """Return the first names, or all."""
        names = list(map(self.name, given))
        few = every or len(names) <= 4
        return ", ".join(names) if few else f"{', '.join(names[:3])}, and {len(names) - 3} more"

    def block(self, lines: Sequence[str]) -> str:
        """Return sentences below each other, broken to the width where that is wanted."""
        return "\n".join(layout.wrapped(line, self.width if self.wrap else None) for line in lines)

    def table(self, found: Filled) -> str:
        """Return a table."""
        columns = [(column, [self.name(plain(column.kind, value)) for value in values]) for column, values in found]
        return layout.table(columns, self.width, PAINT if self.color else None)


def as_text(
    result: Result,
    width: int = 100,
    *,
    color: bool = False,
    encoding: str = "utf-8",
    wrap: bool = False,
    verbose: bool = False,
    plan: bool = False,
    other: Result | None = None,
    trains: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the table of layers, what was left alone, and a summary.

    Args:
        result: what to show.
        width: in columns of a terminal; names are shortened and columns left out to keep to it.
        color: paint the statuses.
        encoding: characters that it lacks are escaped before anything is aligned.
        wrap: break sentences to the width too.
        verbose: name every node that was left alone, and the data, or of a plan every constant.
        plan: nothing was run; say what would be done with every node that has a weight: its matrices, and why.
        other: another model measured on the same data, whose std is shown beside.
        trains: what trains where, as for `words.sentences`.
    """
    page = _Page(width, color and not plan, encoding, wrap, verbose)
    keys = _DONE if not plan else _WHOLE_PLAN if verbose else _PLAN
    always = "dtype std" if other is None else "std std_other"
    names = [] if other is None else only_there(result, other)
    kept = [
        f"statistics kept: {page.names(group['names'], verbose)}: {page.name(group['detail'])}"
        for group in groups(result.kept_statistics)
    ]
    parts = [
        page.table(layers_of(result, other, keys, always)) if result.layers else "",
        page.block([f"only in the other model: {page.names(names)}"] if names else []),
        _fates(page, result.layers) if plan else _causes(page, result.layers),
        page.block([f"constants: {roles_told(result.roles)}"]) if plan else "",
        page.table(roles_listed(result.roles, every=True)) if plan and verbose else "",
        page.block(_skipped(page, result, verbose or plan)),
        page.block(kept),
        page.block([f"note: {page.name(note)}" for note in result.notes]),
        page.block(list(map(page.name, sentences(trains)))),
        page.block(_data(page, result) if verbose and not plan else []),
        page.block(_summary(result)),
    ]
    return "\n\n".join(filter(None, parts))


def _fates(page: _Page, layers: Sequence[LayerReport]) -> str:
    found = fates(layers).items()
    lines = [f"  {page.name(note)}: {len(names)} ({page.names(names, page.every)})" for note, names in found]
    return page.block(["what would happen:", *lines] if lines else [])


def _causes(page: _Page, layers: Sequence[LayerReport]) -> str:
    """Return why layers are as they are."""
    rows = [row for row in layers if not row.good or row.status == "not-reached"]
    shown = rows if page.every or len(rows) <= CAUSES else rows[: CAUSES - 1]
    parts = []
    for row in shown:
        whole = page.block([f"{row.status}: {page.name(row.name)}: {page.name(told(row))}"])
        status = layout.painted(row.status, PAINT[row.status]) if page.color else row.status
        parts.append(status + whole[len(row.status) :])
    return "\n".join([*parts, *([f"and {len(rows) - len(shown)} more"] if len(shown) < len(rows) else [])])


def _skipped(page: _Page, result: Result, every: bool) -> list[str]:
    lines = [
        f"  {group['reason']}: {group['nodes']} x {page.name(group['op'])} ({page.names(group['names'], every)})"
        f": {page.name(group['detail'])}"
        for group in groups(result.skipped)
    ]
    return ["left alone:", *lines] if lines else []


def _data(page: _Page, result: Result) -> list[str]:
    lines = []
    for name, given in result.data.get("inputs", {}).items():
        moments = [f"{key} {number(given[key])}" for key in ("mean", "std", "min", "max") if key in given]
        lines.append(", ".join([f"input {page.name(name)}: {given['type']} {given['shape']}", *moments]))
    return lines


def _summary(result: Result) -> list[str]:
    """Return the verdict in one line, what else changed, and the seconds of each phase."""
    counts = Counter(row.status for row in result.layers)
    states = ", ".join(f"{n} {status}" for status, n in counts.items())
    stds = [row.std for row in result.layers if row.std is not None and row.target and row.status in ("ok", "off")]
    spread = f"; std {min(stds):.4f} to {max(stds):.4f}" if stds else ""
    roles = Counter(change.role for change in result.changes if change.has_new_values)
    norms, biases, moved = roles["statistics"] // 2, roles["bias"], sum(c.became_initializer for c in result.changes)
    parted = sum(change.parted_from is not None for change in result.changes)
    centred = _centred(result)
    aim = f"centre {'its layer' if centred == 1 else 'their layers'}"
    fresh = [_count(roles[role], role) for role in _FRESH if roles[role]]
    extra = {
        f"statistics of {_count(norms, 'BatchNormalization')} set": norms,
        f"{_count(centred, 'bias', 'biases')} set to {aim}": centred,
        f"{_count(biases - centred, 'bias', 'biases')} set to zero": biases - centred,
        f"{', '.join(fresh)} given the usual starting values": len(fresh) if result.settings.fresh else 0,
        f"{_count(parted, 'tensor')} parted from others": parted,
        _count(moved, "constant became an initializer", "constants became initializers"): moved,
    }
    times = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in result.seconds.items())
    samples, batches = result.data.get("samples"), result.data.get("batches")
    ran = f"{_count(samples, 'sample')} in {_count(batches, 'batch', 'batches')} " if batches else ""
    lines = [
        f"{_count(len(result.layers), 'layer')}{': ' * bool(states)}{states}{spread}",
        "; ".join(said for said, n in extra.items() if n),
        f"{ran}on {result.device}; {times}" if times else "",
    ]
    return [line for line in lines if line]


def _centred(result: Result) -> int:
    """Return how many biases centre their layers: not those of norms, nor of layers that could not be scaled."""
    if not (result.settings.center and result.changes):
        return 0
    found = result.plan
    scaled = {row.weight for row in result.layers if row.scale is not None}
    weights = [found.weights[key].layers[0].source for key in find_centres(found)]
    return sum(tensor_names(found.program, source)[0] in scaled for source in weights)


def _count(n: Any, one: str, many: str | None = None) -> str:
    return f"{'no' if n is None else n} {one if n == 1 else many or one + 's'}"
