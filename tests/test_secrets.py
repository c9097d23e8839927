"""What is secret in an address, and how it is found again in texts of others."""

from __future__ import annotations

import html
import json
import stat
import sys
import urllib.parse

import pytest
import yaml

from fedsweep import cli, files, secrets


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
    monkeypatch.setenv("PWD", "/work/somewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setattr(sys, "argv", ["fedsweep", "tracker.uri=http://me:@host"])
    secrets.learn_process()
    assert secrets.masked("in /work/somewhere, me") == "in /work/somewhere, me"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"])
def test_variables_hold_secrets_by_their_names(monkeypatch, name):
    monkeypatch.setenv(name, PLANTED)
    secrets.learn_process()
    assert secrets.masked(f"401 for {PLANTED}") == "401 for ***"
    assert secrets.masked_tree({"hydra": {"job": {"env_set": {name: "x"}}}})["hydra"]["job"]["env_set"] == {name: "***"}


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
