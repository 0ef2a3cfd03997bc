"""Text of others, such as names of files and classes: shown as it is, never obeyed."""

import re
import unicodedata

JOINERS = "\u200c\u200d"  # inside of words and emoji
FORMULA = re.compile(r"[=+\-@\t\r]")  # a spreadsheet computes a cell that begins so


def printable(text: str) -> str:
    """Returns a text whose control characters, and bytes that are no UTF-8, are written as escapes.

    A terminal obeys control characters: they would set its title, clear it, or hide what follows.
    """
    if text.isprintable():
        return text
    return "".join(letter if _is_shown(letter) else _escape(letter) for letter in text)


def shortened(text: str, most: int) -> str:
    """Returns a text of `most` letters at most, which ends in … where it was longer."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _is_shown(letter: str) -> bool:
    return letter.isprintable() or letter in "\n\t" or letter in JOINERS or unicodedata.category(letter) == "Zs"


def _escape(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python keeps a byte that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode() if ord(letter) > 127 else f"\\x{ord(letter):02x}"


def markdown(text: str) -> str:
    """Returns a text that Markdown shows as it is, on one line: no link, picture, HTML or cell of a table."""
    return re.sub(r"([\\`*\[\]<>!|&])", r"\\\1", " ".join(printable(text).split()))


def csv_cell(text: str) -> str:
    """Returns a text for a CSV file, with ' before what a spreadsheet would compute."""
    return f"'{text}" if FORMULA.match(text) else text
