"""Functional models: `build(name, spec)` gives a `Model`, a pure function of its weights."""

import functools

from fedsweep.datasets import DataSpec
from fedsweep.models.functional import Model
from fedsweep.models.image import BUILDERS

__all__ = ["Model", "build"]


@functools.cache  # equal models are one object, so what is traced for one serves the next run in this process
def build(name: str, spec: DataSpec) -> Model:
    """The model of that name for the data's images and classes."""
    return BUILDERS[name](spec.image_shape, spec.classes)
