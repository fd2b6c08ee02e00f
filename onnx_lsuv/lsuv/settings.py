"""What a person chooses of the method: one value, from keywords or the command line, that travels whole.

It is checked once, by `Settings.check`: each choice by itself, and two that contradict each other. The sentences are
the same for whoever calls; how a choice is called in them, `keep_bias=True` or `--keep-bias`, the caller says.
Nothing heavy is imported here, as the command line reads the methods for its help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, TypedDict, cast

from onnx_lsuv.errors import UsageError, shorten

METHODS = ("orthonormal", "delta", "he", "xavier", "keep")
# Beyond, what a layer gives or its square leaves the range of float32.
STD_MIN, STD_MAX = 1e-9, 1e9
# By pattern; where several match a layer, the last one counts, so that exceptions follow the rule.
Targets = Mapping[str, float] | Sequence[tuple[str, float]]
Spell = Callable[[str, Any], str]  # how a choice is called: by its name, and its value where that is meant too

# Two choices that exclude each other, and the sentence; a value of None stands for any that is not empty.
_CONTRADICTIONS: tuple[tuple[tuple[str, Any], tuple[str, Any], str], ...] = (
    (("fresh", True), ("keep_bias", True), "{} gives every parameter a new value and {} keeps some"),
    (("fresh", True), ("init", "keep"), "{} gives every parameter a new value and {} keeps some"),
    (("center", True), ("keep_bias", True), "{} sets biases by the scaled weights and {} leaves them"),
    (("center", True), ("rescale", False), "{} sets biases by the scaled weights and {} leaves them"),
    (("target", None), ("rescale", False), "{} is a std to scale to and {} scales nothing"),
)
# What each verb goes by, as its report says it.
REPORTED = {
    "plan": ("include", "exclude", "keep_bias", "fresh", "recalibrate", "strict"),
    "initialize": (
        *("seed", "init", "rescale", "fresh", "keep_bias", "center"),
        *("recalibrate", "include", "exclude", "target", "strict"),
    ),
    "measure": ("include", "exclude", "target", "strict"),
}


class Wanted(TypedDict, total=False):
    """The settings of `measure` as keywords."""

    target_std: float
    target: Targets
    tolerance: float | None
    include: Sequence[str]
    exclude: Sequence[str]
    strict: bool


class Choices(Wanted, total=False):
    """All settings as keywords."""

    seed: int
    init: str
    rescale: bool
    fresh: bool
    keep_bias: bool
    center: bool
    recalibrate: bool


def keyword(name: str, value: Any = None) -> str:
    """Return how a choice is called in Python."""
    return name if value is None else f"{name}={value!r}"


def _whole(value: Any) -> int:
    return int(index(value))


def _number(value: Any) -> float:
    return float(value)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else float(value)


def _switch(value: Any) -> bool:
    if value not in (True, False):
        raise ValueError
    return bool(value)


def _pattern(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(_pattern, value))


def _targets(value: Any) -> tuple[tuple[str, float], ...]:
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((_pattern(pattern), float(std)) for pattern, std in pairs)


# How each choice but `init` becomes a plain value, NumPy's numbers too, and what it has to be.
_READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "seed": (_whole, "a whole number"),
    "target_std": (_number, "a number"),
    "target": (_targets, "{pattern: std}"),
    "tolerance": (_number_or_none, "a number or None"),
    **dict.fromkeys(("include", "exclude"), (_patterns, "a list of patterns")),
    **dict.fromkeys(("rescale", "recalibrate", "fresh", "keep_bias", "center", "strict"), (_switch, "True or False")),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is initialised, and what is wanted of it.

    A pattern is one of the shell (`*`, `?`, `[ab]`) for the whole name of a layer's node or of its weight.

    Attributes:
        seed: of the draw, from 0 on.
        init: how weights are drawn: "orthonormal", "delta", "he" or "xavier"; "keep" for the weights as they are.
        target_std: the std that every layer's output is to have.
        target: other stds, as {pattern: std}; of several that match the last one counts.
        rescale: False leaves weights as drawn; statistics of BatchNormalizations are set all the same.
        recalibrate: set the statistics of every BatchNormalization, also where no weight before it changes.
        fresh: every other parameter gets its usual starting value too.
        include: patterns of the layers to take; all where empty.
        exclude: patterns of layers to leave alone.
        keep_bias: leave biases as they are instead of setting them to zero.
        center: give biases the value that makes the mean of each channel of a layer's output zero; its std is then
            that about these means. Layers without a bias of their own, and those in branches and loops, are not
            centred.
        tolerance: on the variance relative to its target; None for 0.005, or 0.02 from the first weight in half
            precision on.
        strict: what is in doubt counts against `Result.good`: with `fresh` a tensor that may keep what it learned, of
            `measure` any note.

    Raises:
        UsageError: a value is of no use.
    """

    seed: int = 0
    init: str = "orthonormal"  # one of METHODS
    target_std: float = 1.0
    target: Targets = ()
    rescale: bool = True
    recalibrate: bool = False
    fresh: bool = False  # `roles.parameters` says which
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    keep_bias: bool = False
    center: bool = False
    tolerance: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        for name, (read, wanted) in _READ.items():
            value = getattr(self, name)
            try:
                object.__setattr__(self, name, read(value))
            except (TypeError, ValueError, OverflowError):
                raise UsageError(f"{keyword(name)} has to be {wanted}, not {shorten(repr(value))}") from None

    @property
    def all_statistics(self) -> bool:
        """Whether every BatchNormalization is calibrated: as asked, or as nothing else is left to do."""
        return self.recalibrate or (self.init == "keep" and not self.rescale)

    @property
    def targets(self) -> tuple[tuple[str, float], ...]:
        """Patterns and stds, in order."""
        return cast("tuple[tuple[str, float], ...]", self.target)

    def check(self, spell: Spell = keyword) -> Settings:
        """Return these settings; raise UsageError for a choice that is none, or two that contradict each other."""
        for *both, sentence in _CONTRADICTIONS:
            found = [getattr(self, name) for name, _ in both]
            if all(bool(has) if value is None else has == value for has, (_, value) in zip(found, both, strict=True)):
                raise UsageError(f"{sentence.format(*(spell(*choice) for choice in both))}: give one of them")
        if self.init not in METHODS:
            raise UsageError(f"{spell('init', None)} must be one of {', '.join(METHODS)}, not {self.init!r}")
        if self.seed < 0:
            raise UsageError(f"{spell('seed', None)} must be a whole number from 0 on, not {self.seed}")
        stds = {spell("target_std", None): self.target_std}
        stds |= {f"{spell('target', None)} for {pattern!r}": std for pattern, std in self.targets}
        for name, std in stds.items():
            if not STD_MIN <= std <= STD_MAX:
                wide = f"one from {STD_MIN:g} to {STD_MAX:g}"
                raise UsageError(f"{name} must be a finite number above 0, not {std}: {wide}")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise UsageError(f"{spell('tolerance', None)} must lie between 0 and 1, not {self.tolerance}")
        return self

    def as_dict(self, verb: str) -> dict[str, Any]:
        """Return for JSON what a verb, a key of REPORTED, went by."""
        return {name: _plain(getattr(self, name)) for name in REPORTED[verb]}


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
