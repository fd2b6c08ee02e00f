"""What was measured, as rows: Markdown, JSON, and the sentence about the bars."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Bar:
    """What is promised: at most, or at least, so much."""

    limit: float
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Group:
    """A table: its title, what its columns hold, what has to be known about its sides."""

    name: str
    title: str
    ours: str
    other: str
    measured: str
    cpu: str
    remarks: tuple[str, ...] = ()

    def columns(self) -> dict[str, str]:
        """What the numbers of its rows are."""
        return {"ours": self.ours, "other": self.other, "measured": self.measured, "cpu": self.cpu}


@dataclass(frozen=True, slots=True)
class Row:
    """A measurement; None for what was not measured. The group says what each number is."""

    name: str
    title: str
    ours: float | None = None
    other: float | None = None
    measured: float | None = None
    cpu: float | None = None
    bar: Bar | None = None
    note: str = ""
    failed: bool = False
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the bar holds; None without a bar or a measurement."""
        if self.bar is None or self.measured is None:
            return None
        return self.measured >= self.bar.limit if self.bar.least else self.measured <= self.bar.limit

    def document(self) -> dict:
        """The row for JSON."""
        bar = self.bar and {"limit": self.bar.limit, "sense": "at least" if self.bar.least else "at most"}
        return asdict(self) | {"bar": bar, "holds": self.holds}


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def as_markdown(groups: Sequence[Group], rows: Sequence[Row], machine: Mapping[str, object]) -> str:
    """A table for each group that has rows, the machine before them and the verdict after them."""
    lines = [", ".join(f"{name} {value}" for name, value in machine.items() if value), ""]
    for group in groups:
        mine = [row for row in rows if row.name.startswith(f"{group.name}/")]
        if not mine:
            continue
        columns = ("", *group.columns().values(), "bar", "holds")
        lines += [f"### {group.title}", ""]
        lines += [f"| {' | '.join(columns)} |", "|---|" + "---:|" * 5 + "---|"]
        for row in mine:
            measured = f"**{number(row.measured)}**" if row.measured is not None else "not measured"
            numbers = (number(row.ours), number(row.other), measured, number(row.cpu))
            holds = {True: "yes", False: "NO", None: ""}[row.holds]
            lines.append(f"| {' | '.join((row.title, *numbers, str(row.bar or ''), holds))} |")
        remarks = [*group.remarks, *(f"{row.title}: {row.note}" for row in mine if row.note)]
        lines += ["", *(f"* {remark}" for remark in remarks), *([""] if remarks else [])]
    return "\n".join([*lines, verdict(rows)])


def verdict(rows: Iterable[Row]) -> str:
    """One line: which rows miss their bars, which could not be measured."""
    rows = list(rows)
    barred = [row for row in rows if row.bar]
    over = [f"{row.name} ({number(row.measured)}, bar {row.bar})" for row in barred if row.holds is False]
    missing = [row.name for row in rows if row.measured is None]
    text = f"{sum(row.holds is True for row in barred)} of {len(barred)} bars hold"
    text += f"; over their bars: {', '.join(over)}" if over else ""
    return text + (f"; not measured: {', '.join(missing)}" if missing else "")
