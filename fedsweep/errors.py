"""The exceptions that are meant for people: one line that names the key or file and what would be right."""


class UserError(Exception):
    """Bad input or a bad surrounding (file, folder, server): shown as one line, no traceback."""

    exit_status = 1


class SweepFailed(UserError):
    """Too many trials of a sweep failed, or it lost the means to run them."""

    exit_status = 2
