import csv

import pytest

from cnn_jax.display.tables import Share, Sheet, Short, human, render


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 "),
        (7, "7 "),
        (999, "999 "),
        (1_000, "1 k"),
        (61_706, "61.7 k"),
        (416_520, "417 k"),
        (1_000_000, "1 M"),
        (25_557_032, "25.6 M"),
        (4_089_184_256, "4.09 G"),
        (0.125, "0.125 "),
    ],
)
def test_numbers_for_people_have_three_digits_and_a_prefix(value, text):
    assert human(value) == text


SHEET = Sheet(
    "A title",
    ("layer", "parameters of a|b:c/defghijk", "MACs", "share", "field", "ratio"),
    [
        ("conv1", 1_234_567, Short(86_704_128), Share(0.0625), (3, 5), 0.123456789),
        ("", 0, None, None, (None, None), 1.0),
    ],
)


def test_text_is_aligned_with_numbers_at_the_right_and_narrow_columns():
    empty = Sheet("Empty", ("a", "b"), [])
    assert render([SHEET, empty], "text").splitlines() == [
        "A title",
        "       parameters",
        "        of a|b:c/",
        "layer    defghijk    MACs  share  field   ratio",
        "conv1   1,234,567  86.7 M   6.2%    3x5  0.1235",
        "                0       -      -      -       1",
        "",
        "Empty",
        "a  b",
    ]


def test_markdown_is_one_aligned_table_for_any_content():
    title, empty, *table = render([SHEET], "markdown").splitlines()
    assert (title, empty) == ("**A title**", "")
    assert table[0] == "| layer | parameters of a\\|b:c/defghijk | MACs | share | field | ratio |"
    assert table[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert table[2:] == ["| conv1 | 1,234,567 | 86.7 M | 6.2% | 3x5 | 0.1235 |", "|  | 0 | - | - | - | 1 |"]


def test_csv_has_all_digits_and_the_first_table_only():
    headings, *lines = csv.reader(render([SHEET, SHEET], "csv").splitlines())
    assert headings == list(SHEET.headings)
    assert lines == [["conv1", "1234567", "86704128", "0.0625", "3x5", "0.123457"], ["", "0", "", "", "", "1"]]


def test_a_table_wider_than_the_screen_continues_below():
    sheet = Sheet("T", ("name", "first", "second"), [("a", 1, 22222222), ("bb", 3, 4)])
    first, second = render([sheet], "text", width=18).split("\n\n")
    assert first == "T\nname  first\na         1\nbb        3"
    assert second == "name      second\na     22,222,222\nbb             4\n"
    assert render([sheet], "text", width=23) == render([sheet], "text") and "\n\n" not in render([sheet], "text")


def test_a_column_wider_than_the_screen_stays_whole():
    sheet = Sheet("T", ("name", "text"), [("a", "x" * 50)])
    assert "x" * 50 in render([sheet], "text", width=20)
