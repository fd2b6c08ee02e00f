"""The importers that train ONNX files, and what each of them asks of a file: `table.json`, read.

    kinds       the sentence of each kind of finding
    cures       of a kind of finding, the steps of `--portable` that can take it off a file
    exports     of a trait that another export does not have, its kind
    written     of an operator, those that PyTorch's exporter writes for an older opset
    beside      of an operator, those that it may write where lengths are computed
    importers   the rows: each holds for one version, measured on one date

The operators are those that the packages register, of onnxsim with the versions that a step in opset 17 can hold;
ONNX Runtime Training runs every operator and goes back through those for which it has a gradient. In `gradients`,
AveragePool (the process crashes), ConvTranspose and GRU (no kernel on the CPU) are left out. `tests/frameworks` makes
the table, and holds it against the packages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_lsuv.errors import UsageError, listing, meant


@dataclass(frozen=True, slots=True, eq=False)
class Importer:
    """What an importer reads and trains, as measured.

    opsets, ir:     the lowest and highest version read; None: no limit of its own.
    operators:      for each operator the versions (`since_version`) it reads, empty for any; None: every operator.
    versions:       whether an operator's version has to be one of these.
    domains:        operator sets that a file may import, used or not; None: any.
    gradients:      operators that training can go back through; None: all that `impassable` does not name.
    parameters:     operators whose weight becomes a parameter; None: every initializer of the main graph does.
    direct:         whether the weight has to be the operator's own operand, with nothing in between.
    gemm_operands:  whether a Gemm has to have its weight on the right, no transA, and a vector for its bias.
    refuses:        what in a file stops it (keys of `traits`).
    remarks:        what in a file is worth a note (likewise).
    """

    name: str
    framework: str
    version: str
    date: str
    opsets: tuple[int, int] | None = None
    ir: tuple[int, int] | None = None
    operators: Mapping[str, frozenset[int]] | None = None
    versions: bool = False
    domains: frozenset[str] | None = None
    gradients: frozenset[str] | None = None
    impassable: frozenset[str] = frozenset()
    parameters: frozenset[str] | None = None
    direct: bool = False
    gemm_operands: bool = False
    refuses: frozenset[str] = frozenset()
    remarks: frozenset[str] = frozenset()

    def reads(self, operator: str, version: int) -> bool:
        """Whether it reads an operator of ONNX's own in a version."""
        if self.operators is None:
            return True
        return operator in self.operators and (not self.versions or version in self.operators[operator])


def _read(name: str, row: Mapping[str, Any]) -> Importer:
    found: dict[str, Any] = {key: frozenset(value) if isinstance(value, list) else value for key, value in row.items()}
    found |= {key: tuple(row[key]) for key in ("opsets", "ir") if key in row}
    if "operators" in row:
        versions = row["operators"] if row.get("versions") else dict.fromkeys(row["operators"], ())
        found["operators"] = {op: frozenset(known) for op, known in versions.items()}
    return Importer(name, **found)


_TABLE: Mapping[str, Any] = json.loads(Path(__file__).with_name("table.json").read_text("utf-8"))
KINDS: Mapping[str, str] = _TABLE["kinds"]
CURES: Mapping[str, list[str]] = _TABLE["cures"]
EXPORTS: Mapping[str, str] = _TABLE["exports"]
WRITTEN: Mapping[str, list[str]] = _TABLE["written"]
BESIDE: Mapping[str, list[str]] = _TABLE["beside"]
IMPORTERS: Mapping[str, Importer] = {name: _read(name, row) for name, row in _TABLE["importers"].items()}


def chosen(names: str | Iterable[str]) -> Mapping[str, Importer]:
    """Return the rows of importers by their names, in the table's order; all where none is named.

    Raises:
        UsageError: there is no importer of a name.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in IMPORTERS:
            near = meant(str(name), IMPORTERS)
            raise UsageError(f"there is no importer {name!r}{near}: expected {listing(IMPORTERS, len(IMPORTERS))}")
    return {name: row for name, row in IMPORTERS.items() if name in wanted or not wanted}
