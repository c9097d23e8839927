"""Functional models: `build(name, spec)` gives a `Model`, a pure function of its weights."""

from fedsweep.datasets import DataSpec
from fedsweep.models.functional import Model
from fedsweep.models.image import BUILDERS

__all__ = ["Model", "build"]


def build(name: str, spec: DataSpec) -> Model:
    """The model of that name for the data's images and classes."""
    return BUILDERS[name](spec.image_shape, spec.classes)
