"""How many cases the tests of this folder try.

FEDSWEEP_FUZZ_EXAMPLES is their number over the whole folder, a third of it for each file; without it each file tries
300, the same ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_VARIABLE, _FILES = "FEDSWEEP_FUZZ_EXAMPLES", 3
_CASES = int(os.environ.get(_VARIABLE, 300 * _FILES))


def tries(share: float) -> settings:
    """The settings of a test that tries this share of its file's cases."""
    return settings(
        max_examples=max(1, round(share * _CASES / _FILES)),
        derandomize=_VARIABLE not in os.environ,
        database=None,
        deadline=None,  # the machine may be busy
        suppress_health_check=list(HealthCheck),
    )
