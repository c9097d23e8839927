"""What is secret in an address, and how it is found again in texts of others."""

from __future__ import annotations

import dataclasses
import html
import json
import stat
import sys
import urllib.parse
from collections.abc import Iterator

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from fedsweep import cli, files, schema, secrets
from fedsweep.errors import UserError


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(secrets, "_known", {})


PLANTED = "hunter2secret"
ADDRESSES = {
    "http://me:{}@127.0.0.1:9/path": "http://***@127.0.0.1:9/path",
    "https://{}@host": "https://***@host",
    "http://:{}@host": "http://***@host",
    "http://me:{} with blanks@host": "http://***@host",
    "http://me:{}/with?all#of@them@host": "http://***@host",
    "me:{}@host:5000": "***@host:5000",
    "http://host/?token={}&page=2": "http://host/?token=***&page=2",
    "http://host/#access_token={}": "http://host/#access_token=***",
    "ftp://me:{}@host": "ftp://***@host",
    "postgresql://me:{}@host/db": "postgresql://***@host/db",
    "postgresql+psycopg2://me:{}%40b@host/db": "postgresql+psycopg2://***@host/db",
    "postgresql://me:{}/a@b#c@host/db": "postgresql://***@host/db",
    "postgresql://host/db?user=me&password={} b": "postgresql://host/db?user=me&password=***",
    "mysql://host/db?ssl_key={};b": "mysql://host/db?ssl_key=***",
    "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3D{}": "mssql+pyodbc:///?odbc_connect=***",
    "jdbc:sqlserver://host;user=me;password={}": "jdbc:sqlserver://host;user=me;password=***",
    "redis://:{}@host:6379/0": "redis://***@host:6379/0",
    "https://host/c?sas={}": "https://host/c?sas=***",
    "https://host/c?code={}": "https://host/c?code=***",
    "https://host/c?key={}": "https://host/c?key=***",
    "https://host/c?passwords={}": "https://host/c?passwords=***",
    "https://host/c?AccountKey={}&a=b": "https://host/c?AccountKey=***&a=b",
    "https://host/c?sharedaccesskey={}": "https://host/c?sharedaccesskey=***",
    "a=b;AccountName=me;AccountKey={};c=d": "a=b;AccountName=me;AccountKey=***;c=d",
    "host=h user=me password={} port=5": "host=h user=me password=*** port=5",
    "Server=h;User Password={};c=d": "Server=h;User Password=***;c=d",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_is_shown_without_what_is_secret(address):
    planted = address.format(PLANTED)
    assert secrets.visible(planted) == ADDRESSES[address]
    assert secrets.masked_tree({"uri": planted}) == {"uri": ADDRESSES[address]}
    assert secrets.masked_tree([f"tracker.uri={planted}"]) == [f"tracker.uri={ADDRESSES[address]}"]
    secrets.learn([f"tracker.uri='{planted}'"])
    for text in (f"cannot reach {planted} now", f"password {PLANTED} was refused", f"port could not be '{PLANTED}'"):
        assert PLANTED not in secrets.masked(text)


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////home/a@b/c?d.db",
        "http://host:5000/api?page=2",
        "file:///a@b/c",
        "my_module:my_function",
        "???",
        "a=b",
    ],
)
def test_what_holds_no_secret_stays_as_it_is(address):
    secrets.learn(address)
    assert secrets.visible(address) == address == secrets.masked(address)
    assert secrets.masked_tree({"rounds": 2, "x": [address, None, 1.5]}) == {"rounds": 2, "x": [address, None, 1.5]}
    assert not secrets.has_any()


def test_a_secret_is_found_however_it_is_written():
    secret = "pä@s'\"s w&r\\d"
    secrets.learn(f"http://me:{secret}@host")
    written = [
        *(secret, repr(secret), ascii(secret), json.dumps(secret), html.escape(secret)),
        *(urllib.parse.quote(secret), urllib.parse.quote(secret, safe="").lower(), urllib.parse.quote_plus(secret)),
        *(yaml.safe_dump({"uri": f"http://me:{secret}@host"}, width=width) for width in (5, 30, 1000)),
        yaml.safe_dump({"uri": secret}, allow_unicode=True, default_style="'"),
    ]
    for text in written:
        left = secrets.masked(f"before {text} after")
        assert "***" in left and "r\\d" not in left and "w&" not in left and left.startswith("before"), text


def test_short_and_common_secrets_are_masked_in_their_address_and_mangle_nothing():
    secrets.learn(
        ["tracker.uri=http://u:a@host", "sweep.storage=postgresql://host/db?password=ab", "http://m:fedsweep@h"]
    )
    text = "fedsweep: a bad accuracy, abc, u: a"
    assert secrets.masked(text) == text
    assert (
        secrets.masked("u:a@host said password=ab, not password=abc") == "***@host said password=***, not password=abc"
    )
    assert secrets.masked("see http://m:fedsweep@h/x") == "see http://***@h/x"


def test_empty_passwords_and_shells_folders_are_no_secrets(monkeypatch):
    monkeypatch.setenv("PWD", "/srv/somewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setattr(sys, "argv", ["fedsweep", "tracker.uri=http://me:@host"])
    secrets.learn_process()
    assert secrets.masked("in /srv/somewhere, me") == "in /srv/somewhere, me"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"])
def test_variables_hold_secrets_by_their_names(monkeypatch, name):
    monkeypatch.setenv(name, PLANTED)
    secrets.learn_process()
    assert secrets.masked(f"401 for {PLANTED}") == "401 for ***"
    assert secrets.masked_tree({"hydra": {"job": {"env_set": {name: "x"}}}})["hydra"]["job"]["env_set"] == {name: "***"}


def test_a_secret_with_control_characters_is_masked_before_they_are_escaped(monkeypatch):
    secret = "hunter2\x1e\xa0behind"
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", secret)
    secrets.learn_process()
    assert cli.one_line(UserError(f"401 for {secret}")) == "401 for ***"


def test_streams_and_tracebacks_are_masked(monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PLANTED}@host")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(ZeroDivisionError) as raised, cli.one_line_errors():
        print(f"View run at http://me:{PLANTED}@host/#/experiments/0")
        print(f"warning: {PLANTED}", file=sys.stderr)
        raise ZeroDivisionError(PLANTED)
    sys.excepthook(raised.type, raised.value, raised.tb)
    out, err = capsys.readouterr()
    assert "View run at http://***@host/#/experiments/0" in out
    assert "warning: ***" in err and "ZeroDivisionError: ***" in err and PLANTED not in out + err


def test_a_file_with_something_masked_in_it_is_its_owners_alone(tmp_path):
    for name, content, mode in (("a", "uri: http://***@host", 0o600), ("b", "uri: null", 0o644)):
        files.write_atomically(tmp_path / name, content)
        files.claim(tmp_path / f"{name}2", content)
        for path in (tmp_path / name, tmp_path / f"{name}2"):
            assert stat.S_IMODE(path.stat().st_mode) == mode


SECRET_NAMES = [
    *(
        "MLFLOW_TRACKING_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "SECRET_KEY_BASE",
        "MYSQL_PASSWORD_1",
        "DB_PASSWORD2",
        "PGPASSWORD",
    ),
    *("AccountKey", "SharedAccessKey", "accesskey", "API_KEYS", "apiKey", "OPENAI_KEY", "clientSecret", "OTHER_TOKENS"),
    *(
        "passwords",
        "credentials",
        "DB_PASS",
        "ssl_key",
        "BLOB_SAS",
        "token",
        "hf_tokens",
        "authorization",
        "MY_TOKEN_FILE",
    ),
]
ORDINARY_NAMES = [
    *(
        "MLFLOW_TRACKING_AUTH",
        "SSH_AUTH_SOCK",
        "PYTHONHASHSEED",
        "TOKENIZERS_PARALLELISM",
        "KEYBOARD_LAYOUT",
        "XDG_DATA_DIRS",
    ),
    *(
        "XDG_SESSION_ID",
        "HOME",
        "PATH",
        "sort_keys",
        "key",
        "keys",
        "primary_key",
        "max_tokens",
        "sequence_tokens",
        "code",
    ),
    *(
        "num_tokens",
        "tokens_per_batch",
        "token_count",
        "monkey",
        "keyword",
        "passes",
        "first_pass_rate",
        "author",
        "compass",
    ),
    *("encoder.maker", "dataset.file", "dataset.compass", "sweep.storage", "hydra.job.env_set", "", "0", "__"),
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_says_that_all_below_it_is_secret(name):
    content = {name: PLANTED, "a": {name: {"x": 12345678, "y": [PLANTED, 1.5]}}, "n": 12345678, "b": [{name: True}]}
    masked = {name: "***", "a": {name: {"x": "***", "y": ["***", "***"]}}, "n": 12345678, "b": [{name: True}]}
    assert secrets.masked_tree(content) == masked
    secrets.learn(content)
    assert secrets.masked(f"{PLANTED}, 12345678 or 1.5") == "***, *** or 1.5"


def test_ordinary_names_hold_no_secrets(config, monkeypatch):
    composed = dataclasses.asdict(config())
    content = {
        **dict.fromkeys(ORDINARY_NAMES, "an ordinary value"),
        **composed,
        "tracker": {"uri": "an/ordinary:value"},
    }
    secrets.learn(content)
    assert not secrets.has_any() and secrets.masked_tree(content) == content
    for name in filter(None, ORDINARY_NAMES):
        monkeypatch.setenv(name, "an ordinary value")
    secrets.learn_process()
    assert secrets.masked("an ordinary value") == "an ordinary value"


def test_no_key_of_hydra_or_of_a_choice_is_taken_for_a_secret():
    with hydra.initialize_config_dir(cli.config_folder(), version_base="1.3"):
        composed = OmegaConf.to_container(hydra.compose("config", return_hydra_config=True), resolve=False)
    classes = {schema.Config, schema.Sweep, schema.Tracker}.union(*(group.values() for group in schema.GROUPS.values()))
    names = {field.name for one in classes for field in dataclasses.fields(one)} | set(_keys(composed))
    assert "rounds" in names and "env_set" in names and [name for name in names if secrets._is_secret(name)] == []


def _keys(content: object) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, dict) else ():
        yield str(key)
        yield from _keys(value)


IN_GRAMMAR = {
    "+hydra.job.env_set={MY_TOKEN:hunter2secret,MY_PASSWORD:12345678,OTHER_TOKENS:[hunter3secret],A:b}":
        "+hydra.job.env_set={MY_TOKEN:***,MY_PASSWORD:***,OTHER_TOKENS:[***],A:b}",
    "+x={y:{a_b:1,credentials:{user:hunter2secret,n:12345678}},z:'it is, hunter3'}":
        "+x={y:{a_b:1,credentials:{user:***,n:***}},z:'it is, hunter3'}",
    "+x=[{token:'hunter2secret, hunter3secret'},12345678]": "+x=[{token:'***'},12345678]",
    "tracker={uri:'http://me:hunter2secret@host',mlflow:true}": "tracker={uri:'http://***@host',mlflow:True}",
    "+x={'http://me:hunter2secret@host':1}": "+x={'http://***@host':1}",
    "sweep.grids=[['tracker.uri=http://me:hunter2secret@host'],['rounds=2']]":
        "sweep.grids=[['tracker.uri=http://***@host'],['rounds=2']]",
    "+x.MY_TOKEN=hunter2secret,hunter3secret": "+x.MY_TOKEN=***",
    "+x.MY_TOKEN=choice(hunter2secret,hunter3secret)": "+x.MY_TOKEN=***",
    "+x={MY_TOKEN:hunter2secret,OTHER_TOKENS:[hunter3secret": "+x={MY_TOKEN:***,OTHER_TOKENS:***",  # no grammar's
    "+x={'a':{credentials:{'user':'hunter2secret','b':hunter3secret}},c:d}": "+x={'a':{credentials:***",
    '+x={"a":{"credentials":{"user":"hunter2secret"}},"c":"d"}': "+x={a:{credentials:{user:***}},c:d}",
}  # fmt: skip


@pytest.mark.parametrize("override", IN_GRAMMAR)
def test_lists_and_mappings_of_the_command_line_are_read_as_hydra_reads_them(override):
    assert secrets.masked_tree([override]) == [IN_GRAMMAR[override]]
    secrets.learn([override])
    assert secrets.masked("401 for hunter2secret") == "401 for ***"
    assert (secrets.masked("12345678") == "***") == ("12345678" not in IN_GRAMMAR[override] and "12345678" in override)
    assert (secrets.masked("hunter3secret") == "***") == ("hunter3secret" in override)


@pytest.mark.parametrize("override", ["sweep.grids=[['encoder=eden','encoder.bits=1,2']]", "+x={a: 1,  'b':[c,  d]}"])
def test_what_holds_no_secret_keeps_its_spelling(override):
    secrets.learn([override])
    assert secrets.masked_tree([override]) == [override] and not secrets.has_any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/tmp/a/projectx/service.json"),
        ("SSH_KEY", "/srv/projects/id"),
        ("SSH_KEY", "~/projects/id"),
        ("TOKEN_FILE", "file:///run/projects/id"),
    ],
)
def test_a_variable_that_holds_a_path_makes_no_path_unreadable(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    secrets.learn_process()
    for text in (value, "/tmp/a/projectx/d.npz", "/srv/projects/multirun_outputs"):
        assert secrets.masked(text) == text == secrets.masked_tree({"file": text})["file"]


def test_a_relative_path_is_one_if_it_is_there(monkeypatch, tmp_path):
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "service.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "keys/service.json")
    monkeypatch.setenv("MY_TOKEN", "/wJalrXUtn+FEMI")
    secrets.learn_process()
    assert secrets.masked("keys/service.json, /wJalrXUtn+FEMI") == "keys/service.json, ***"


def test_passwords_with_slashes_leave_paths_readable(monkeypatch, tmp_path):
    """Their pieces are secret only in addresses, where parsers name them; but for parts of the folder we are in."""
    (tmp_path / "projectx").mkdir()
    monkeypatch.chdir(tmp_path / "projectx")
    monkeypatch.setenv("MY_PASSWORD", "horse/multirun_outputs/battery")
    secrets.learn_process()
    secrets.learn("http://me:staple9/multirun_outputs/projectx/correct9@host")
    paths = f"{tmp_path}/projectx/multirun_outputs/battery"
    assert secrets.masked(paths) == paths
    assert (
        secrets.masked("horse/multirun_outputs/battery, port 'staple9', path 'correct9'")
        == "***, port '***', path '***'"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AZURE_STORAGE_CONNECTION_STRING", f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={PLANTED};a=b"),
        ("DATABASE_DSN", f"host=h password={PLANTED}"),
        ("DATABASE_DSN", f"host=h password='{PLANTED}' user=x"),
        ("DATABASE_URL", f"me:{PLANTED}@h"),
        ("JAVA_OPTS", f"-Xmx1g -Dtrust.password={PLANTED}"),
        ("GOOGLE_CREDENTIALS", f'{{"type": "a", "private_key": "{PLANTED}"}}'),
        ("SECRET_KEY_BASE", PLANTED),
        ("MYSQL_PASSWORD_1", PLANTED),
    ],
)
def test_variables_hold_secrets_by_what_is_in_them(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    secrets.learn_process()
    assert secrets.masked(f"401 for {PLANTED}, https") == "401 for ***, https"
    assert PLANTED not in str(secrets.masked_tree({"x": value, "y": [f"+a.x={value}"]})) or name[0] in "GSM"


ORDINARY_TEXT = (
    "encoder=hadamard status: running 3145728 314572.5 0.314572 1.314572 uplink_bits 3145728\n          a  ------- x"
)


@pytest.mark.parametrize(
    "secret", ["hadamard", "running", "uplink", "uplink_bits", "314572", " " * 8, "------", "Status"]
)
def test_words_of_our_own_numbers_and_blanks_mangle_nothing(monkeypatch, secret):
    monkeypatch.setenv("DB_PASSWORD", secret)
    secrets.learn_process()
    assert secrets.masked(ORDINARY_TEXT) == ORDINARY_TEXT
    assert secrets.masked_tree({"db_password": secret, "x": f"http://me:{secret.strip() or 'p'}@h"}) == {
        "db_password": "***", "x": "http://***@h",
    }  # fmt: skip
    assert secrets.masked_tree(["n=314572", 314572, 3145728])[1:] == [314572, 3145728]


@pytest.mark.parametrize("text", ["'{}'", "%40{}%20", "\\n{}", "\\u0022{}\\u0022", "={};", "/{}/", "-{}.", "{}"])
def test_a_word_is_found_where_no_letter_or_digit_is_beside_it(text):
    secrets.learn({"password": PLANTED})
    assert secrets.masked(text.format(PLANTED)) == text.format("***")
    assert secrets.masked(f"my{PLANTED} {PLANTED}s") == f"my{PLANTED} {PLANTED}s"


def test_the_common_words_are_those_of_the_schema():
    assert {
        "hadamard",
        "fedavg",
        "uplink_bits",
        "uplink",
        "encoder",
        "complete",
        "digits",
        "config.yaml",
    } <= secrets._common()
    assert not {"hunter2secret", "correct", "password"} & secrets._common()
