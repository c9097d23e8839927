"""Downloads that can be cut off: what is half there is never taken for whole, and the next start goes on with it."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import lzma
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pooch
import requests
import tqdm

from fedsweep.errors import UserError

_CHUNK = 2**16  # bytes: at most so many are lost when a connection breaks off
_TIMEOUT = 60  # seconds without a byte


def checked_files(url: str, folder: Path, hashes: Mapping[str, str], what: str) -> None:
    """The files `url` + name into `folder`, each with a progress bar, and moved into place when it is whole.

    Args:
      hashes: name -> algorithm:sum; pooch downloads anew what is there and has another one.
      what: the files as people call them.

    Raises:
      UserError: a file cannot be downloaded or written, or what came is another one.
    """
    pooch.get_logger().setLevel("WARNING")
    for name, known in hashes.items():
        path = folder / name
        try:
            pooch.retrieve(url + name, known_hash=known, fname=name, path=folder, progressbar=True)
        except requests.RequestException as error:
            with contextlib.suppress(OSError):  # holds what came before
                folder.rmdir()
            raise UserError(
                f"{path}: absent, and it cannot be downloaded ({type(error).__name__}); put {what}"
                f" ({', '.join(hashes)}) there, or name their folder with dataset.dir or FEDSWEEP_DATA"
            ) from error
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
        except ValueError as error:  # pooch: the hash of what arrived differs; it has removed the file
            raise UserError(f"{path}: what {url} sent is not {what} ({error})") from error


def lzma_file(url: str, path: Path) -> None:
    """The file that `url` has compressed with LZMA, decompressed into `path`; nothing is done if it is there.

    A download that was cut off goes on where it stopped if the server can. What came is checked against the MD5 sum
    that the server announces (Google's storage does), and decompressing checks LZMA's own sums. Only then the file gets
    its name.

    Raises:
      UserError: the file is absent and cannot be downloaded, what came is damaged, or it cannot be written.
    """
    if path.is_file():
        return
    archive, draft = path.with_name(path.name + ".lzma.part"), path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(archive):
            if not path.is_file():
                announced = _fetch(url, archive)
                if announced and announced != _md5(archive):
                    archive.unlink()
                    raise UserError(f"{path}: what {url} sent is damaged (its MD5 sum is another one); start again")
                _decompress(archive, draft)
                draft.rename(path)
            archive.unlink(missing_ok=True)
    except requests.RequestException as error:
        raise UserError(
            f"{path}: absent, and it cannot be downloaded ({type(error).__name__} at {url}); put the decompressed file"
            " there, or name its folder with dataset.dir or FEDSWEEP_DATA"
        ) from error
    except (lzma.LZMAError, EOFError) as error:
        archive.unlink(missing_ok=True)
        raise UserError(f"{path}: what {url} sent is no whole LZMA file ({error}); start again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)
        if archive.exists() and not archive.stat().st_size:
            archive.unlink()


@contextlib.contextmanager
def _alone(archive: Path) -> Iterator[None]:
    """One process downloads; another one that wants the same file waits for it."""
    with archive.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"fedsweep: another process is downloading {archive}; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(url: str, archive: Path) -> bytes | None:
    """Appends to `archive` what it lacks; the MD5 sum of the whole file if the server announces it."""
    have = archive.stat().st_size if archive.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:  # it is all there
            return _announced(requests.head(url, timeout=_TIMEOUT))
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            have = 0  # the server starts at the beginning
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with (
            archive.open("ab" if have else "wb") as file,
            tqdm.tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=f"Downloading {archive.stem}") as bar,
        ):
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and archive.stat().st_size != total:
            raise requests.ConnectionError(f"{archive.stat().st_size} of {total} bytes came")
        return _announced(response)


def _announced(response: requests.Response) -> bytes | None:
    found = re.search(r"md5=([A-Za-z0-9+/=]+)", response.headers.get("x-goog-hash", ""))
    return base64.b64decode(found.group(1)) if found else None


def _md5(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").digest()


def _decompress(archive: Path, path: Path) -> None:
    """With a progress bar: Stack Overflow's file has gigabytes."""
    described = {"total": archive.stat().st_size, "desc": f"Decompressing {archive.stem}"}
    with (
        archive.open("rb") as packed,
        tqdm.tqdm.wrapattr(packed, "read", **described) as counted,
        lzma.open(counted) as content,
        path.open("wb") as file,
    ):
        shutil.copyfileobj(content, file, _CHUNK)
