"""Faults, tried on real sweeps: kills, full disks, servers that go away. `python -m tests.crash` prints the table."""
