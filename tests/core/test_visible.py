"""Hidden characters are shown in every kind of output, and everything else stays."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import pickle
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from richkd.core.errors import DataError
from richkd.core.json_text import to_json
from richkd.core.logs import logger_of
from richkd.core.markdown import markdown
from richkd.core.pages import environment
from richkd.core.spreadsheet import cell, csv_line, csv_table
from richkd.core.terminal import Terminal
from richkd.core.visible import HIDDEN, one_line, visible

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=20)


def test_exactly_the_hidden_characters_are_shown() -> None:
    for code in range(0x110000):
        character = chr(code)
        hidden = unicodedata.category(character) in HIDDEN
        assert (visible(character) != character) == hidden, hex(code)


@given(ANYTHING)
def test_shown_text_is_not_changed_again(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown
    assert shown.isprintable() or any(unicodedata.category(c) in ("Zs", "Cn", "Co") for c in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\r\n\tb", "a\\r\\n\\tb"),
        ("\u202e\u2066\ufeff\xad", "\\u202e\\u2066\\ufeff\\xad"),
        ("\U000e0041", "\\U000e0041"),
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("Käfer 🐞 甲虫 חיפושית", "Käfer 🐞 甲虫 חיפושית"),
        ("👩\u200d🔬", "👩\\u200d🔬"),
    ],
)
def test_how_characters_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(Path("a") / text) == f"a/{shown}"


def test_messages_of_exceptions_have_one_line() -> None:
    assert one_line(ValueError("a\n  b\t\n")) == "a b"
    assert one_line(KeyError()) == "KeyError"


# Errors and logs


def test_no_part_of_an_error_has_a_hidden_character_or_another_line() -> None:
    error = DataError("file \x1b[2J", got="a\nFix: b", fix="c\u202e.")
    assert (error.rule, error.got, error.fix) == ("file \\x1b[2J", "a\\nFix: b", "c\\u202e.")
    assert str(error) == "file \\x1b[2J\nGot: a\\nFix: b\nFix: c\\u202e."
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    listed = DataError("a", got="2 files:\n  x\ny\n  z\x1b")
    assert listed.got == DataError("a", got=listed.got).got == "2 files:\n  x\\ny\n  z\\x1b"


def test_log_records_have_none(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        logger_of("richkd.test").warning("%s: %d of %s\n", "a\x1b[2J", 3, Path("b\nc"))
    (record,) = caplog.records
    assert record.getMessage() == "a\\x1b[2J: 3 of b\\nc\\n"
    assert record.filename == Path(__file__).name


# Terminals


def test_a_terminal_prints_strings_only() -> None:
    file = io.StringIO()
    terminal = Terminal(file=file, width=60)
    table = Table("[red]head[/]", title="title \x1b[31m", box=None)
    table.add_row("[bold]a[/]\n:bug: \x1b]8;;http://x\x1b\\")
    terminal.print("[link=http://x]b[/]\x07", soft_wrap=True)
    terminal.print(table)
    text = file.getvalue()
    for part in ("[link=http://x]b[/]\\x07", "[red]head[/]", "[bold]a[/]\\n:bug: \\x1b]8;;http://x\\x1b\\"):
        assert part in text
    assert "title \\x1b[31m" in text
    assert "\x1b" not in text


# Markdown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("[x](javascript:alert(1))", "\\[x\\]\\(javascript:alert(1))"),
        ("![x](y)", "!\\[x\\]\\(y)"),
        ("<img src=x onerror=alert(1)>", "&lt;img src=x onerror=alert(1)&gt;"),
        ("&lt;", "&amp;lt;"),
        ("`code` *a* _b_ ~~c~~", "\\`code\\` \\*a\\* \\_b\\_ \\~\\~c\\~\\~"),
        ("cifar_resnet8", "cifar_resnet8"),
        ("http://x https://y www.z", "http\\://x https\\://y www\\.z"),
        ("# a", "\\# a"),
        ("- a", "\\- a"),
        ("1. a", "1\\. a"),
        ("---", "\\---"),
        ("a\nb", "a\\\\nb"),
        ("-0.50 to +1.20", "-0.50 to +1.20"),
        ("12.5%", "12.5%"),
    ],
)
def test_markdown_shows_text_literally(text: str, expected: str) -> None:
    assert markdown(text) == expected


@given(ANYTHING)
def test_no_sign_of_markdown_is_left(text: str) -> None:
    plain = re.sub(r"\\[!-/:-@\[-`{-~]", "", markdown(text))
    assert not set("|[]`*<>\\\n\r\x1b") & set(plain)


# CSV


FORMULAS = ('=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1")


@pytest.mark.parametrize("name", FORMULAS)
def test_a_name_is_no_formula(name: str) -> None:
    assert cell(name) == f"'{visible(name)}"
    assert next(csv.reader([csv_line([name, -0.5, 3])])) == [f"'{visible(name)}", "-0.5", "3"]


@given(st.lists(ANYTHING, min_size=2, max_size=4))
def test_a_table_stays_a_table(names: list[str]) -> None:
    text = csv_table(names, [names])
    assert list(csv.reader(io.StringIO(text))) == [[cell(name) for name in names]] * 2
    assert text.count("\n") == 2


# JSON and pages


@given(ANYTHING)
def test_json_is_exact_and_shows_hidden_characters(text: str) -> None:
    written = to_json({text: [text]})
    assert json.loads(written) == {text: [text]}
    assert visible(written) == written


def test_templates_escape_by_the_kind_of_page() -> None:
    page = environment("richkd.training").from_string("{{ x }} {{ x | lines }}")
    assert page.render(x="<b>\x1b\n|") == "&lt;b&gt;\\x1b\\n| &lt;b&gt;\\x1b\n|"


@pytest.mark.parametrize("package", ["richkd.reporting", "richkd.training"])
def test_every_page_has_the_policy_in_its_head(package: str) -> None:
    loader = environment(package).loader
    assert loader is not None
    sources = {name: loader.get_source(environment(package), name)[0] for name in loader.list_templates()}
    pages = {name for name, source in sources.items() if "<html" in source}
    assert pages == (
        {"compare.html", "probe.html", "report.html", "tune.html"} if package == "richkd.reporting" else set()
    )
    for name in pages:
        head = sources[name].partition("<title>")[0]
        assert "{{ policy(" in head
        assert "Content-Security-Policy" not in sources[name]
