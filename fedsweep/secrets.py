"""What a process was told in confidence is in nothing that leaves it.

Passwords and tokens come in with addresses (`tracker.uri`, `sweep.storage`, `--tracking-uri`, MLFLOW_TRACKING_URI) and
with variables (MLFLOW_TRACKING_PASSWORD). `learn` remembers them, and `masked` replaces exactly these strings, so they
are found in other libraries' messages too: percent-encoded, decoded, escaped, folded over two lines. Both streams of a
process go through it (`guarded`); configurations are masked value by value before they are written (`masked_tree`).

A secret of fewer than six characters, or one of the words that fedsweep's own output consists of, would mangle every
text. It is masked only where it stands in an address: behind its user and before "@", or behind its key in a query.
"""

from __future__ import annotations

import contextlib
import functools
import html
import json
import os
import re
import sys
import traceback
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

MASK = "***"
_SHORTEST = 6  # characters of a secret that is replaced wherever it stands
_LONE = 12  # characters of a user without a password that is taken for a token
_COMMON = {
    *("fedsweep", "mlflow", "python", "sqlite", "postgres", "postgresql", "mysql", "localhost"),
    *("encoder", "dataset", "tracker", "digits", "uniform", "complete", "failed"),
}
_SECRET = {
    *("password", "passwd", "passphrase", "pass", "pwd", "token", "secret", "key", "apikey", "accesskey"),
    *("credential", "credentials", "auth", "authorization", "signature", "sig"),
    "odbc_connect",  # a whole connection
}
_FILES = ("sqlite", "file")
_WEB = ("", "http", "https", "ftp", "ftps", "s3", "gs", "hdfs", "wasbs", "abfss", "databricks")
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s\"'`<>]+")
_KEY = re.compile(r"[\w+~./@-]+")  # of an override, or an option
_FOLD = r"(?:\\?\r?\n[ \t]*\\?)?"  # YAML and terminals fold long values

_known: dict[str, str] = {}  # pattern -> what is written in the place of what it finds, the longest pattern first


def visible(address: str) -> str:
    """The address as people may see it: without user, password and the secret values of its query."""
    return _parsed(address) if address else address


def has_any() -> bool:
    """Whether this process knows a secret."""
    return bool(_known)


def learn(content: Any, name: str = "") -> None:
    """Remembers the secrets in `content`: a string, or lists and mappings of them. `name` is the key it belongs to.

    A string is read as an address, and as an override (`tracker.uri=...`) or an option (`--tracking-uri=...`).
    """
    if isinstance(content, Mapping):
        for key, value in content.items():
            learn(value, str(key))
    elif isinstance(content, list | tuple):
        for value in content:
            learn(value)
    elif isinstance(content, str) and content:
        if _is_secret(name):
            _remember(content)
        key, value = _override(content)
        if key:
            learn(value.strip("'\""), key)
        else:
            _parsed(content, remember=True)


def masked(text: str) -> str:
    """The text without the secrets that this process knows, and without those of addresses in it."""
    if _known:
        replacements = list(_known.values())
        text = _pattern(tuple(_known)).sub(lambda found: replacements[found.lastindex - 1], text)
    return _ADDRESS.sub(lambda found: visible(found[0]), text) if "://" in text else text


def masked_tree(content: Any, name: str = "") -> Any:
    """The same lists and mappings with every string masked: what is to be written as YAML or JSON."""
    if isinstance(content, Mapping):
        return {key: masked_tree(value, str(key)) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [masked_tree(value) for value in content]
    if not isinstance(content, str):
        return content
    if content and _is_secret(name):
        return MASK
    key, value = _override(content)
    return f"{key}={masked_tree(value, key)}" if key else masked(visible(content))


def learn_process() -> None:
    """Remembers what the command line and the environment hold."""
    for name, value in os.environ.items():
        if name in ("PWD", "OLDPWD"):  # the shell's folders
            continue
        if _is_secret(name) or "://" in value or name.endswith(("_URI", "_URL")):
            learn(value, name)
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
            _remember(urllib.parse.unquote(password))
        elif scheme.lower() in _WEB and len(user) >= _LONE:
            _remember(urllib.parse.unquote(user))
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
    if not value or not _is_secret(urllib.parse.unquote(key)):
        return pair
    if remember:
        decoded = urllib.parse.unquote_plus(value)
        _note(rf"(?<={re.escape(key)}=){_flexible(decoded)}(?![\w%+-])")
        _remember(decoded)
    return f"{key}{equals}{MASK}"


def _is_secret(name: str) -> bool:
    """Whether a key or a variable of this name holds a secret."""
    last = re.split(r"[\W_]+", name.lower())[-1]
    return bool({last, name.lower()} & _SECRET) or last.endswith(("password", "token", "secret", "apikey"))


def _remember(secret: str) -> None:
    """The secret, and its pieces: parsers that stumble over what is between them name one ("Invalid port: 'piece'")."""
    for one in {secret, *re.split(r"[\s/?#@:&;=]+", secret)}:
        if len(one) >= _SHORTEST and one.lower() not in _COMMON and one != MASK:
            _note(_flexible(one))


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
