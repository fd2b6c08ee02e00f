"""Which other export of a model an importer would train: where it stops at versions, or at operators too new for it.

The exporter of PyTorch that writes every opset is the one of `dynamo=False`. For an older opset than an operator's
first it writes the operators of `WRITTEN` instead, and where lengths are computed those of `BESIDE` too.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import defs

from onnx_lsuv.importers.forms import Form
from onnx_lsuv.importers.table import BESIDE, EXPORTS, WRITTEN, Importer

OPSETS = (*range(17, 8, -1), 18, 19, 20)  # what that exporter writes, the best first: the older ones are read by most


def other_export(form: Form, row: Importer, kinds: Iterable[str], traits: Iterable[str]) -> str:
    """Return the arguments of an export that an importer reads; "" where none is known, or none is wanted.

    Args:
        form: the file that it does not train.
        row: the importer.
        kinds: of what stops it.
        traits: of the file, which it refuses.
    """
    if not kinds or {*kinds} - {"opset", "operator", *EXPORTS.values()} or {*traits} - {*EXPORTS}:
        return ""
    names = {name for name, _ in form.operators}
    norms = bool(names & {"LayerNormalization", "ReduceMean"})  # a norm that is written out may become an operator
    for opset in OPSETS:
        window = row.opsets is None or row.opsets[0] <= opset <= row.opsets[1]
        since = _since("LayerNormalization", opset)
        late = norms and since and ("norm-output" in row.refuses or not row.reads("LayerNormalization", since))
        if window and not late and all(_reads(row, name, opset) for name in names):
            return f"opset_version={opset}, dynamo=False"
    return ""


def _reads(row: Importer, name: str, opset: int) -> bool:
    """Say whether an importer reads, and trains through, what an operator is in an opset."""
    if "." in name:
        return row.operators is None
    if _since(name, opset):
        return all(row.reads(each, _since(each, opset)) for each in (name, *BESIDE.get(name, ())))
    wanted = WRITTEN.get(name, ())
    passes = all(row.gradients is None or part in row.gradients for part in wanted)
    return bool(wanted) and passes and all(row.reads(part, _since(part, opset)) for part in wanted)


def _since(name: str, opset: int) -> int:
    """Return the version of an operator in an opset; 0 where it has none yet."""
    try:
        return int(defs.get_schema(name, opset).since_version)
    except defs.SchemaError:
        return 0
