"""Imports: functions that a configuration names as module:function, and libraries that take seconds to load."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator

from fedsweep.errors import UserError


def function(key: str, name: str) -> Callable:
    """The function of one argument that the configuration's `key` names; raises UserError if there is none."""
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (
        ImportError,
        AttributeError,
        ValueError,
        TypeError,
    ) as error:  # the last: no module's name
        raise UserError(f"{key}={name}: {error}; name a function that can be imported") from error
    if not callable(found):
        raise UserError(f"{key}={name}: is no function; name one")
    with contextlib.suppress(ValueError):  # some of C's do not say what they take
        try:
            inspect.signature(found).bind(None)
        except TypeError as error:
            raise UserError(f"{key}={name}: {error}; it is called with one argument, a spec") from error
    return found


@contextlib.contextmanager
def quickly() -> Iterator[None]:
    """For the import of TensorFlow and TFF: nothing is collected as garbage within the block, and what it made is never
    looked at again. What modules define stays; looking through it again and again takes a quarter of the time to load.
    """
    if "tensorflow" in sys.modules:  # by now there may be garbage, which must not be kept
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # what cleans up when it is collected still does so
