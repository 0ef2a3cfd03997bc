"""Messages, docstrings, comments and pages are in plain English: a list of phrases that they do not have."""

import ast
import io
import re
import subprocess
import tokenize
from pathlib import Path

import pytest

from commands import ROOT

# A phrase, as a regular expression of whole words -> what to write.
PHRASES = {
    # single words, in prose only: names in code may have them
    r"beside": "next to, with, compared with, besides",
    r"patiently|granted": "say what is done",
    r"learnt": "learned",
    r"told(?! apart)": "given, shown, named",
    r"is said|are said|and said": "is reported, is listed",
    # phrases
    r"in the place of|in place of": "instead of",
    r"go(es)? on(?!ly| line| a mesh)": "resume, continue, happen",
    r"at hand": "available",
    r"to the last (bit|digit)": "bit-identical",
    r"as one likes": "as you like",
    r"stays? where it|where it stays": "say what blocks until when",
    r"reaches of": "scores",
    r"of it parameters|seen: whole": "say the quantity and the value",
    r"nothing has gone on|nothing goes on": "no progress",
    r"(?<!there )is no (class|number|folder|file|recipe|network|image|picture|data set)": "is not a ...",
    r"stands? (beside|further|above|below|there)": "is next to, is below",
    r"is kept without|are kept without": "stays, unless",
    r"so many (training )?(images|examples) of each": "that many",
    # American spelling, as in the APIs
    r"(optim|normal|general|initial|visual|regular|summar|recogn|parallel|serial)is(e[drs]?|ers|ing|ations?)": "-ize",
    r"colours?|behaviours?|centres?|neighbours?|labelled|analyse[ds]?": "American spelling",
}
PATTERN = re.compile("|".join(rf"\b(?:{phrase})\b" for phrase in PHRASES), re.IGNORECASE)
# What has the phrases on purpose: this list; and what was written by a run or is history.
LEFT_OUT = ("tests/project/test_english.py", "experiments/results/", "CHANGELOG.md", "LICENSE")


def files() -> list[str]:
    """Returns the tracked files with text for people."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    kinds = (".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".cc")
    return [name for name in listed.splitlines() if name.endswith(kinds) and not name.startswith(LEFT_OUT)]


def prose(path: Path) -> list[tuple[int, str]]:
    """Returns (line, text) of what people read in a file: of code, comments and strings of several words."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        comments = [
            (token.start[0], token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        ]
        strings = [
            (node.lineno + i, line)
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            for i, line in enumerate(node.value.splitlines())
            if " " in line.strip() and not re.fullmatch(r"\w+(, \w+)*|%.*", line.strip())  # names of parameters, HLO
        ]
        return comments + [(line, re.sub(r"`[^`]*`", "", words)) for line, words in strings]
    if path.suffix == ".md":
        text = re.sub(r"^( *)```.*?^\1```", lambda block: "\n" * block[0].count("\n"), text, flags=re.M | re.S)
        text = re.sub(r"`[^`\n]*`", "", text)
        return list(enumerate(text.splitlines(), start=1))
    lines = enumerate(text.splitlines(), start=1)
    if path.suffix == ".cc":
        return [(number, line.partition("//")[2]) for number, line in lines]
    return [(number, line.partition("#")[2] if path.name != "networks.toml" else line) for number, line in lines]


def findings(path: Path) -> list[str]:
    return [
        f"{path}:{line}: {match[0]!r} in {text.strip()!r}"
        for line, text in prose(path)
        for match in PATTERN.finditer(text)
    ]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the files of a clone are listed by git")
def test_texts_have_none_of_the_phrases():
    found = [line for name in files() for line in findings(ROOT / name)]
    assert not found, "\n".join(found)


def test_a_phrase_is_found_in_prose_and_not_in_code(tmp_path):
    path = tmp_path / "example.py"
    path.write_text('told = "beside"  # what is told\nraise ValueError(f"{told} goes on beside")\n')
    assert [line.partition(": ")[2].partition(" in ")[0] for line in findings(path)] == [
        "'told'",
        "'goes on'",
        "'beside'",
    ]
