"""Standard output and error that cost no run: a closed one, a broken pipe, a full disk behind them.

What a run writes into its folder is what counts. What it says to people is lost where nobody can read it, with one line
on standard error if that can still be written.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys


def guard() -> None:
    """From now on nothing that this process prints, or flushes at its end, raises. Calling it twice does nothing.

    A closed descriptor becomes the null device: else the next file that is opened would get its number, and all that
    is printed would go into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # the lowest number that is free is given: this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or isinstance(getattr(stream, "buffer", None), _Patient):
            continue  # somebody has put another in its place (a notebook, a test), or it is ours
        like = {"encoding": "utf-8"}  # of one that was closed when Python started
        if stream is not None:
            like = {key: getattr(stream, key) for key in ("encoding", "line_buffering", "write_through")}
            with contextlib.suppress(OSError):
                stream.flush()
        raw = _Patient(_Raw(descriptor, "wb", closefd=False))
        patient = io.TextIOWrapper(raw, errors="backslashreplace", **like)  # what it cannot show ends no run
        setattr(sys, name, patient)
        setattr(sys, f"__{name}__", patient)  # what Python flushes at its end


class _Patient(io.BufferedWriter):
    """Marks a stream as one of ours."""


class _Raw(io.FileIO):
    """A descriptor whose write errors are said once and then passed over."""

    _said = False

    def write(self, data: bytes) -> int | None:
        try:
            while (written := super().write(data)) is None:  # a pipe that does not block is full
                select.select([], [self], [])
            return written
        except OSError as error:
            if not self._said and self.fileno() == 1:
                line = f"fedsweep: standard output cannot be written ({error.strerror}); goes on without it\n"
                with contextlib.suppress(OSError):
                    os.write(2, line.encode())
            self._said = True
            return len(data)
