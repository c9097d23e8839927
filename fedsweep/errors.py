"""The exceptions that are meant for people: one line that names the key or file and what would be right."""

from pathlib import Path


class UserError(Exception):
    """Bad input or a bad surrounding (file, folder, server): shown as one line, no traceback."""

    exit_status = 1


class DamagedFile(UserError):
    """A file is not what was written, or not of the format that belongs there."""

    def __init__(self, path: object, what: str, right: str):
        """One line: the file, `what` is wrong with it, and what would be `right` (to write there, or to do)."""
        self.path, self.what, self.right = Path(str(path)), what, right
        super().__init__(f"{path}: {what}; {right}")

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.what, self.right)  # launchers pass errors between processes


class NotWritten(OSError):
    """A file could not be written: a full disk, say. Its `filename` is set. The run can go on when there is room."""


class SweepFailed(UserError):
    """Too many trials of a sweep failed, or it lost the means to run them."""

    exit_status = 2
