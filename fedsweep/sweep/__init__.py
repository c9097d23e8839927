"""Sweeps: the space (`space`), its trials in order (`engine`, `study`), who runs them (`workers`), files (`record`).

`session.run` is a sweep from start to end; `job` is what a process does with one run.
"""
