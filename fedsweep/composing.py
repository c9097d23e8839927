"""How Hydra composes a configuration here. All commands, and each trial of a sweep, go through `Loader`.

Hydra leaves several inputs to tracebacks, reads `${` in the name of a folder as an interpolation, applies what the
command line says before it knows what is swept, and makes objects of whatever `_target_` names. `Loader` mends the
first three and refuses the fourth.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import types
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra._internal.hydra
import hydra.utils
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from fedsweep.errors import UserError

ALLOWED = "FEDSWEEP_ALLOW_TARGETS"  # an environment variable: a configuration must not allow itself anything
_OWN_TARGETS = ("hydra._internal.core_plugins", "hydra.experimental.callbacks", "hydra_plugins")
# How Hydra says that an override does not fit what was composed; the group is the override's key.
_MISFIT = re.compile(
    r"Could not override '(.+?)'|Could not delete(?: from config\. (?:The value of )?)? ?'(.+?)'"
    r"|An item is already at '(.+?)'|Error merging override \W*(.+?)="
)


class Loader(ConfigLoaderImpl):
    """Hydra's own loader, with the checks of this module."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The composed configuration.

        Of a sweep (MULTIRUN) it is the one that all trials start from, which may lack keys that only swept choices
        have: overrides of such keys are left to the trials.

        Raises:
          UserError: it cannot be composed, or names a `_target_` that is not allowed.
        """
        parsed = parse(overrides)
        self._check_choices(parsed)
        fitting = list(overrides)
        while True:
            try:
                config = self._load(config_name, fitting, run_mode, from_shell, validate_sweep_overrides)
                break
            except ConfigCompositionException as error:
                misfits = _misfits(error, parsed)
                left = [text for text in fitting if text not in misfits]
                if len(left) == len(fitting):
                    raise
                if run_mode != RunMode.MULTIRUN:
                    self._explain(error, config_name, left)
                    raise
                fitting = left
        if len(fitting) < len(overrides):
            config.hydra.overrides.task = [o.input_line for o in parsed if not o.is_hydra_override()]
        _take_any_folder(config)
        refuse_targets(config)
        return config

    def _load(self, *arguments) -> DictConfig:
        try:
            with _folder_as_text():
                return super().load_configuration(*arguments)
        except (TypeError, ValueError, AttributeError, KeyError, AssertionError, RecursionError) as error:
            # what Hydra does not expect of its input; our own code is not in here
            said = " ".join(arguments[1])[:100] or "the configuration"
            reason = " ".join([f"{type(error).__name__}:", *str(error).split()])
            raise UserError(f"{said}: Hydra cannot compose this ({reason})") from error

    def _check_choices(self, overrides: Sequence[Override]) -> None:
        """A group takes the name of a choice, or several in a list."""
        for override in overrides:
            value = override.value()
            if not isinstance(value, list) or not self.repository.group_exists(override.key_or_group):
                continue
            if not all(isinstance(name, str) for name in value):
                choices = ", ".join(self.get_group_options(override.key_or_group))
                raise UserError(f"{override.input_line}: names no choice; choose of {choices}")

    def _explain(self, error: Exception, config_name: str | None, fitting: list[str]) -> None:
        """Raises UserError if the error is that a key is not there: says which ones look like it."""
        if not (unknown := re.match(r"Could not override '(.+?)'", str(error))):
            return
        try:
            config = self._load(config_name, fitting, RunMode.RUN, True, False)
        except (HydraException, UserError):
            close = []
        else:
            keys = [key for key in _keys(config) if key != unknown[1]]  # of a group that is given keys, say
            close = difflib.get_close_matches(unknown[1], keys, n=2, cutoff=0.85)
        like = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"{unknown[1]}: no such key; {like}python -m fedsweep --cfg job shows them all") from error


def install() -> None:
    """From now on Hydra composes with `Loader` in this process; it has no way to be given one. For commands alone: a
    program that imports fedsweep keeps its own Hydra as it is."""
    hydra._internal.hydra.ConfigLoaderImpl = Loader


def parse(overrides: Sequence[str], loader: ConfigLoaderImpl | None = None) -> list[Override]:
    """The overrides as Hydra's grammar reads them; glob asks `loader` for choices. Raises UserError, HydraException."""
    if not __debug__ and (touchy := next((text for text in overrides if set("({") & set(text)), None)):
        raise UserError(
            f"{touchy}: cannot be read under python -O (PYTHONOPTIMIZE), which Hydra's parser does not bear"
        )
    try:
        return OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        text = " ".join(overrides)
        raise UserError(f"{text[:100]}: cannot be read: {' '.join(str(error).split())}") from error


def literal(text: str) -> str:
    """The text for OmegaConf, which reads `${` as an interpolation."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


@contextlib.contextmanager
def _folder_as_text() -> Iterator[None]:
    """Hydra's loader writes the working folder's name into the configuration as it is, `${` or no.

    It alone is told the name as OmegaConf needs it: what looks for files, hydra.searchpath say, needs the real one.
    """
    config_loader_impl.os = types.SimpleNamespace(environ=os.environ, getcwd=lambda: literal(str(Path.cwd())))
    try:
        yield
    finally:
        config_loader_impl.os = os


class _Folder(StringNode):
    """A folder's name that is set as it is."""

    def _set_value(self, value, flags=None):
        super()._set_value(literal(value) if isinstance(value, str) else value, flags)

    def __deepcopy__(self, memo):
        copied = _Folder()
        self._deepcopy_impl(copied, memo)
        return copied


def _take_any_folder(config: DictConfig) -> None:
    """Hydra sets the output folder when it makes it."""
    config.hydra.runtime.output_dir = _Folder("???")


def _misfits(error: Exception, overrides: Sequence[Override]) -> set[str]:
    """The overrides of the command line, but for Hydra's own, that the error is about."""
    found = _MISFIT.search(str(error))
    key = next(filter(None, found.groups()), None) if found else None
    return {o.input_line for o in overrides if key in (o.key_or_group, o.get_key_element())} - {
        o.input_line for o in overrides if o.is_hydra_override()
    }


def _keys(config: DictConfig, above: str = "") -> Iterator[str]:
    for key, value in config.items_ex(resolve=False):
        yield f"{above}{key}"
        if isinstance(value, DictConfig) and not (value._is_none() or value._is_missing() or value._is_interpolation()):
            yield from _keys(value, f"{above}{key}.")


def refuse_targets(config: DictConfig) -> None:
    """Refuses each `_target_` that is neither Hydra's own, nor an installed plugin of Hydra's, nor allowed by the user.

    Hydra calls what hydra.launcher, hydra.sweeper and hydra.callbacks name, with arguments of the configuration.
    """
    for key, target in _targets(config, "", Allowance()):
        _check_target(key, target)
    for part in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{part}", OmegaConf.to_container(config.hydra[part], resolve=False))
    for part, kind in (("launcher", Launcher), ("sweeper", Sweeper)):
        plugin = OmegaConf.select(config, f"hydra.{part}._target_")
        known = sorted(f"{c.__module__}.{c.__qualname__}" for c in Plugins.instance().discover(kind))
        if plugin not in known:
            raise UserError(
                f"hydra.{part}._target_={plugin}: is no {part} that is installed; hydra/{part}=... names one"
            )


def _check_logging(key: str, node: object) -> None:
    """Refuses what `logging.config`, which gets these sections, would call beside the handlers of `logging` itself."""
    if isinstance(node, str) and node.startswith(("ext://", "cfg://")) and node not in _STREAMS:
        raise UserError(f"{key}={node}: names an object; of these {', '.join(_STREAMS)} are possible")
    if isinstance(node, list):
        for place, value in enumerate(node):
            _check_logging(f"{key}.{place}", value)
    if not isinstance(node, dict):
        return
    for name, value in node.items():
        known = isinstance(value, str) and re.fullmatch(r"logging\.(handlers\.)?\w+", value)
        if name == "()" or (name == "class" and not known):
            _check_target(f"{key}.{name}", value)
        _check_logging(f"{key}.{name}", value)


_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")


class Allowance:
    """How many values a configuration may have, its interpolations resolved: more is one that multiplies itself."""

    _MOST = 100_000

    def __init__(self):
        self._left = self._MOST

    def spend(self, above: str) -> None:
        """One value below this key; raises `UserError` if it is one too many."""
        self._left -= 1
        if self._left < 0:
            raise UserError(f"{above[:100]}: its interpolations make more than {self._MOST:,} values; write fewer")


def _targets(node: object, above: str, allowance: Allowance) -> Iterator[tuple[str, object]]:
    """(key, value) of each `_target_`, as an interpolation's value where there is one."""
    allowance.spend(above)
    if isinstance(node, DictConfig) and not (node._is_none() or node._is_missing()):
        items = [(f"{above}{key}", key) for key in node]
    elif isinstance(node, ListConfig) and not (node._is_none() or node._is_missing()):
        items = [(f"{above}{place}", place) for place in range(len(node))]
    else:
        return
    for path, key in items:
        try:
            value = None if OmegaConf.is_missing(node, key) else node[key]
        except OmegaConfBaseException as error:
            if key == "_target_":
                raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
            continue  # what cannot be read now is none that Hydra can call now
        if key == "_target_" and value is not None:
            yield path, value
        yield from _targets(value, f"{path}.", allowance)


def _defines(name: str, target: str) -> bool:
    """Whether what `target` names is the allowed package's own, and not what one of its modules has imported: of
    Hydra's own plugins the very package's, of what the user allows anything of that distribution, or just that."""
    try:
        found = hydra.utils.get_object(target)
    except Exception:  # an import may fail in any way; Hydra says which one when it needs the object
        return True
    home = str(getattr(found, "__module__", ""))
    if name in _OWN_TARGETS:
        return f"{home}.".startswith(f"{name}.")
    return target == name or home.partition(".")[0] == name.partition(".")[0]


def _check_target(key: str, target: object) -> None:
    allowed = [*_OWN_TARGETS, *filter(None, map(str.strip, os.environ.get(ALLOWED, "").split(",")))]
    name = next((name for name in allowed if target == name or str(target).startswith(f"{name}.")), None)
    if name is None or not _defines(name, str(target)):
        raise UserError(
            f"{key}={target}: a configuration may call only Hydra's own plugins; to allow it, name it or its package"
            f" in the environment variable {ALLOWED}"
        )
