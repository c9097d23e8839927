"""Functional models: `build(config.model, spec)` gives a `Model`, a pure function of its weights."""

import functools

from fedsweep import schema
from fedsweep.datasets import DataSpec
from fedsweep.models import image, text
from fedsweep.models.functional import Model

__all__ = ["Model", "build"]


def build(config: schema.Model, spec: DataSpec) -> Model:
    """The model that the configuration names, for data of this spec."""
    return _build(config.name, getattr(config, "maker", None), spec)


@functools.cache  # equal models are one object, so what is traced for one serves the next run in this process
def _build(name: str, maker: str | None, spec: DataSpec) -> Model:
    if maker is not None:
        from fedsweep.models import keras

        return keras.from_maker(maker, spec)
    return {**image.BUILDERS, **text.BUILDERS}[name](spec)
