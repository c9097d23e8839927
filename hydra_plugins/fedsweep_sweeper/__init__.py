"""`hydra/sweeper=fedsweep`. Hydra imports all of `hydra_plugins` at start-up: these modules stay thin."""
