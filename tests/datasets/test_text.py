"""Text as sequences; plays by speaker."""

from __future__ import annotations

import gzip
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsweep import datasets
from fedsweep.datasets import text, tiny_shakespeare
from fedsweep.errors import UserError

PLAY = "ROMEO:\nO, speak again!\n\nJULIET:\nO Romeo, Romeo!\nWherefore?\n\nROMEO:\nShall I hear more?\n\nROMEO:\nAh.\n"


def load(config, folder, *overrides):
    checked = config("dataset=tiny_shakespeare", "model=char_lstm", f"dataset.dir={folder}", *overrides)
    return datasets.load(checked.dataset, 0)


def spoken(tokens):
    """The characters among the tokens."""
    return "".join(text._CHARACTERS[token - 1] for token in tokens if 1 <= token <= len(text._CHARACTERS))


@given(st.lists(st.lists(st.integers(1, 9), min_size=2, max_size=30), max_size=5), st.integers(1, 8))
def test_every_token_but_the_first_is_a_label_once_and_follows_its_input(pieces, length):
    inputs, labels = text.sequences([np.array(piece, np.int32) for piece in pieces], length)
    assert inputs.shape == labels.shape and inputs.shape[1] == length
    assert labels[labels != 0].tolist() == [token for piece in pieces for token in piece[1:]]
    assert inputs[labels != 0].tolist() == [token for piece in pieces for token in piece[:-1]]
    assert not inputs[labels == 0].any()


def test_a_vocabulary_numbers_padding_symbols_unknown_beginning_end():
    words = text.Vocabulary(["the", "king"])
    assert words.size == 6
    assert words.numbers(["the", "queen", "king"]).tolist() == [4, 1, 3, 2, 5]


def test_the_real_plays(config, data_folder):
    data = load(config, data_folder / "tiny_shakespeare")
    plays = gzip.decompress((data_folder / "tiny_shakespeare" / "input.txt.gz").read_bytes()).decode()
    speakers = set(re.findall(r"(?:^|\n\n)([^\n]+):\n(?=[^\n])", plays))  # some names have no speech behind them
    assert len(data.client_ids) == 299 and set(data.client_ids) == speakers
    every = np.concatenate([data.client(k)[1] for k in range(299)] + [data.test.labels])
    assert not (every == text.CHARACTERS.unknown).any()
    assert (
        0.9 * 1_115_394 < np.count_nonzero((every > 0) & (every <= 86)) < 1_115_394
    )  # names of speakers are no speech
    share = np.count_nonzero(data.test.labels) / np.count_nonzero(every)
    assert 0.1 < share < 0.3


@pytest.mark.parametrize("name", ["input.txt", "input.txt.gz"])
def test_a_speaker_is_a_client_and_his_last_speeches_are_the_test_set(config, tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(PLAY.encode()) if name.endswith("gz") else PLAY.encode())
    data = load(config, tmp_path, "dataset.test_fraction=0.3")
    assert data.client_ids == ["ROMEO", "JULIET"]
    assert spoken(data.client(0)[1].ravel()) == "O, speak again!Shall I hear more?"
    assert spoken(data.client(1)[1].ravel()) == "O Romeo, Romeo!\nWherefore?"  # her only one: she keeps it
    assert spoken(data.test.labels.ravel()) == "Ah." and data.test.clients.tolist() == [0]


def test_speakers_are_held_out_for_validation(config, tmp_path):
    (tmp_path / "input.txt").write_text(PLAY)
    data = load(config, tmp_path, "dataset.validation_fraction=0.5", "clients_per_round=1")
    assert len(data.client_ids) == 1 and len(data.validation) == (1 if data.client_ids == ["ROMEO"] else 2)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xfe", "not a text in UTF-8"),
        (b"no play at all", "no speech in it"),
        (b"A:\nHm.\n", "no speaker of"),
        (b"A:\nHm\0.\n", r"not a text \(it holds NUL bytes"),
        (gzip.compress(bytes(2**20)), "more than 1000000 bytes of text"),
        (gzip.compress(b"A:\nHm.\n")[:-3], "not a whole gzip file"),
    ],
    ids=["no text", "no play", "too little", "NULs", "a bomb", "cut off"],
)
def test_a_text_that_is_no_play_is_named_with_the_reason(config, tmp_path, content, says, monkeypatch):
    monkeypatch.setattr(tiny_shakespeare, "_LONGEST", 10**6)
    (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"{says}|input\.txt: {says}"):
        load(config, tmp_path)
