"""Functional models: `build(name, image_shape, classes)` gives a `Model`, a pure function of its weights."""

from fedsweep.models.functional import Model
from fedsweep.models.image import BUILDERS

__all__ = ["Model", "build"]


def build(name: str, image_shape: tuple[int, int, int], classes: int) -> Model:
    """The model of that name for images of (height, width, channels)."""
    return BUILDERS[name](image_shape, classes)
