"""Functions that a configuration names as module:function."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from fedsweep.errors import UserError


def function(key: str, name: str) -> Callable:
    """The function that the configuration's `key` names; raises UserError if there is none."""
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
    return found
