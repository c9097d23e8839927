"""Whatever a user's values hold, it is shown as the text that it is: in figures, tables, pages and papers."""

from __future__ import annotations

import csv
import io
import re
import shutil
import types

import handmade
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends import backend_pgf
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from fedsweep import cli, shown
from fedsweep.errors import UserError
from fedsweep.pareto import analysis, figures, html, load, style, tables, terminal

# As on the command line -> as the configuration has it, on one line.
VALUES = {
    "'cost$5_vs_$9.npz'": "cost$5_vs_$9.npz",
    "'a b'": "a b",
    "'\"x\"'": '"x"',
    r"myenc\:four_bit": "myenc:four_bit",
    "'<script>document.title=\"ran\"</script>'": '<script>document.title="ran"</script>',
    "'<img src=x onerror=document.title=1>'": "<img src=x onerror=document.title=1>",
    "'=1+1'": "=1+1",
    "'@x{y}\\z#%&~^[2]'": "@x{y}\\z#%&~^[2]",
    "'two\nlines\x1b[31m\t'": r"two\nlines\x1b[31m\t",
    "'数据_ünï'": "数据_ünï",
    "'[bold]hi[/]'": "[bold]hi[/]",
    "-0.5": "-0.5",
    "'" + "long " * 100 + "end'": "long " * 100 + "end",
    "[a,'b c']": "[a,b c]",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    points = [{"encoder.tag": text, "encoder.bits": "2"} for text in VALUES]
    place = {text: k for k, text in enumerate(VALUES)}
    return handmade.sweep(
        tmp_path_factory.mktemp("users") / "sweep",
        points,
        lambda point, _: (0.5 + 0.02 * place[point["encoder.tag"]], 100_000 * (1 + place[point["encoder.tag"]])),
    )


@pytest.fixture(scope="module")
def answer(folder):
    return analysis.analyse([load.from_folder(folder)], analysis.Question(group="encoder.tag"))


@pytest.mark.parametrize(("written", "is_it"), VALUES.items(), ids=range(len(VALUES)))
def test_a_value_is_shown_without_what_the_command_line_needed(written, is_it):
    assert shown.value(written) == is_it


def test_trials_csv_and_titles_have_the_values_and_readers_get_them_back(folder, answer):
    with (folder / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [shown.from_cell(row["encoder.tag"]) for row in rows] == list(VALUES.values())
    assert [row["encoder.tag"] for row in rows][6:8] == ["'=1+1", "'@x{y}\\z#%&~^[2]"]
    assert rows[11]["encoder.tag"] == "-0.5"
    assert answer.configs.group.tolist() == list(VALUES.values())
    trial = handmade.Trial(3, {"a": "'x y'", "b": r"m\:f"})
    assert trial.title == "trial 3 a=x y b=m:f" and trial.point == {"a": "'x y'", "b": r"m\:f"}


@given(st.text(st.sampled_from("'=+-@\t\r1a,\" "), max_size=6))
def test_a_cell_is_no_formula_and_comes_back(text):
    written = shown.cell(text)
    assert shown.from_cell(written) == text
    assert written[:1] not in {"=", "@", "\t", "\r"}
    if written[:1] in {"+", "-"}:
        float(written)


def test_tables_have_no_formula_and_a_row_a_configuration(answer):
    for row in csv.reader(io.StringIO(tables.csv(answer))):
        assert not [cell for cell in row if cell[:1] in "=+-@\t\r" and cell and not re.fullmatch(r"-?[\d.e+]+", cell)]
    assert len(tables.csv(answer).splitlines()) == 1 + len(VALUES)
    text = tables.latex(answer, list(answer.configs.index))
    assert text.count(r" \\" + "\n") == 1 + len(VALUES)
    body = text.partition(r"\midrule")[2]
    assert r"cost\$5\_vs\_\$9.npz & " in body and r"\textless{}script\textgreater{}" in body
    assert r"@x\{y\}\textbackslash{}z\#\%\&\textasciitilde{}\textasciicircum{}{[}2{]} & " in body
    assert not re.search(r"\\\\\s*[\[*]", body)  # \\[...] would be its argument
    lines = [line for line in terminal.markdown(answer).splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(answer.points[answer.points.on_front]) - 1
    assert not any("<" in line or len(re.findall(r"(?<!\\)\|", line)) != 4 for line in lines)


def test_a_terminal_shows_brackets_and_no_escape_sequence(answer, capsys):
    terminal.show(answer)
    said = capsys.readouterr().out
    assert "[bold]hi[/]" in said and r"two\nlines\x1b[31m\t" in said and "\x1b" not in said


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_draw_dollars_and_all_else_as_text(answer):
    words = set()
    for _, figure in figures.draw(answer, style.VENUES["wide"]):
        for name in ("svg", "png", "pdf"):
            assert style.saved(figure, name)
        words |= {text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))}
        assert not any(text.get_parse_math() for text in figure.findobj(match=lambda a: hasattr(a, "get_parse_math")))
    assert {"cost$5_vs_$9.npz", "[bold]hi[/]"} <= words
    assert max(map(len, words)) <= 90


def test_latex_gets_a_figures_text_escaped(monkeypatch):
    """Without LaTeX here: what matplotlib's PGF backend would give it."""
    monkeypatch.setattr(
        Figure, "savefig", lambda _, out, **__: out.write(backend_pgf._escape_and_apply_props("$5_#", FontProperties()))
    )
    assert style.saved(Figure(), "pgf").endswith(rb"\$5\_\#}")


def test_pgf_without_matplotlibs_escaping_is_refused_and_its_own_comes_back(monkeypatch):
    theirs = backend_pgf._tex_escape
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        style.saved(Figure(), "pgf")
    assert backend_pgf._tex_escape is theirs
    monkeypatch.delattr(backend_pgf, "_tex_escape")
    with pytest.raises(UserError, match=r"--formats pgf: text cannot be escaped .* choose another format"):
        style.saved(Figure(), "pgf")


@pytest.mark.parametrize(
    ("text", "is_it"),
    [
        ("--lr---x", r"-\/-lr-\/-\/-x"),
        ("a-b", "a-b"),
        ("''x'", r"'\/'x'"),
        ("``x`", r"`\/`x`"),
        ("?`!`", r"?\/`!\/`"),
        (",,", r",\/,"),
        ('"x"', r"\texttt{\char34}x\texttt{\char34}"),
    ],
)
def test_latex_makes_no_other_character_of_several(text, is_it):
    assert shown.in_latex(text) == is_it


def test_columns_may_have_any_name():
    table = pd.DataFrame({"self": ["=1", "b"], "a\nb": [1, 2], "=c": ["x", None]})
    assert shown.as_csv(table) == "self,a\\nb,'=c\n'=1,1,x\nb,2,\n"
    assert table.self[0] == "=1"


@given(st.lists(st.text("ab…", max_size=60)), st.integers(20, 60))
def test_different_names_stay_different_and_short(names, most):
    short = shown.apart(names, most)
    assert len(set(short.values())) == len(short) == len(set(names))
    assert all(len(name) <= most for name in short.values())


def test_the_part_where_names_differ_is_kept():
    names = [f"{'deep/' * 12}block{k}/{'conv/' * 12}kernel" for k in (1, 2)]
    assert [f"block{k}" in name for k, name in enumerate(shown.apart(names, 30).values(), 1)] == [True, True]
    many = [f"{'a' * 40}{i}{'b' * 60}{j}{'c' * 40}" for i in "01" for j in "01"]  # no room for both parts
    assert [name.endswith(" (2)") for name in shown.apart(many, 30).values()] == [False, True, False, True]


def test_figures_and_pages_keep_names_apart_that_differ_in_the_middle(tmp_path, monkeypatch):
    tensors = ["stage2/block1/conv1/kernel", "stage2/block2/conv1/kernel", *(f"{'a' * 40}{k}{'b' * 40}" for k in "12")]
    plan = [{"tensor": name, "bits": 1000, "coded": False} for name in tensors]
    made = handmade._plan
    monkeypatch.setattr(handmade, "_plan", lambda bits: made(bits) | {"uplink": plan, "downlink": plan[:3]})
    tags = [f"{'long_' * 20}{k}{'_long' * 20}" for k in "123"]
    points = [{"encoder.tag": tag, "encoder.bits": "2"} for tag in tags]
    folder = handmade.sweep(tmp_path / "sweep", points, lambda p, _: (0.5, 10**6 * (1 + tags.index(p["encoder.tag"]))))
    answer = analysis.analyse([load.from_folder(folder)], analysis.Question(group="encoder.tag", x="total"))
    drawn = dict(figures.draw(answer, style.VENUES["wide"]))
    legend = [text.get_text() for text in drawn["plans"].legends[0].get_texts()]
    assert {f"stage2/block{k}/conv1/kernel ({d})" for k in (1, 2) for d in ("uplink", "downlink")} < set(legend)
    assert len(set(legend)) == len(legend) == 7 + 1
    rows = [text.get_text() for text in drawn["plans"].axes[0].get_yticklabels()]
    titles = [axes.get_title("left") for axes in drawn["grid"].axes]
    assert len(set(rows)) == len(set(titles)) == 3
    page = html.page(answer).decode()
    names = set(re.findall(r'"name":"([^"]+)"', page))
    assert len({name for name in names if "ong" in name}) >= 3


def test_the_labs_legend_keeps_curves_apart_that_differ_in_the_middle():
    from fedsweep.lab import figure

    some = types.SimpleNamespace
    curves = [f"{'long_' * 20}{k}{'_long' * 20}" for k in "12"]
    rows = [some(vectors="normal", on_front=True, choice=some(encoder="e", argument=0, curve=curve),
                 measured=some(nmse=0.1, bits=bits)) for curve in curves for bits in (2.0, 4.0)]  # fmt: skip
    drawn = figure.draw(rows, ["svg"])[0].decode()  # the glyphs of a text are below a comment that has it
    assert len(set(re.findall("<!-- (long.*) -->", drawn))) == 2


def test_a_plan_shows_names_as_they_are(config, capsys):
    from fedsweep import plan
    from fedsweep.federated.plan import Plan, TensorPlan

    odd = (TensorPlan(":smile:[red]\x1b[1m", (3,), ":+1: [b]\n", 96),)
    model = types.SimpleNamespace(name=":smile:\x1b", parameters=3)
    plan.show(config(), model, Plan(odd, odd, clients=1, receivers=1, rounds=1, messages=1))
    said = capsys.readouterr().out
    assert r":smile:\x1b on " in said and r":smile:[red]\x1b[1m" in said and r":+1: [b]\n" in said
    assert "\x1b" not in said


def test_a_page_runs_no_script_of_a_value(answer, tmp_path):
    """In a real browser."""
    page = html.page(answer)
    (tmp_path / "pareto.html").write_bytes(page)
    assert b"<img src=x" not in page and b'<script>document.title="ran"' not in page
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no browser here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.set_default_timeout(120_000)
        opened.goto(f"file://{tmp_path}/pareto.html")
        opened.locator(".legendtext").first.wait_for()
        names = opened.locator(".legendtext").all_text_contents()
        assert opened.title() == ""
        browser.close()
    assert '<script>docume…"ran"</script>' in names and "<img src=x one…ument.title=1>" in names


@given(st.text(max_size=20))
def test_text_is_one_line_everywhere(text):
    for made in (shown.printable, shown.value, shown.in_html, shown.in_markdown, shown.in_code, shown.in_latex):
        assert made(text).isprintable(), made
    assert cli.one_line(UserError(text)).isprintable()
    assert "<" not in shown.in_html(text) + shown.in_markdown(text)
