"""What a person chooses of the method: one value, from keywords or the command line, that travels whole.

It is checked once, by `Settings.check`: each choice by itself, and two that contradict each other. The sentences, and
the notes of a result, are the same for whoever calls; how a choice is called in them, `keep_bias=True` or
`--keep-bias`, the caller says by `Settings.spell`.
Nothing heavy is imported here, as the command line reads the methods for its help.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import index
from typing import Any, TypedDict, cast

from onnx_lsuv.errors import UsageError, meant, shorten

METHODS = ("orthonormal", "delta", "he", "xavier", "keep", "zero", "identity")
# How words begin that name a method elsewhere.
OTHER_NAMES = {"orthog": "orthonormal", "lsuv": "orthonormal", "kaiming": "he", "he_": "he", "msra": "he"}
OTHER_NAMES |= {"glorot": "xavier", "xavier_": "xavier", "none": "keep"}
OTHER_NAMES |= {"const": "zero", "zero": "zero", "dirac": "identity", "eye": "identity"}
# How the ends of residual branches, and of averages, are scaled; the first is the default.
RESIDUAL = ("auto", "off")
# What becomes of an LSTM's bias; the first is the default.
LSTM_BIAS = ("keep", "forget")
# Beyond, what a layer gives or its square leaves the range of float32.
STD_MIN, STD_MAX = 1e-9, 1e9
# By pattern; where several match a layer, the last one counts, so that exceptions follow the rule.
Targets = Mapping[str, float] | Sequence[tuple[str, float]]
Inits = str | Mapping[str, str] | Sequence[tuple[str, str]]
Spell = Callable[[str, Any], str]  # how a choice is called: by its name, and its value where that is meant too

# Two choices that exclude each other, and the sentence; a value of None stands for any but the default.
_CONTRADICTIONS: tuple[tuple[tuple[str, Any], tuple[str, Any], str], ...] = (
    (("fresh", True), ("keep_bias", True), "{} gives every parameter a new value and {} keeps some"),
    (("fresh", True), ("init", "keep"), "{} gives every parameter a new value and {} keeps some"),
    (("center", True), ("keep_bias", True), "{} sets biases by the scaled weights and {} leaves them"),
    (("center", True), ("rescale", False), "{} sets biases by the scaled weights and {} leaves them"),
    (("target", None), ("rescale", False), "{} is a std to scale to and {} scales nothing"),
    (("target_std", None), ("rescale", False), "{} is a std to scale to and {} scales nothing"),
)
# What each verb goes by, as its report says it.
REPORTED = {
    "plan": ("include", "exclude", "keep_bias", "lstm_bias", "fresh", "recalibrate", "untie", "strict"),
    "initialize": (
        *("seed", "init", "rescale", "fresh", "keep_bias", "lstm_bias", "center"),
        *("recalibrate", "untie", "include", "exclude", "target", "residual", "strict"),
    ),
    "measure": ("include", "exclude", "target", "residual", "strict"),
}


class Wanted(TypedDict, total=False):
    """The settings of `measure` as keywords."""

    target_std: float
    target: Targets
    residual: str
    tolerance: float | None
    include: Sequence[str]
    exclude: Sequence[str]
    strict: bool


class Choices(Wanted, total=False):
    """All settings as keywords."""

    seed: int
    init: Inits
    rescale: bool
    fresh: bool
    keep_bias: bool
    lstm_bias: str
    center: bool
    recalibrate: bool
    untie: bool


def keyword(name: str, value: Any = None) -> str:
    """Return how a choice is called in Python."""
    return name if value is None else f"{name}={value!r}"


def memory_bytes(given: int | str | None, spell: Spell = keyword) -> int | None:
    """Return the size that is given: a number of bytes, or as text also one of K, M, G, T of 1024; None for none.

    Raises UsageError for what is no size.
    """
    if given is None:
        return None
    text = given if isinstance(given, str) else str(given) if hasattr(given, "__index__") else ""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise UsageError(f"{spell('memory', None)} takes a size such as 500M or 2G, not {given!r}")
    # More than any machine has is as much as there is.
    return int(min(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "), sys.maxsize))


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


def _inits(value: Any) -> str | tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        return value
    pairs = value.items() if isinstance(value, Mapping) else value
    return tuple((_pattern(pattern), _pattern(method)) for pattern, method in pairs) or METHODS[0]


# How each choice becomes a plain value, NumPy's numbers too, and what it has to be.
_READ: dict[str, tuple[Callable[[Any], Any], str]] = {
    "seed": (_whole, "a whole number"),
    "target_std": (_number, "a number"),
    "target": (_targets, "{pattern: std}"),
    "residual": (_pattern, "auto or off"),
    "lstm_bias": (_pattern, "keep or forget"),
    "init": (_inits, "a method or {pattern: method}"),
    "tolerance": (_number_or_none, "a number or None"),
    **dict.fromkeys(("include", "exclude"), (_patterns, "a list of patterns")),
    **dict.fromkeys(
        ("rescale", "recalibrate", "fresh", "keep_bias", "center", "untie", "strict"), (_switch, "True or False")
    ),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is initialised, and what is wanted of it.

    A pattern is one of the shell (`*`, `?`, `[ab]`) for the whole name of a layer's node or of its weight; in
    `include` and `exclude` of any tensor, or of a node that reads it.

    Attributes:
        seed: of the draw, from 0 on.
        init: how weights are drawn: "orthonormal", "delta", "he" or "xavier"; "keep" for the weights as they are;
            "zero" or "identity", which are not scaled unless, for the identity, `target` names the layer. Or
            {pattern: method}, the last that matches counting; what none matches is drawn "orthonormal".
        target_std: the std that every layer's output is to have.
        target: other stds, as {pattern: std}; of several that match the last one counts. With 0 the weight is zero.
        residual: "auto" gives the last layer of each of L branches that join a residual stream std(stream where the
            first joins) / sqrt(L), and a last layer that reads averages of a BatchNormalization a tenth of the std,
            unless `target` names it; "off" the std of every other layer, LSUV as published.
        rescale: False leaves weights as drawn; statistics of BatchNormalizations are set all the same.
        recalibrate: set the statistics of every BatchNormalization, also where no weight before it changes.
        untie: part every tensor that an exporter merged of equal ones, so that each layer trains its own; else only
            those that need different values from the start.
        fresh: every other parameter gets its usual starting value too.
        include: patterns of the layers, norms or tensors to take; all where empty.
        exclude: patterns of those to leave alone.
        keep_bias: leave biases as they are instead of setting them to zero.
        lstm_bias: "keep" leaves an LSTM's bias as it is; "forget" sets it to zero, and that of the forget gate to 1, as
            it starts in any case with `fresh` and where the file has no values for it.
        center: give biases the value that makes the mean of each channel of a layer's output zero; its std is then
            that about these means. Layers without a bias of their own, and those in branches and loops, are not
            centred.
        tolerance: on the variance relative to its target; None for 0.005, or 0.02 from the first weight in half
            precision on.
        strict: what is in doubt counts against `Result.good`: with `fresh` a tensor that may keep what it learned, of
            `measure` any note.
        spell: how messages and notes call a choice; as in Python unless the caller says otherwise.

    Raises:
        UsageError: a value is of no use.
    """

    seed: int = 0
    init: Inits = METHODS[0]
    target_std: float = 1.0
    target: Targets = ()
    residual: str = RESIDUAL[0]
    rescale: bool = True
    recalibrate: bool = False
    untie: bool = False
    fresh: bool = False  # `roles.parameters` says which
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    keep_bias: bool = False
    lstm_bias: str = LSTM_BIAS[0]
    center: bool = False
    tolerance: float | None = None
    strict: bool = False
    spell: Spell = field(default=keyword, compare=False, repr=False)

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
        return self.recalibrate or ({method for _, method in self.inits} == {"keep"} and not self.rescale)

    @property
    def kept_biases(self) -> frozenset[str]:
        """Operators whose biases stay as they are; "*" for all."""
        return frozenset(("*",) if self.keep_bias else ("LSTM",) if self.lstm_bias == "keep" and not self.fresh else ())

    @property
    def inits(self) -> tuple[tuple[str, str], ...]:
        """Patterns and methods, in order, the first for every weight."""
        if isinstance(self.init, str):
            return (("*", self.init),)
        pairs = cast("tuple[tuple[str, str], ...]", self.init)
        return pairs if pairs[0][0] == "*" else (("*", METHODS[0]), *pairs)

    @property
    def targets(self) -> tuple[tuple[str, float], ...]:
        """Patterns and stds, in order."""
        return cast("tuple[tuple[str, float], ...]", self.target)

    def check(self) -> Settings:
        """Return these settings; raise UsageError for a choice that is none, or two that contradict each other."""
        spell = self.spell
        for *both, sentence in _CONTRADICTIONS:
            if all(self._has(*choice) for choice in both):
                raise UsageError(f"{sentence.format(*(spell(*choice) for choice in both))}: give one of them")
        for _, method in self.inits:
            if method not in METHODS:
                known = next((name for start, name in OTHER_NAMES.items() if method.lower().startswith(start)), method)
                wanted = f"{spell('init', None)} must be one of {', '.join(METHODS)}"
                raise UsageError(f"{wanted}, not {shorten(repr(method))}{meant(known, METHODS)}")
        for name, words in (("residual", RESIDUAL), ("lstm_bias", LSTM_BIAS)):
            if (given := getattr(self, name)) not in words:
                wanted = f"{spell(name, None)} must be {' or '.join(sorted(words))}"
                raise UsageError(f"{wanted}, not {shorten(repr(given))}{meant(given, words)}")
        if self.seed < 0:
            raise UsageError(f"{spell('seed', None)} must be a whole number from 0 on, not {self.seed}")
        stds = {spell("target_std", None): self.target_std}
        stds |= {f"{spell('target', None)} for {pattern!r}": std for pattern, std in self.targets}
        for name, std in stds.items():
            zero = name != spell("target_std", None)  # which leaves no layer to scale
            if not (STD_MIN <= std <= STD_MAX or (zero and std == 0)):
                wide = f"one from {STD_MIN:g} to {STD_MAX:g}" + ", or 0 for a weight of zero" * zero
                raise UsageError(f"{name} must be a finite number above 0, not {std}: {wide}")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise UsageError(f"{spell('tolerance', None)} must lie between 0 and 1, not {self.tolerance}")
        return self

    def _has(self, name: str, value: Any) -> bool:
        """Say whether a choice is made so; a value of None stands for any but the default."""
        if name == "init":
            return any(method == value for _, method in self.inits)
        usual = {each.name: each.default for each in fields(self)}
        found = getattr(self, name)
        return bool(found != usual[name] if value is None else found == value)

    def as_dict(self, verb: str) -> dict[str, Any]:
        """Return for JSON what a verb, a key of REPORTED, went by."""
        return {name: _plain(getattr(self, name)) for name in REPORTED[verb]}


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
