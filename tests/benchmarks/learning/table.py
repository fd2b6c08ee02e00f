"""The table and the plot. Needs no PyTorch."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from statistics import mean

from learning.cells import Cell, Plan, chosen, edge

HEAD = ("net", "start", "result", "lowest to highest", "seeds", "rate", "steps", "step", "initialising", "of an epoch")
ROW, LEFT, WIDTH = 16, 230, 700


@dataclass(frozen=True)
class Line:
    """What one net came to from one start, on the samples that are reported; None for what diverged."""

    plan: Plan
    rate: float
    rows: list[dict]

    @property
    def values(self) -> list[float]:
        return [row["report"] for row in self.rows if row["report"] is not None and not row["diverged"]]

    @property
    def cells(self) -> list[str]:
        values, count = self.values, len(self.rows)
        step = min(row["step"] for row in self.rows)
        start = min(row["initialising"] for row in self.rows)
        whole = len(values) == count
        return [
            *(self.plan.net, self.plan.start),
            f"{mean(values):.3f}" if whole else f"{count - len(values)} diverged",
            f"{min(values):.3f} to {max(values):.3f}" if values else "",
            str(count),
            f"{self.rate:g}" + "*" * edge(self.plan, self.rate),
            str(self.plan.steps),
            f"{1000 * step:.1f} ms",
            f"{start:.2f} s",
            f"{100 * start / (step * self.rows[0]['epoch']):.1f}%",
        ]


def lines(plans: Iterable[Plan], found: dict[Cell, dict]) -> list[Line]:
    """What is finished: those whose rate is chosen, with the seeds that there are."""
    made = []
    for plan in plans:
        if (rate := chosen(plan, found)) is not None:
            rows = [found[cell] for seed in plan.seeds if (cell := plan.cell(rate, seed)) in found]
            made.append(Line(plan, rate, rows))
    return made


def as_markdown(plans: Iterable[Plan], found: dict[Cell, dict]) -> str:
    rows = [line.cells for line in lines(plans, found)]
    aligned = ["---", "---", *["---:"] * (len(HEAD) - 2)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in (HEAD, aligned, *rows))
    ends = "`*`: the rate lies at an end of its list, and a better one may lie beyond."
    return f"{table}\n\n{ends}"


def as_svg(plans: Iterable[Plan], found: dict[Cell, dict]) -> str:
    """A row for each net and start, a dot for each seed and a bar at their mean, in the net's own range."""
    made = [line for line in lines(plans, found) if line.values]
    parts = []
    for i, line in enumerate(made):
        own = [v for each in made if each.plan.net == line.plan.net for v in each.values]
        low, high = min(own), max(own)
        y, span = ROW * i + ROW, (high - low) or 1.0
        places = [LEFT + (WIDTH - LEFT - 60) * (v - low) / span for v in line.values]
        name = escape(f"{line.plan.net}: {line.plan.start}")
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{name}</text>')
        parts += [f'<circle cx="{x:.1f}" cy="{y}" r="3.5"/>' for x in places]
        middle = mean(places)
        parts.append(f'<path d="M{middle:.1f} {y - 6}V{y + 6}"/>')
        parts.append(f'<text x="{WIDTH - 50}" y="{y + 4}">{mean(line.values):.3f}</text>')
        if i and made[i - 1].plan.net != line.plan.net:
            parts.append(f'<path d="M0 {y - ROW // 2}H{WIDTH}" opacity=".3"/>')
    style = "text{font:11px sans-serif}text,circle{fill:#808080}path{stroke:#808080;fill:none}circle{fill-opacity:.6}"
    size = f'viewBox="0 0 {WIDTH} {ROW * (len(made) + 1)}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>\n{body}\n</svg>\n'
