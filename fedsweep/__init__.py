"""fedsweep: how few bits can federated clients send before accuracy suffers?

`python -m fedsweep` trains once, `python -m fedsweep -m encoder.bits=2,4,8` sweeps, `python -m fedsweep.plan` counts
the bits of a configuration without training. Nothing heavy is imported here.
"""

from fedsweep import home

home.ensure()  # before any library is imported that looks for one
