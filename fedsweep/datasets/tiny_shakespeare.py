"""Plays of Shakespeare as one plain text of speeches; a speaker is a client for next-character prediction.

The text is the one of github.com/karpathy/char-rnn (the text itself is in the public domain): blocks of a line
`SPEAKER:` and the lines that are spoken, with an empty line between them.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
from pathlib import Path

import numpy as np
import platformdirs

from fedsweep import schema, seeds
from fedsweep.datasets import reading, text
from fedsweep.datasets.federated import DataSpec, Examples, InMemory
from fedsweep.datasets.folders import place
from fedsweep.errors import DamagedFile, UserError

_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
_HASH = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_NAMES = ("input.txt", "input.txt.gz")
_LONGEST = 2**28  # bytes of text that are read: the plays have 2**20, and a small archive can unfold to anything


def spec(config: schema.TinyShakespeareData) -> DataSpec:
    """Sequences of characters; Shakespeare's vocabulary."""
    return DataSpec((config.sequence_length,), text.CHARACTERS.size, text=True)


def load(config: schema.TinyShakespeareData, seed: int) -> InMemory:
    """Speeches by speaker. The last `test_fraction` of each speaker's are the test set, as far as he keeps one to train
    with; the speakers of a validation set are drawn from `seed`."""
    path = _find(config)
    speeches = _speeches(path)
    train, test = {}, {}
    for speaker, spoken in speeches.items():
        held_out = min(round(config.test_fraction * len(spoken)), len(spoken) - 1)
        train[speaker], test[speaker] = spoken[: len(spoken) - held_out], spoken[len(spoken) - held_out :]
    examples, members = _examples(train, config.sequence_length)
    tested, _ = _examples({speaker: spoken for speaker, spoken in test.items() if spoken}, config.sequence_length)
    if not len(tested):
        raise UserError(
            f"dataset.test_fraction={config.test_fraction}: no speaker of {path} has enough speeches for it"
        )
    everybody = InMemory(
        examples,
        members,
        name=config.name,
        spec=spec(config),
        client_ids=list(train),
        test=tested,
        validation=examples.rows(slice(0)),
        source=str(path),
    )
    return everybody.hold_out(config.validation_fraction, seeds.generator(seed, seeds.Stream.SPLIT))


def _examples(speeches: dict[str, list[str]], length: int) -> tuple[Examples, list[np.ndarray]]:
    """All sequences, and the rows of each speaker."""
    cut = [
        text.sequences([text.CHARACTERS.numbers(speech) for speech in spoken], length) for spoken in speeches.values()
    ]
    sizes = [len(labels) for _, labels in cut]
    owners = np.repeat(np.arange(len(cut), dtype=np.int32), sizes)
    inputs, labels = (np.concatenate([pair[k] for pair in cut] or [np.zeros([0, length], np.int32)]) for k in (0, 1))
    return Examples(inputs, labels, owners), np.split(np.arange(len(owners)), np.cumsum(sizes)[:-1])


def _speeches(path: Path) -> dict[str, list[str]]:
    """Speaker -> what he says, in the order of the text."""
    with reading.opened(path, "a whole gzip file", "fetch it again") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if path.suffix == ".gz" and not zipped:
            raise DamagedFile(path, "not a gzip file though its name says so", f"name a plain text {_NAMES[0]}")
        with gzip.open(file) if zipped else contextlib.nullcontext(file) as unzipped:
            raw = unzipped.read(_LONGEST + 1)
    if len(raw) > _LONGEST:
        raise DamagedFile(path, f"more than {_LONGEST} bytes of text", "a play belongs there")
    try:
        content = raw.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(path, f"not a text in UTF-8 ({error})", "save it as one") from error
    if "\0" in content:
        raise DamagedFile(path, "not a text (it holds NUL bytes)", "fetch it again")
    found: dict[str, list[str]] = collections.defaultdict(list)
    for block in content.split("\n\n"):
        speaker, colon, spoken = block.strip("\n").partition(":\n")
        if colon and "\n" not in speaker and spoken:
            found[speaker].append(spoken)
    if not found:
        right = "blocks of a line SPEAKER: and of what is spoken belong there"
        raise DamagedFile(path, "no speech in it", right)
    return dict(found)


def _find(config: schema.TinyShakespeareData) -> Path:
    """The text, downloaded if it is not there."""
    folder, _ = place(config.name, config.dir, platformdirs.user_cache_path("fedsweep") / config.name)
    for name in _NAMES:
        if (folder / name).is_file():
            return folder / name
    from fedsweep.datasets import download  # with pooch and requests, which nobody needs whose files are there

    download.checked_files(_URL, folder, {_NAMES[0]: _HASH}, "the text")
    return folder / _NAMES[0]
