"""Whether a shell asks what could complete a line.

The scripts that `--show-completion` prints set _ONNX_LSUV_COMPLETE to `complete_SHELL`, and other variables to what is
typed so far. The variable alone, left over or set by mistake, is no question, and the command does its work.
"""

from __future__ import annotations

import os
import re

VARIABLE = "_ONNX_LSUV_COMPLETE"
TYPED = {  # by shell
    "bash": ("COMP_WORDS", "COMP_CWORD"),
    **dict.fromkeys(("zsh", "fish", "powershell", "pwsh"), ("_TYPER_COMPLETE_ARGS",)),
}


def asks_completion() -> bool:
    """Whether the environment holds a question that can be answered."""
    asked = re.fullmatch(r"(complete|source)_(\w+)", os.environ.get(VARIABLE, ""))
    if not asked or asked[2] not in TYPED:
        return False
    if asked[1] == "source":
        return True
    typed = [os.environ.get(name) for name in TYPED[asked[2]]]
    return None not in typed and (asked[2] != "bash" or str(typed[-1]).isdecimal())
