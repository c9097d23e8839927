"""A home folder for users who have none, as in `docker run -u 54321`: no entry in passwd, and HOME unset or /."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path

from fedsweep.errors import UserError


def ensure() -> None:
    """Sets HOME to a temporary folder of this user where there is none, and says so once.

    Caches are not all that needs one: MLflow cannot be imported without, and Keras, matplotlib and TFF look for their
    files there. Processes that are started from here inherit it. The folder stays, so that caches serve later runs.

    Raises:
      SystemExit: with one line; no temporary folder can be written either.
    """
    if _is_there():
        return
    try:
        folder = Path(tempfile.gettempdir()) / f"fedsweep-{os.geteuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            folder = Path(tempfile.mkdtemp(prefix="fedsweep-"))  # graphs from the cache run: nobody else may write them
    except OSError as error:
        raise SystemExit(f"fedsweep: no home folder, and no temporary one ({error}); set HOME to a folder") from None
    os.environ["HOME"] = str(folder)
    print(f"fedsweep: there is no home folder; caches are in {folder} (HOME names another)", file=sys.stderr)


def expanded(key: str, path: str) -> Path:
    """The path with `~` and `~user` resolved; raises UserError, which names the key, for a user who has no home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{key}={path}: {path.partition('/')[0]} has no home folder; write the whole path") from None


def _is_there() -> bool:
    if not os.path.isabs(os.environ.get("HOME", "/")):  # noqa: PTH117 (Path has no such question for text)
        del os.environ["HOME"]  # empty or relative: would be looked for in the working folder
    home = os.path.expanduser("~")  # noqa: PTH111 (Path's raises where there is none)
    return home not in ("~", "/") or (home == "/" and os.access(home, os.W_OK))
