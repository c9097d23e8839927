"""Signals that end a run.

That one has come is remembered: the exception may come out of a library's C code as another (a SystemError, say).
"""

from __future__ import annotations

import signal

_came = False


def handle(*kinds: signal.Signals) -> None:
    """These signals raise KeyboardInterrupt from now on."""
    for kind in kinds:
        signal.signal(kind, _raise)


def came() -> bool:
    """Whether such a signal has come to this process."""
    return _came


def _raise(*_) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
