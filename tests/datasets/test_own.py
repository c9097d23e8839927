"""A user's own data: IDX files and NumPy archives."""

from __future__ import annotations

import numpy as np
import pytest
from formats import write_idx

from fedsweep import datasets
from fedsweep.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.integers(0, 256, (60, 12, 12), dtype=np.uint8),
    "y_train": np.arange(60) % 3,
    "x_test": RNG.integers(0, 256, (12, 12, 12), dtype=np.uint8),
    "y_test": np.arange(12) % 3,
}


def arrays(config, path, *overrides, **changes):
    np.savez(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
    checked = config("dataset=arrays", f"dataset.file={path}", "dataset.clients=6", "clients_per_round=2", *overrides)
    return datasets.load(checked.dataset, 0)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_split_among_clients(config, tmp_path, suffix):
    names = {}
    for part in ("train", "test"):
        for kind, array in (("images", ARRAYS[f"x_{part}"]), ("labels", ARRAYS[f"y_{part}"].astype(np.uint8))):
            names[f"{part}_{kind}"] = tmp_path / f"{part}-{kind}{suffix}"
            write_idx(names[f"{part}_{kind}"], array)
    overrides = [f"dataset.{name}={path}" for name, path in names.items()]
    checked = config("dataset=idx", *overrides, "dataset.clients=6", "dataset.partition=iid", "clients_per_round=2")
    data = datasets.load(checked.dataset, 0)
    assert data.spec == datasets.spec(checked.dataset) == datasets.DataSpec((12, 12, 1), 3)
    assert data.sizes.tolist() == [10] * 6 and len(data.test) == 12
    images, labels = data.client(2)
    rows = data.members[2]
    assert np.allclose(images[..., 0], ARRAYS["x_train"][rows] / 255) and labels.tolist() == (rows % 3).tolist()
    names["test_labels"].unlink()
    datasets.own._idx_files.cache_clear()
    with pytest.raises(UserError, match=r"test-labels.*: cannot be read"):
        datasets.load(checked.dataset, 0)


def test_an_archive_without_clients_is_partitioned_and_its_floats_stay_as_they_are(config, tmp_path):
    floats = {name: ARRAYS[name] / 7 for name in ("x_train", "x_test")}
    data = arrays(config, tmp_path / "a.npz", "dataset.partition=shards", **floats)
    assert data.client(0)[0].dtype == np.float32 and np.allclose(
        data.client(0)[0][..., 0], floats["x_train"][data.members[0]]
    )
    assert data.test.clients is None and data.sizes.sum() == 60


def test_an_archive_can_say_whose_each_example_is(config, tmp_path):
    owners = {"client_train": np.array(["b", "a", "c"] * 20), "client_test": np.array([9, 5] * 6)}
    data = arrays(config, tmp_path / "a.npz", **owners)
    assert data.client_ids == ["a", "b", "c"] and data.client(0)[1].tolist() == [1] * 20
    assert data.test.clients.tolist() == [1, 0] * 6
    held = arrays(config, tmp_path / "b.npz", "dataset.validation_fraction=0.34", **owners)
    assert len(held.client_ids) == 2 and len(held.validation) == 20


def test_examples_are_held_out_where_clients_are_made(config, tmp_path):
    data = arrays(config, tmp_path / "a.npz", "dataset.validation_fraction=0.25")
    assert len(data.validation) == 15 and data.sizes.sum() == 45


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_test": None}, "has no y_test; the arrays x_train, y_train, x_test, y_test belong in it"),
        ({"x_train": np.zeros((60, 144), np.uint8)}, r"x_train is uint8 \[60, 144\] where images"),
        ({"x_train": np.full((60, 12, 12), np.nan)}, "x_train holds a NaN"),
        ({"y_train": np.zeros(60)}, r"y_train is float64 \[60\] where classes"),
        ({"y_train": np.arange(59)}, "59 labels for the 60 images"),
        ({"y_train": np.arange(60) - 1}, "class -1 where 0 or more belongs"),
        ({"y_train": np.arange(60) + 2**32}, "class 4294967355, above the number of examples"),
        ({"y_test": np.full(12, 2**63, np.uint64)}, "y_test has class 9223372036854775808, above"),
        ({"x_train": np.zeros((60, 0, 12), np.uint8)}, r"x_train is uint8 \[60, 0, 12\]: images without a pixel"),
        ({"client_train": np.full(60, np.nan)}, "client_train is float64 where names or whole numbers belong"),
        ({"x_test": np.zeros((12, 9, 9), np.uint8)}, "x_test has images of another size"),
        ({"x_test": np.zeros((0, 12, 12), np.uint8), "y_test": np.zeros(0, int)}, "holds no example"),
        ({"client_train": np.arange(3)}, r"client_train has shape \[3\] where \[60\] belongs"),
        ({"x_train": np.array([None] * 60)}, "not a whole npz file of plain arrays"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_named_with_the_reason(config, tmp_path, changes, says):
    with pytest.raises(UserError, match=rf"a\.npz: .*{says}|a\.npz: {says}") as refused:
        arrays(config, tmp_path / "a.npz", **changes)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more"], ids=["empty", "text", "broken"])
def test_a_file_that_is_no_archive_is_named(config, tmp_path, content):
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz: not a whole npz file"):
        datasets.load(config("dataset=arrays", f"dataset.file={path}").dataset, 0)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"mine\.npz: not a whole npz file"):
        datasets.load(config("dataset=arrays", f"dataset.file={path}").dataset, 0)
    path.unlink()
    with pytest.raises(UserError, match=r"mine\.npz: cannot be read \(No such file"):
        datasets.load(config("dataset=arrays", f"dataset.file={path}").dataset, 0)
