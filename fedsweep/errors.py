"""The exception that is meant for people: one line that names the key or file and what would be right."""


class UserError(Exception):
    """Bad input or a bad surrounding (file, folder, server): shown as one line, exit status 1, no traceback."""
