"""Sweeps: their record on disk (sweep.yaml, trials.csv), their parent run, and the table at the end."""

from fedsweep.sweep.record import Record, record_failure, write_trials
from fedsweep.sweep.session import on_record
from fedsweep.sweep.table import Row, show

__all__ = ["Record", "Row", "on_record", "record_failure", "show", "write_trials"]
