"""Untrusted text is shown literally and never interpreted."""

import pytest
from markdown_it import MarkdownIt

from cnn_jax.core.text import csv_cell, markdown, printable

LETTERS = "plain: \u732b, caf\u00e9, a\u3000b, \U0001f469\u200d\U0001f680\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (LETTERS, LETTERS),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x9b2J", "a\\x0db\\x9b2J"),
        ("caf\udce9", "caf\\xe9"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
    ],
)
def test_control_characters_are_written_as_escapes(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["![x](../a.png)", "[x](http://a)", "<b>", "`a`", "a|b", "*a*", "x\n# y", "&lt;"])
def test_markdown_shows_a_text_as_it_is(text):
    page = MarkdownIt("commonmark").enable("table").render(f"- name: {markdown(text)}")
    for tag in ("<img", "<a ", "<b>", "<code>", "<em>", "<h1>", "&lt;b&gt;\n#"):
        assert tag not in page
    words = page.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">") if "&" not in text else page
    assert " ".join(text.split()) in words or "&amp;lt;" in page


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@a", "\t=1"])
def test_a_spreadsheet_computes_no_name(text):
    assert csv_cell(text) == f"'{text}" and csv_cell(f"a{text}") == f"a{text}"
