"""Whether a shell asks what could complete a line.

The scripts that `--show-completion` prints set _ONNX_LSUV_COMPLETE to `complete_SHELL`, and other variables to what is
typed so far. The variable alone, left over or set by mistake, is no question, and the command does its work.
"""

from __future__ import annotations

import os

VARIABLE = "_ONNX_LSUV_COMPLETE"
TYPED = {  # by shell
    "bash": ("COMP_WORDS", "COMP_CWORD"),
    **dict.fromkeys(("zsh", "fish", "powershell", "pwsh"), ("_TYPER_COMPLETE_ARGS",)),
}


def asks_completion() -> bool:
    """Whether the environment holds a question that can be answered."""
    what, _, shell = os.environ.get(VARIABLE, "").partition("_")
    if what not in ("complete", "source") or shell not in TYPED:
        return False
    if what == "source":
        return True
    typed = [os.environ.get(name) for name in TYPED[shell]]
    return None not in typed and (shell != "bash" or str(typed[-1]).isdecimal())
