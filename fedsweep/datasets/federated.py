"""A federated data set in memory: examples that belong to clients, and held-out sets that belong to none."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DataSpec:
    """What a model must fit; known without reading the data."""

    image_shape: tuple[int, int, int]  # height, width, channels
    classes: int


@dataclass(frozen=True)
class FederatedDataset:
    """Images by client.

    Pixels stay in the integer type of their source (a quarter of float32's memory) and are scaled to [0, 1] when a
    client or a test batch is read.
    """

    name: str
    spec: DataSpec
    client_ids: tuple[int, ...]
    members: tuple[np.ndarray, ...]  # per client: indices into images and labels
    images: np.ndarray  # uint8 [examples, height, width, channels]
    labels: np.ndarray  # int32 [examples]
    test_images: np.ndarray  # uint8 [test examples, height, width, channels]
    test_labels: np.ndarray  # int32 [test examples]
    validation_images: np.ndarray  # what is chosen by, so that the test set only reports; may be empty
    validation_labels: np.ndarray
    white: int  # the pixel value that becomes 1.0
    source: str  # where it was read from

    def client(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The client's images, float32 [n, height, width, channels] in [0, 1], and labels, int32 [n]."""
        rows = self.members[index]
        return self.scaled(self.images[rows]), self.labels[rows]

    def scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as float32 in [0, 1]."""
        return pixels.astype(np.float32) / np.float32(self.white)

    def digest(self) -> str:
        """SHA-256 over pixels, labels and who holds them: equal digests are equal data."""
        sha = hashlib.sha256()
        held_out = (self.test_images, self.test_labels, self.validation_images, self.validation_labels)
        for array in (self.images, self.labels, *held_out, *self.members):
            sha.update(np.ascontiguousarray(array))
        return sha.hexdigest()

    def summary(self) -> str:
        """One line for people: clients, examples a client, held-out examples."""
        validation = len(self.validation_labels)
        sizes = [len(rows) for rows in self.members]
        return (
            f"{self.name}: {len(sizes)} clients with {min(sizes)} to {max(sizes)} examples (median"
            f" {int(np.median(sizes))}), {len(self.test_labels)} test examples"
            + (f", {validation} validation examples" if validation else "")
        )
