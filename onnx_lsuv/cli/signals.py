"""Signals: a thread waits for them and ends the process; nothing is ever raised into what runs.

An exception would come out of wherever the main thread happens to be: in another package that is being imported, which
takes it for a fault of its own or aborts; in a destructor, where it is lost; in a clean-up, which it breaks off. And
compiled code would have to return first. So the signals are blocked, in threads made later too, and one thread waits
for them (POSIX `sigwait`): it does what others have asked for, says what happened, and ends the process, whatever the
other threads are at.

Before this module is loaded Python's own answer to Ctrl-C, a traceback, cannot be helped: it loads next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

WORDS = {"SIGINT": "interrupted", "SIGTERM": "terminated", "SIGHUP": "terminated, as the terminal was closed"}
PATIENCE = 5.0  # seconds for all that comes before the end: a file system or a terminal may hang

_before: dict[str, Callable[[], str | None]] = {}
_word = threading.RLock()  # who has it says how the process ends


def answer() -> None:
    """Answer signals from here on, but those that whoever started the process has ignored."""
    known = {getattr(signal, name): words for name, words in WORDS.items() if hasattr(signal, name)}
    known = {number: words for number, words in known.items() if signal.getsignal(number) != signal.SIG_IGN}
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, known)

        def wait() -> None:
            number = signal.sigwait(known)
            _end(128 + number, known[number])

        threading.Thread(target=wait, name="signals", daemon=True).start()
        return

    def handle(number: int, frame: object) -> None:
        threading.Thread(target=_end, args=(128 + number, known[number]), daemon=True).start()

    for number in known:
        signal.signal(number, handle)


def before_the_end(what: str, do: Callable[[], str | None]) -> None:
    """Have something done before a signal ends the process; what it returns is said, else that nothing was saved."""
    _before[what] = do


def last_word() -> None:
    """Take the last word: the process is about to end by itself, and a signal says nothing any more."""
    _word.acquire()


def _end(status: int, words: str) -> None:
    late = threading.Timer(PATIENCE, os._exit, [status])
    late.daemon = True
    late.start()
    with _word:
        try:
            told = []
            for do in list(_before.values()):
                try:
                    told.append(do())
                except Exception:
                    continue
            said = "; ".join([words, *filter(None, told)]) if any(told) else f"{words}; nothing was saved"
            # Not through the stream, whose buffer the main thread may hold.
            if sys.__stderr__ is not None:
                line = f"onnx-lsuv: error: {said}.\n"
                os.write(sys.__stderr__.fileno(), line.encode(sys.__stderr__.encoding, "backslashreplace"))
        finally:
            os._exit(status)  # whatever became of that
