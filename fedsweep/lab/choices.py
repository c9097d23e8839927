"""What is measured: lists of Hydra overrides become checked configurations, and names that tell them apart."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from fedsweep import cli, composing, schema
from fedsweep.errors import UserError
from fedsweep.sweep import space as spaces

_MOST = 1000  # combinations: composing one takes about 0.1 s


@dataclass(frozen=True)
class Choice:
    """One encoder."""

    config: schema.Config
    overrides: tuple[str, ...]
    axis: str | None  # the swept key that its curve runs along
    argument: int  # the list of overrides that it comes from
    label: str = ""  # the encoder and those of its overrides in which choices differ
    curve: str = ""  # the label without the axis; choices of one argument with equal ones are one curve

    @property
    def encoder(self) -> str:
        return self.config.encoder.name


@contextlib.contextmanager
def composer() -> Iterator[Callable[[Sequence[str]], schema.Config]]:
    """Within the block: overrides -> the checked configuration."""
    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        yield lambda overrides: schema.check(hydra.compose("config", list(overrides)))


def read(arguments: Sequence[str]) -> tuple[list[Choice], list[str]]:
    """The encoders that `arguments` name, and a line for each combination that is refused.

    Args:
      arguments: lists of overrides, separated by spaces; a key may have several values. None: every encoder there is.

    Raises:
      UserError: nothing is left to measure, or an argument is no finite list of overrides.
    """
    chosen, refused = [], []
    with composer() as compose:
        for number, argument in enumerate(arguments or [every_encoder()]):
            space = _space(argument)
            axis = _axis(space)
            for point in space.points():
                overrides = tuple(space.arguments(point))
                try:
                    config = compose(["encoder.threshold=0", *overrides])
                except (UserError, HydraException, OmegaConfBaseException) as error:
                    refused.append(f"{' '.join(overrides)}: {cli.one_line(error)}")
                else:
                    chosen.append(Choice(config, overrides, axis, number))
    if not chosen:
        more = f" (nor can the {len(refused) - 1} others be measured)" if refused[1:] else ""
        raise UserError(refused[0] + more)
    return _named(chosen), refused


def every_encoder() -> str:
    """The list of overrides that stands for all encoders, with their defaults."""
    return "encoder=" + ",".join(sorted(path.stem for path in Path(cli.config_folder(), "encoder").glob("*.yaml")))


def _space(argument: str) -> spaces.Space:
    try:
        space = spaces.parse(composing.parse(argument.split(), GlobalHydra.instance().config_loader()))
    except OverrideParseException as error:
        raise UserError(f"{argument}: no list of overrides, {cli.one_line(error)}") from error
    if not space.size <= _MOST:
        raise UserError(f"{argument}: {space.size} combinations; list at most {_MOST}")
    return space


def _axis(space: spaces.Space) -> str | None:
    """The key with most values, if they are numbers: along it a curve runs, the others tell curves apart."""
    numeric = {
        key: dimension.count
        for key, dimension in space.dimensions.items()
        if dimension.count > 1 and all(_is_number(text) for text in dimension.values)
    }
    return max(numeric, key=numeric.get) if numeric else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _named(chosen: Sequence[Choice]) -> list[Choice]:
    """Labels leave out what is said of all choices."""
    common = set.intersection(*(set(choice.overrides) for choice in chosen)) if len(chosen) > 1 else set()

    def name(choice: Choice, without: str | None) -> str:
        said = [text for text in choice.overrides if text not in common and text.partition("=")[0] != "encoder"]
        shown = [text.removeprefix("encoder.") for text in said if text.partition("=")[0] != without]
        return " ".join([choice.encoder, *shown])

    return [
        dataclasses.replace(choice, label=name(choice, without=None), curve=name(choice, choice.axis))
        for choice in chosen
    ]
