"""Exceptions -> one sentence on standard error, and an exit status."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from onnx_lsuv.cli.signals import last_word
from onnx_lsuv.errors import LsuvError, OutputError, UsageError, meant, quote, sentence

DEFECT = 70
# What options are called elsewhere.
ELSEWHERE = {f"--{name}": f"--format {name}" for name in ("json", "github")}
ELSEWHERE |= {"--cpu": "--device cpu", **dict.fromkeys(("--cuda", "--gpu"), "--device cuda")}
ELSEWHERE |= {**dict.fromkeys(("-f", "-y", "--overwrite"), "--force"), "-b": "--batch-size", "-s": "--seed"}
ELSEWHERE |= {**dict.fromkeys(("-i", "--input", "--inputs"), "--data"), "--std": "--target-std", "-V": "--version"}


def guarded(work: Callable[[], int], verbose: int) -> int:
    """Do the work and return its exit status; what it raises becomes a sentence, with -vv after the traceback."""
    try:
        return work()
    except LsuvError as error:
        return _failed(str(error), error.exit_status, error, verbose)
    except KeyboardInterrupt as error:
        saved = hasattr(error, "__notes__")
        return _failed("interrupted" if saved else "interrupted; nothing was saved", 130, error, verbose)
    except MemoryError as error:
        words = "out of memory; give smaller batches with '--batch-size', or fewer samples with '--samples'"
        return _failed(words, 5, error, verbose)
    except OSError as error:
        where = f" {quote(error.filename)}" if error.filename else ""
        words = f"the result{where} cannot be written: {error.strerror or error}"
        return _failed(words, OutputError.exit_status, error, verbose)
    except Exception as error:
        words = f"a defect in onnx-lsuv ({type(error).__name__}: {error}); please report it with the output of '-vv'"
        return _failed(words, DEFECT, error, verbose)


def say(words: str) -> None:
    """Write the last line to standard error, on a terminal broken between words."""
    last_word()
    if sys.stderr is None:
        return
    line = f"onnx-lsuv: {words}"
    if sys.stderr.isatty():
        # Of this stream: standard output may be a file.
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        line = textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
    with suppress(OSError):  # where it cannot be written the exit status still says what happened
        sys.stderr.write(f"{line}\n")


def _failed(words: str, status: int, error: BaseException, verbose: int) -> int:
    if verbose > 1:
        import traceback  # noqa: PLC0415

        with suppress(OSError):
            traceback.print_exception(error)
    # What was saved before is told in a note, where something was.
    said = "; ".join([words.rstrip("."), *getattr(error, "__notes__", [])])
    say(f"error: {sentence(said)}")
    return status


def refuse_repeated(command: Any, arguments: Sequence[str]) -> None:
    """Raise UsageError for an option with one value that is given several: which was meant is anybody's guess."""
    *_, order = command.make_parser(command.context_class(command)).parse_args(list(arguments))
    for each in dict.fromkeys(order):
        takes_one = each.param_type_name == "option" and not (each.multiple or each.is_flag or each.count)
        if takes_one and order.count(each) > 1:
            raise UsageError(f"the option {'/'.join(each.opts)} is given {order.count(each)} times: give it once")


def refused(error: Any, arguments: Sequence[str], parameters: Sequence[Any]) -> UsageError:
    """Return what the parser has against the arguments as an error that says what to do."""
    words = " ".join(str(error.format_message()).split())
    option = str(getattr(error, "option_name", "") or "")
    if words.lower().startswith("no such option"):
        known = [name for each in parameters for name in each.opts]
        near = f" (did you mean {ELSEWHERE[option]!r}?)" if option in ELSEWHERE else meant(option, known)
        more = "" if near else "; 'onnx-lsuv --help' lists the options"
        return UsageError(f"there is no option {option!r}{near}{more}")
    if extra := re.search(r"unexpected extra arguments?(?:\(s\))? \((.*)\)", words):
        return UsageError(
            f"one model is expected, but {extra[1]!r} follows it; data are given with '--data PATH', "
            "once for each input, several files of one as their folder"
        )
    if words.startswith("Missing argument"):
        return UsageError("the model is missing; give it as in 'onnx-lsuv MODEL.onnx --data PATH'")
    if "requires an argument" in words:
        value = next((each.metavar for each in parameters if option in each.opts), "VALUE")
        return UsageError(f"the option {option!r} needs a value: give '{option} {value}'")
    if wrong := re.match(r"Invalid value for (.*?): (?:Value error, )?(.*)", words):
        names = re.findall(r"'([^']*)'", wrong[1]) or [wrong[1]]
        what = re.sub(r"^Input |, unable to parse.*$|\.$", "", wrong[2])
        given = _given(names, arguments)
        found = f", but {given!r} was given" if given is not None and repr(given) not in what else ""
        near = meant(given or "", re.findall(r"'([^']*)'", what.partition("not one of")[2]))
        return UsageError(f"the value of {' / '.join(names)} {_joined(what)}{found}{near}")
    return UsageError(words)


def _joined(what: str) -> str:
    return what if what.startswith(("should", "is ", "must")) else f"is wrong: {what}"


def _given(names: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Return the value that an option got last."""
    found = None
    for i, each in enumerate(arguments):
        name, equals, value = each.partition("=")
        if name in names:
            found = value if equals else next(iter(arguments[i + 1 : i + 2]), None)
    return found
