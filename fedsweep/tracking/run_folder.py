"""The files of a run: config.yaml, environment.json, rounds.csv and result.json, in the run's own folder."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fedsweep import schema
from fedsweep.errors import DamagedFile
from fedsweep.files import as_json, claim, clear_drafts, read_text, sha256, write_atomically, writing
from fedsweep.secrets import masked_tree

RESULT, ROUNDS = "result.json", "rounds.csv"
CHECKPOINTS = ("checkpoint.npz", "checkpoint.before.npz")  # the last one, and the one before it
FILES = (RESULT, "config.yaml", "environment.json", ROUNDS)
UNFINISHED = ("running", "interrupted")  # a run with any other status is over
STATUSES = ("complete", "failed", "diverged", "pruned", "duplicate", *UNFINISHED)


@dataclass(frozen=True)
class RoundRow:
    """A row of rounds.csv. Bits are summed over clients and cumulative since round 1."""

    round: int
    train_loss: float
    train_accuracy: float
    test_loss: float | None  # None in rounds without evaluation
    test_accuracy: float | None
    uplink_bits: int
    downlink_bits: int
    total_bits: int
    seconds: float  # wall time of the round, evaluation included
    uplink_width: float | None = None  # mean bits an element that a schedule chose; a column where there is a schedule
    validation_loss: float | None = None  # columns where there is a validation set
    validation_accuracy: float | None = None
    test_accuracy_p10: float | None = None  # quantiles over the clients of the test set; columns where it has some
    test_accuracy_p50: float | None = None
    test_accuracy_p90: float | None = None
    bad_updates: int | None = None  # of this round, dropped or counted as zero; a column where that was chosen

    @property
    def by_client(self) -> dict[str, float]:
        """The quantiles, of a round that has them."""
        found = {name: getattr(self, name) for name in CLIENT_QUANTILES}
        return {name: value for name, value in found.items() if value is not None}


CLIENT_QUANTILES = ("test_accuracy_p10", "test_accuracy_p50", "test_accuracy_p90")
AGAIN = "delete the run's folder and resume its sweep"  # what makes a damaged run's files right
_METRICS = (
    *("test_accuracy", "test_loss", "train_accuracy", "train_loss", "validation_accuracy", "validation_loss"),
    *CLIENT_QUANTILES,
)
_COUNTS = (
    "uplink_bits",
    "downlink_bits",
    "total_bits",
    "rounds",
    "evaluated_round",
    "client_memory_bytes",
    "dropped_updates",
)
_SEAL = '  "sha256": "'  # how the last line of result.json begins; the digest is of all the text before it


def read_rounds(path: Path) -> list[RoundRow]:
    """The rows of a rounds.csv, none if it is not there. A last line that a power cut left incomplete is no row.

    Raises:
      DamagedFile: something in it cannot have been written: the rounds are 1, 2, 3, ...; bits never become fewer.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    return parse_rounds(path, raw)


def parse_rounds(path: Path, raw: bytes) -> list[RoundRow]:
    """As `read_rounds`, of content that is read already."""
    whole = raw[: raw.rfind(b"\n") + 1]
    if not whole:
        return []
    try:
        header, *lines = csv.reader(io.StringIO(whole.decode()), strict=True)
        if len(set(header)) < len(header):
            raise ValueError("a column stands there twice")
        for column in (*header, *_REQUIRED):
            if column not in _KINDS:
                raise ValueError(f"rounds.csv has no column called {column!r}")
            if column not in header:
                raise ValueError(f"the column {column} is missing")
        rows: list[RoundRow] = []
        for cells in lines:
            if len(cells) != len(header):
                raise ValueError(f"line {len(rows) + 2} has {len(cells)} cells, its header {len(header)}")
            rows.append(RoundRow(**{key: _cell(key, text) for key, text in zip(header, cells, strict=True)}))
            _check_next(rows)
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        raise DamagedFile(path, f"cannot be read ({error})", AGAIN) from error
    return rows


_KINDS = {field.name: str(field.type) for field in dataclasses.fields(RoundRow)}
_REQUIRED = [field.name for field in dataclasses.fields(RoundRow) if field.default is dataclasses.MISSING]


def _cell(column: str, text: str) -> int | float | None:
    kind = _KINDS[column]
    if text == "" and "None" in kind:
        return None
    if not kind.startswith("int"):
        return float(text)
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{column} is {text!r}, where a whole number belongs")
    return int(text)


def _check_next(rows: Sequence[RoundRow]) -> None:
    """Whether the last row can follow the others."""
    row = rows[-1]
    if row.round != len(rows):
        raise ValueError(f"line {len(rows) + 1} is of round {row.round}, where round {len(rows)} belongs")
    if row.total_bits != row.uplink_bits + row.downlink_bits:
        raise ValueError(f"round {row.round}: total_bits is not uplink_bits + downlink_bits")
    if len(rows) > 1:
        last = rows[-2]
        if row.uplink_bits < last.uplink_bits or row.downlink_bits < last.downlink_bits:
            raise ValueError(f"round {row.round}: cumulative bits become fewer")


def read_result(folder: Path) -> dict | None:
    """The content of the folder's result.json; None if it is not there.

    An empty one, of a disk that was full, is of a run that has only begun.

    Raises:
      DamagedFile: it, or the rounds.csv of a run that is over, is not what was written.
    """
    path = folder / RESULT
    try:
        text = read_text(path, AGAIN)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not text:
        return {"status": "running"}
    body, seal, rest = text.rpartition(_SEAL)
    if seal and rest != f'{sha256(body.encode())}"\n}}\n':
        raise DamagedFile(path, "cannot be read (its sha256 says that it is not what was written)", AGAIN)
    try:
        result = json.loads(text)
        _check_result(result)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(path, f"cannot be read ({error})", AGAIN) from error
    result.pop("sha256", None)
    if (digest := result.pop("rounds_sha256", None)) is not None:
        _check_rounds(folder / ROUNDS, digest)
    elif result["status"] == "complete" and (folder / ROUNDS).exists():  # of an earlier version
        check_end(path, result, read_rounds(folder / ROUNDS))
    return result


def _check_result(result: object) -> None:
    """Raises ValueError for content that no run can have."""
    if not isinstance(result, dict):
        raise ValueError(f"a {type(result).__name__} where an object belongs")
    if result.get("status") not in STATUSES:
        raise ValueError(f"status is {result.get('status')!r}; it must be one of {', '.join(STATUSES)}")
    for key in _METRICS:
        value = result.get(key)
        if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
            raise ValueError(f"{key} is {value!r}, where a number belongs")
    for key in _COUNTS:
        value = result.get(key)
        if value is not None and (type(value) is not int or value < 0):
            raise ValueError(f"{key} is {value!r}, where a whole number belongs")
    for key, kind in {"plan": dict, "point": dict, "mlflow_run_id": str, "error": str, "duplicate_of": int}.items():
        if not isinstance(result.get(key), kind | None):
            raise ValueError(f"{key} is of type {type(result[key]).__name__}")


def _check_rounds(path: Path, digest: str) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedFile(path, "is not there, though its run is over", AGAIN) from None
    if sha256(content) != digest:
        raise DamagedFile(path, f"cannot be read ({RESULT} has the sha256 of another content)", AGAIN)


def check_end(path: Path, result: dict, rows: Sequence[RoundRow]) -> None:
    """A complete run's result is what its rounds end with."""
    if not rows or not result.get("plan"):
        raise DamagedFile(path, f"cannot be read (a complete run has {'rounds' if not rows else 'a plan'})", AGAIN)
    for row in rows:
        for key, value in vars(row).items():
            if value is not None and not math.isfinite(value):
                raise DamagedFile(path, f"cannot be read (round {row.round}: {key} is {value})", AGAIN)
    evaluated = [row.test_accuracy for row in rows if row.test_accuracy is not None]
    ends = {"rounds": rows[-1].round, "test_accuracy": evaluated[-1] if evaluated else None}
    ends |= {key: getattr(rows[-1], key) for key in ("uplink_bits", "downlink_bits", "total_bits")}
    for key, value in ends.items():
        if result.get(key) != value:
            raise DamagedFile(path, f"cannot be read ({key} is {result.get(key)}, rounds.csv ends at {value})", AGAIN)


def trusted_result(folder: Path, dry: bool = False, config: schema.Config | None = None) -> dict | None:
    """As `read_result`; but what is damaged is no result: it is said and, unless `dry`, set aside.

    Nor is that of another configuration than `config` (folders were exchanged, say).
    """
    try:
        result = read_result(folder)
        if config and result and result.get("configuration", own := schema.digest(config)) != own:
            raise DamagedFile(folder / RESULT, "is the result of another configuration", AGAIN)
        return result
    except DamagedFile as error:
        names = [name for name in dict.fromkeys([error.path.name, RESULT]) if (folder / name).exists()]
        if not dry:
            for name in names:
                with writing(folder / name):
                    (folder / name).replace(folder / f"{name}.damaged")
        kept = "would be" if dry else f"kept as {' and '.join(f'{name}.damaged' for name in names)}, and the run is"
        print(f"{error.path}: {error.what}; {'the run ' if dry else ''}{kept} made again", flush=True)
        return None


def write_result(folder: Path, result: dict) -> None:
    """Writes result.json with digests of itself and, of a run that is over, of rounds.csv, which then stays as it is.

    Raises:
      NotWritten: the disk is full, say.
    """
    path = folder / ROUNDS
    if is_over(result) and path.exists():
        result = {**result, "rounds_sha256": sha256(path.read_bytes())}
    body = as_json(result).removesuffix("\n}\n") + ",\n"
    write_atomically(folder / RESULT, f'{body}{_SEAL}{sha256(body.encode())}"\n}}\n')
    if is_over(result):
        _remove_checkpoints(folder)


def _remove_checkpoints(folder: Path) -> None:
    for name in CHECKPOINTS:
        (folder / name).unlink(missing_ok=True)


def note_run_id(folder: Path, run_id: str) -> None:
    """Says in result.json which run of MLflow's this is. The file keeps its time, which is that of the run's end."""
    path = folder / RESULT
    times = path.stat()
    write_result(folder, {**read_result(folder), "mlflow_run_id": run_id})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def is_over(result: dict | None) -> bool:
    """Whether a run with this result.json (None: it has none) will never be gone on with."""
    return result is not None and result["status"] not in UNFINISHED


class RunFolder:
    """Writes one run's files; a context manager. rounds.csv grows by a whole line at the end of every round.

    With `go_on` the folder may hold a run of the same configuration that was cut off; `keep` says what of it counts.
    What cannot be written (the disk is full, say) raises `NotWritten`.
    """

    def __init__(
        self, folder: Path, config: schema.Config, environment: dict, columns: Sequence[str], go_on: bool = False
    ):
        """`columns`: those of rounds.csv, names of fields of `RoundRow`."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.path, self.checkpoints = folder, [folder / name for name in CHECKPOINTS]
        self._rounds, self._columns = folder / ROUNDS, list(columns)
        self._config = schema.digest(config).encode()
        if go_on:
            clear_drafts(folder)
        write = write_atomically if go_on else claim
        if not (go_on and (folder / RESULT).exists()):  # it may know the tracker's run
            write(folder / RESULT, as_json({"status": "running"}))
        write(folder / "config.yaml", yaml.safe_dump(masked_tree(dataclasses.asdict(config)), sort_keys=False))
        write(folder / "environment.json", as_json(environment))
        if not (go_on and self._rounds.exists()):
            write(self._rounds, self._line(self._columns))
        self._open()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _open(self) -> None:
        with writing(self._rounds):
            self._file = self._rounds.open("ab", buffering=0)  # no rest of a failed write is left to be written later
            self._history = hashlib.sha256(self._config + self._rounds.read_bytes())

    @property
    def history(self) -> str:
        """A digest of all that a state after the last round depends on: the configuration, the rounds so far."""
        return self._history.hexdigest()

    def rows(self, count: int, history: str) -> list[RoundRow]:
        """The first `count` rounds that are there.

        Raises:
          DamagedFile: they are not those that had this `history`.
        """
        raw = self._first(count)
        if hashlib.sha256(self._config + raw).hexdigest() != history or not raw.startswith(
            self._line(self._columns).encode()
        ):
            raise DamagedFile(self._rounds, f"rounds 1 to {count} are not those that were written", AGAIN)
        return parse_rounds(self._rounds, raw)

    def _first(self, count: int) -> bytes:
        """The header and so many lines, as they are in the file."""
        return b"".join(self._rounds.read_bytes().splitlines(keepends=True)[: count + 1])

    def keep(self, count: int) -> None:
        """Makes so many rounds, the first of those that are there, the only ones."""
        self._file.close()
        write_atomically(self._rounds, self._first(count) if count else self._line(self._columns))
        self._open()

    def log_round(self, row: RoundRow) -> None:
        line = self._line([getattr(row, column) for column in self._columns]).encode()
        self._history.update(line)
        with writing(self._rounds):
            while line:
                line = line[self._file.write(line) :]

    @staticmethod
    def _line(cells: Sequence) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue()

    def sync(self) -> None:
        """Returns when the rounds so far would survive a power cut."""
        with writing(self._rounds):
            os.fsync(self._file.fileno())

    def write_result(self, result: dict) -> None:
        write_result(self.path, result)


_CONFIG = {"seed": int, "encoder": dict, "dataset": dict, "tracker": dict}


def read_config(folder: Path, needed: Sequence[str] = tuple(_CONFIG)) -> dict:
    """The configuration in a run's config.yaml.

    Raises:
      DamagedFile: it is not there, is no configuration, or lacks one of the keys that are `needed`.
    """
    kinds = {key: _CONFIG[key] for key in needed}
    return _read_mapping(folder / "config.yaml", lambda text: yaml.load(text, yaml.CSafeLoader), kinds)


def read_environment(folder: Path) -> dict:
    """The content of a run's environment.json. Raises `DamagedFile` if it is not there, or is not what a run writes."""
    path = folder / "environment.json"
    content = _read_mapping(path, json.loads, {"command": list, "git_commit": (str, type(None)), "data": dict})
    texts = [*content["command"], *(content["data"].get(key) for key in ("description", "source", "sha256"))]
    if not all(isinstance(text, str) for text in texts):
        raise DamagedFile(path, "cannot be read (command and data must hold texts)", AGAIN)
    return content


def _read_mapping(path: Path, parse: Callable[[str], object], kinds: Mapping[str, type | tuple[type, ...]]) -> dict:
    """What a file holds, parsed, with a value of the right kind for each key of `kinds`."""
    try:
        content = parse(read_text(path, AGAIN))
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where a mapping belongs")
        for key, kind in kinds.items():
            if key not in content:
                raise ValueError(f"{key} is missing")
            if not isinstance(content[key], kind):
                raise ValueError(f"{key} is of type {type(content[key]).__name__}")
    except FileNotFoundError:
        raise DamagedFile(path, "is not there", AGAIN) from None
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DamagedFile(path, f"cannot be read ({' '.join(str(error).split())})", AGAIN) from error
    return content
