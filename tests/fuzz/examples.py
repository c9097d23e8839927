"""How many cases the tests of this folder try.

FEDSWEEP_FUZZ_EXAMPLES is their number over the whole folder; without it they are 900, the same ones each time. A case
of overrides takes half a second, one of a file a few milliseconds, so most cases are of files.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_VARIABLE = "FEDSWEEP_FUZZ_EXAMPLES"
_CASES = int(os.environ.get(_VARIABLE, 900))
OVERRIDES, DATA_FILES, SWEEP_FILES = 0.1, 0.45, 0.45  # of all cases


def tries(share: float) -> settings:
    """The settings of a test that tries this share of all cases."""
    return settings(
        max_examples=max(1, round(share * _CASES)),
        derandomize=_VARIABLE not in os.environ,
        database=None,
        deadline=None,  # the machine may be busy
        suppress_health_check=list(HealthCheck),
    )
