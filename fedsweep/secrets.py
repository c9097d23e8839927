"""What a process was told in confidence is in nothing that leaves it.

Passwords and tokens come in with addresses (`tracker.uri`, `sweep.storage`, `--tracking-uri`, MLFLOW_TRACKING_URI),
with variables (MLFLOW_TRACKING_PASSWORD), and below keys that say so (`hydra.job.env_set={MY_TOKEN:...}`). `learn`
remembers them, and `masked` replaces exactly these strings, so they are found in other libraries' messages too:
percent-encoded, decoded, escaped, folded over two lines. Both streams of a process go through it (`guarded`);
configurations are masked value by value before they are written (`masked_tree`).

A secret of fewer than six characters, or one of the words that fedsweep's own output consists of (`_common`), would
mangle every text. It is masked only where it stands in an address (behind its user and before "@", or behind its key in
a query) and as the value of its key. One that is a word or a number is no part of a longer word or number. A path in a
variable that is named like a secret says where one lies; it is none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import html
import itertools
import json
import os
import re
import sys
import traceback
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from fedsweep.composing import parse
from fedsweep.errors import UserError

MASK = "***"
_SHORTEST = 6  # characters of a secret that is replaced wherever it stands
_LONE = 12  # characters of a user without a password that is taken for a token
_PHRASES = ("password", "passwd", "passphrase", "token", "secret", "credential", "authorization")
_KEYS = {"api", "access", "account", "secret", "private"}  # whose key or keys are secret
_ORDINARY_KEYS = {"sort", "group", "public", "primary", "foreign", "partition", "cache", "hot"}  # whose key is not
_COUNTED = {  # words beside "token" in names of numbers and kinds of tokens
    *("max", "min", "num", "n", "number", "count", "length", "len", "size", "limit", "per", "sequence", "type", "kind"),
}
_FILES = ("sqlite", "file")
_WEB = ("", "http", "https", "ftp", "ftps", "s3", "gs", "hdfs", "wasbs", "abfss", "databricks")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'`<>]+")
_KEY = re.compile(r"[\w+~./@-]+")  # of an override, or an option
# Names and values in texts such as "Server=h;AccountKey=...", "host=h password=..." and "{token: ...".
_BY_SEMICOLON = re.compile(r"((?:^|(?<=;))\s*([\w .-]+?)\s*=\s*)(\"[^\"]*\"|'[^']*'|[^;]+)")
_BY_BLANK = re.compile(r"((?:^|(?<=\s))([\w.-]+)\s*=\s*)(\"[^\"]*\"|'[^']*'|\S+)")
_BY_COLON = re.compile(r"([\"']?([\w.-]+)[\"']?\s*[:=]\s*)([\[{].*|\"[^\"]*\"|'[^']*'|[^,\[\]{}]+)", re.DOTALL)
_START = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])|(?<=\\u[0-9A-Fa-f]{4}))"  # of a word; escapes are no words
_FOLD = r"(?:\\?\r?\n[ \t]*\\?)?"  # YAML and terminals fold long values

_known: dict[str, str] = {}  # pattern -> what is written in the place of what it finds, the longest pattern first


def visible(address: str) -> str:
    """The address as people may see it: without user, password and the secret values of its query."""
    return _parsed(_assigned(address)) if address else address


def has_any() -> bool:
    """Whether this process knows a secret."""
    return bool(_known)


def learn(content: Any, name: str = "") -> None:
    """Remembers the secrets in `content`: a value, or lists and mappings of them. `name` is the key it belongs to.

    A string is read as an address, as an override (`tracker.uri=...`) or an option (`--tracking-uri=...`), and as lists
    and mappings in Hydra's grammar. All below a key that says that it is secret is.
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            learn(key)
            learn(value, _below(name, key))
    elif isinstance(content, list | tuple):
        for value in content:
            learn(value, name)
    elif isinstance(content, QuotedString):
        learn(content.text, name)
    elif isinstance(content, int | float) and not isinstance(content, bool):
        if _is_secret(name):
            _remember(str(content))
    elif isinstance(content, str) and content:
        _learn_text(content, name)


def _learn_text(content: str, name: str) -> None:
    if _is_secret(name) and not _is_path(content):
        _remember(content)
        _remember(content.strip("'\""))
        if (choices := _structure(content)) is not None:  # a sweep over secrets, too
            learn(choices, name)
    key, value = _override(content)
    if key:
        _assigned(content, remember=True)
        learn(value.strip("'\""), key)
    elif content[0] in "{[" and (parsed := _structure(content)) is not None:
        learn(parsed, name)
    else:
        _assigned(content, remember=True)
        _parsed(content, remember=True)


def masked(text: str) -> str:
    """The text without the secrets that this process knows, and without those of addresses in it."""
    if _known:
        replacements = list(_known.values())
        text = _pattern(tuple(_known)).sub(lambda found: replacements[found.lastindex - 1], text)
    return _ADDRESS.sub(lambda found: visible(found[0]), text) if "://" in text else text


def masked_tree(content: Any, name: str = "") -> Any:
    """The same lists and mappings with every string masked: what is to be written as YAML or JSON.

    Below a key that says that it is secret, numbers are masked, too; other numbers stay.
    """
    if isinstance(content, Mapping):
        return {
            masked_tree(key) if isinstance(key, str) else key: masked_tree(value, _below(name, key))
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [masked_tree(value, name) for value in content]
    if isinstance(content, QuotedString):
        return dataclasses.replace(content, text=masked_tree(content.text, name))
    if isinstance(content, int | float) and not isinstance(content, bool):
        return MASK if _is_secret(name) else content
    if not isinstance(content, str) or not content:
        return content
    if _is_secret(name):
        return MASK
    key, value = _override(content)
    if key:
        return f"{key}={masked_tree(value, key)}"
    if content[0] in "{[" and (parsed := _structure(content)) is not None:
        left = masked_tree(parsed)
        return masked(content) if left == parsed else Override._get_value_element_as_str(left)
    return masked(visible(content))


def learn_process() -> None:
    """Remembers what the command line and the environment hold."""
    for name, value in os.environ.items():
        if name in ("PWD", "OLDPWD"):  # the shell's folders
            continue
        if _is_secret(name) or "://" in value or name.endswith(("_URI", "_URL", "_DSN")):
            learn(value, name)
        else:
            _assigned(value, remember=True)
    learn(sys.argv[1:])


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Masks all that Python writes to stdout and stderr, other libraries' messages and tracebacks included."""
    learn_process()
    sys.excepthook = _print_masked  # stays: it is called when everything else has been left
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Masking(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def _print_masked(_, error: BaseException, trace: object) -> None:
    if sys.stderr:
        sys.stderr.write(masked("".join(traceback.format_exception(error))))


class _Masking:
    """A text stream that masks what is written to it."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(masked(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _override(text: str) -> tuple[str, str]:
    """Key and value of an override or an option; ("", text) for any other text."""
    key, equals, value = text.partition("=")
    return (key, value) if equals and _KEY.fullmatch(key) else ("", text)


@functools.lru_cache(64)
def _structure(text: str) -> Any:
    """The lists and mappings that a value in Hydra's grammar or JSON is, a sweep as a list; None: neither."""
    try:
        value = parse([f"x={text}"])[0]._value  # with its quotes
    except (UserError, HydraException):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return None
    value = value.list if isinstance(value, ChoiceSweep) else value
    return value if isinstance(value, dict | list) else None


def _below(name: str, key: object) -> str:
    """The name that a value below a key goes by: all below a secret one is secret."""
    return name if _is_secret(name) else str(key)


def _is_path(text: str) -> bool:
    """Whether a variable or key that is named like a secret says where one lies: `/run/secrets/x`, `~/.ssh/id`."""
    if re.match(r"~[\w.-]*/|/[\w.~-]+/|file:///", text):
        return True
    return "/" in text and os.path.exists(text)  # noqa: PTH110  Path raises where the text is too long for one


def _assigned(text: str, remember: bool = False) -> str:
    """The text with the values of names that say that they are secret masked; with `remember`, they are learnt."""

    def shown(found: re.Match[str]) -> str:
        before, name, value = found.groups()
        if not _is_secret(name.strip()) or MASK in value:
            return before + by.sub(shown, value) if value[0] in "[{" else found[0]
        if remember:
            _note(rf"(?<={re.escape(before.strip())}){_flexible(value)}(?![\w%+-])")
            for one in re.split(r"[\s,:'\"\[\]{}]+", value) if value[0] in "[{" else [value.strip("'\" ")]:
                _remember(one)
        return before + MASK

    by = _BY_COLON if text[:1] in ("{", "[") else _BY_SEMICOLON if ";" in text else _BY_BLANK
    return by.sub(shown, text) if "=" in text or by is _BY_COLON else text


def _parsed(address: str, remember: bool = False) -> str:
    """The address as people may see it; with `remember`, what is secret in it is learnt."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "", address
        if (":" not in rest.rpartition("@")[0] and "?" not in rest) or rest[0] in "/.~" or "\n" in rest:
            return address  # no address
    userinfo, left = _split(scheme.lower(), rest)
    if remember and userinfo:
        user, colon, password = userinfo.partition(":")
        host = "" if colon else re.split("[/?#]", left)[0]
        _note(f"{_flexible(urllib.parse.unquote(userinfo))}@{re.escape(host)}", f"{MASK}@{host}")
        if colon:
            _remember(urllib.parse.unquote(password), pieces=True)
        elif scheme.lower() in _WEB and len(user) >= _LONE:
            _remember(urllib.parse.unquote(user), pieces=True)
    place, question, query = left.partition("?") if "?" in left else left.partition("#")
    place = ";".join(_pair(pair, remember) for pair in place.split(";"))
    query = "&".join(_pair(pair, remember) for pair in query.split("&"))
    hidden = f"{MASK}@" if userinfo else ""
    return f"{scheme}{separator}{hidden}{place}{question}{query}"


def _split(scheme: str, rest: str) -> tuple[str, str]:
    """(user and password, what follows "@"), as a library's parser sees it; where none can, all before the last "@"."""
    if scheme in _FILES or "@" not in rest:
        return "", rest
    try:
        if scheme in _WEB:
            parts = urllib.parse.urlsplit(f"//{rest}")
            userinfo, _, host = parts.netloc.rpartition("@")
            valid = parts.port is None or parts.port >= 0  # asking raises for one that is no number
            whole = valid and "@" not in parts.path and rest.startswith(parts.netloc)
        else:
            from sqlalchemy.engine import make_url  # heavy

            url = make_url(f"{scheme}://{rest}")
            userinfo = rest.partition("@")[0] if url.username is not None else ""
            host = url.host or ""
            whole = "@" not in f"{host}{url.database}"
    except Exception:  # a port that is none (ValueError), SQLAlchemy's own errors
        whole = False
    if not whole:
        userinfo = rest.rpartition("@")[0]
    return userinfo, rest[len(userinfo) + 1 :] if userinfo else rest


def _pair(pair: str, remember: bool) -> str:
    """A key and value of a query, the value masked if the key says that it is secret."""
    key, equals, value = pair.partition("=")
    if not value or not _is_secret(urllib.parse.unquote(key), of_query=True):
        return pair
    if remember:
        decoded = urllib.parse.unquote_plus(value)
        _note(rf"(?<={re.escape(key)}=){_flexible(decoded)}(?![\w%+-])")
        _remember(decoded, pieces=True)
        _assigned(decoded, remember=True)  # odbc_connect
    return f"{key}{equals}{MASK}"


@functools.lru_cache(4096)
def _is_secret(name: str, of_query: bool = False) -> bool:
    """Whether a key or a variable of this name holds a secret; queries of addresses have some short names of their own.

    The name's words decide, in any position: SECRET_KEY_BASE, MYSQL_PASSWORD_1, SharedAccessKey, PGPASSWORD, tokens.
    """
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    words = [word for word in (part.strip("0123456789").lower() for part in re.split(r"[\W_]+", split)) if word]
    if not words:
        return False
    phrases = [phrase for phrase in _PHRASES for word in words if word.removesuffix("s").endswith(phrase)]
    if set(phrases) == {"token"}:
        return not _COUNTED & set(words)
    *before, last = words
    if phrases or last in ("pass", "pwd", "sas", "sig", "signature") or words == ["auth"]:
        return True
    if words == ["odbc", "connect"] or (of_query and last in ("code", "key", "auth")):
        return True
    if any(word in ("key", "keys") and above in _KEYS for above, word in itertools.pairwise(words)):
        return True
    if any(word.removesuffix("s").endswith(tuple(f"{above}key" for above in _KEYS)) for word in words):  # apikey
        return True
    return last == "key" and bool(before) and before[-1] not in _ORDINARY_KEYS


@functools.cache
def _common() -> set[str]:
    """The words that fedsweep's own output consists of, in lower case: groups, choices, keys, files, states."""
    from fedsweep import schema  # here: both import this module
    from fedsweep.tracking import run_folder

    names = {"fedsweep", "mlflow", "python", "sqlite", "postgres", "postgresql", "mysql", "localhost"}
    names |= {"multirun", "multirun_outputs", "figures", "provenance", "checkpoint", "trials", "workers", "accuracy"}
    names |= {*run_folder.STATUSES, *run_folder.FILES, *schema.GROUPS}
    classes = {schema.Config, schema.Sweep, schema.Tracker, run_folder.RoundRow}
    for choices in schema.GROUPS.values():
        names |= set(choices)
        classes |= set(choices.values())
    names |= {field.name for one in classes for field in dataclasses.fields(one)}
    for values in vars(schema).values():  # METRICS, CODES, ROTATIONS ...
        names |= {value for value in values if isinstance(value, str)} if isinstance(values, tuple) else set()
    return {word.lower() for name in names for word in (name, *re.split(r"[\W_]+", name))}


def _remember(secret: str, pieces: bool = False) -> None:
    """The secret; with `pieces` those of an address, too.

    Parsers that stumble over what is between them name one ("Invalid port: 'piece'"). Pieces that are a part of the
    current folder's path or the home folder's would make paths unreadable; they stay.
    """
    found = {secret}
    if pieces:
        found |= set(re.split(r"[\s/?#@:&;=]+", secret)) - {*Path.cwd().parts, *os.environ.get("HOME", "").split("/")}
    for one in found:
        long = len(one) >= _SHORTEST and (re.search(r"\w", one) or len(set(one.strip())) > 2)
        if long and one != MASK and one.lower() not in _common():
            _note(_alone(one))


def _alone(secret: str) -> str:
    """A pattern for the secret; one that is a word or a number is no part of a longer one: 314572 is not in 3145728."""
    pattern = _flexible(secret)
    if secret.isdecimal():
        return rf"(?<!\d\.){_START}{pattern}(?!\w|\.\d)"
    return rf"{_START}{pattern}(?!\w)" if re.fullmatch(r"\w+", secret) else pattern


def _note(pattern: str, replacement: str = MASK) -> None:
    """A password that begins with another one has to be found whole: the longest come first."""
    global _known
    _known = dict(sorted({**_known, pattern: replacement}.items(), key=lambda item: -len(item[0])))


@functools.lru_cache(1)
def _pattern(known: tuple[str, ...]) -> re.Pattern[str]:
    """One group for each."""
    return re.compile("|".join(f"({pattern})" for pattern in known))


def _flexible(secret: str) -> str:
    """A pattern for the secret as it is, percent-encoded, escaped in JSON, YAML, Python or HTML, or folded."""
    return _FOLD.join(map(_forms, secret))


def _forms(character: str) -> str:
    if character.isspace():
        return r"(?:\s+|\+|%20|%09|\\n|\\t)"
    if character.isascii() and character.isalnum():
        return character
    escaped = json.dumps(character)[1:-1]
    exact = {character, html.escape(character), html.escape(character, quote=False), escaped}
    exact |= {f"\\{character}", character * 2} if character == "'" else set()
    loose = {character.encode("unicode_escape").decode(), escaped}  # YAML has capitals in them, JSON has not
    loose.add("".join(f"%{byte:02x}" for byte in character.encode(errors="surrogateescape")))
    forms = [*map(re.escape, exact), *(f"(?i:{re.escape(form)})" for form in loose)]
    return f"(?:{'|'.join(sorted(forms, key=len, reverse=True))})"
