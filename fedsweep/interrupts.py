"""Signals that end a run.

That one has come to this process is remembered: the exception may come out of a library's C code as another (a
SystemError, say).
"""

from __future__ import annotations

import signal

_came = False


def handle(*kinds: signal.Signals) -> None:
    """These signals raise KeyboardInterrupt from now on."""
    for kind in kinds:
        signal.signal(kind, _raise)


def behind(error: BaseException | None) -> bool:
    """Whether one is behind the error: one that comes while a lock is released ends as an error of the lock's, say."""
    if _came:
        return True
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _raise(*_) -> None:
    global _came
    _came = True
    raise KeyboardInterrupt
