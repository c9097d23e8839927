"""`python -m fedsweep.clients`: what each client holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fedsweep import clients, datasets


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`command(*arguments)`: runs it in this process and an empty folder; what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        clients.main([*arguments])
        return capsys.readouterr().out

    return run


def test_table_and_csv_say_what_each_client_holds(command, config, tmp_path):
    shown = command("dataset=digits", "dataset.partition=shards", "dataset.clients=30", "seed=3", "--out", "who")
    data = datasets.load(config("dataset.partition=shards", "dataset.clients=30").dataset, seed=3)
    table = pd.read_csv(tmp_path / "who" / "clients.csv")
    assert table.examples.tolist() == data.sizes.tolist() and table.examples.sum() == 1438
    for k in (0, 29):
        counts = np.bincount(data.client(k)[1], minlength=10)
        assert table.filter(like="label_").loc[k].tolist() == counts.tolist()
        assert table.classes[k] == np.count_nonzero(counts)
        assert table.largest_share[k] == pytest.approx(counts.max() / counts.sum())
    assert "digits: 30 clients with" in shown and "median of 30" in shown
    assert shown.count("\n│") == 20 + 3  # the first clients, then quartiles
    assert (tmp_path / "who" / "clients.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "who" / "clients.pdf").read_bytes()[:4] == b"%PDF"


def test_text_has_sizes_and_no_labels(command, data_folder, tmp_path):
    command("dataset=tiny_shakespeare", f"dataset.dir={data_folder / 'tiny_shakespeare'}", "--out", "who")
    table = pd.read_csv(tmp_path / "who" / "clients.csv")
    assert list(table) == ["client", "examples"] and len(table) == 299


def test_labels_of_the_first_clients_alone_are_read_if_so_asked(command, tmp_path):
    command("dataset=digits", "--most", "4", "--out", "who")
    table = pd.read_csv(tmp_path / "who" / "clients.csv")
    assert table.classes.notna().sum() == 4 and len(table) == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dataset=digits", "--most", "0"], "--most 0: must be at least 1"),
        (["dataset=digits", "dataset.partition=none"], "dataset.partition=none: must be one of dirichlet, iid"),
        (["dataset=arrays", "dataset.file=mine.npz"], "mine.npz: cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(command, capsys, arguments, says):
    with pytest.raises(SystemExit):
        command(*arguments)
    error = capsys.readouterr().err
    assert error.startswith(f"fedsweep: {says}") and error.count("\n") == 1
