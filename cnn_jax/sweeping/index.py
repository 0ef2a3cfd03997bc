"""One page over the reports of many sweeps: each question, what was measured, and where the report is."""

from pathlib import Path
from urllib.parse import quote

from cnn_jax.core.errors import check
from cnn_jax.core.files import read_json, write_text
from cnn_jax.core.text import markdown
from cnn_jax.display.page import page


def make(folder: Path) -> Path:
    """Writes index.md and index.html into `folder` over the reports in folders below it; returns the path of the page.

    Raises:
      UserError: there are no reports, or answers.json of one is damaged.
    """
    found = sorted(folder.glob("*/answers.json"))
    check(
        bool(found), f"no folder in {folder} has the answers.json of a report: make them with sweep QUESTION --report"
    )
    parts = ["# What was asked, and what was measured"]
    for path in found:
        facts = read_json(path)
        known = isinstance(facts, dict) and all(name in facts for name in ("question", "answers", "command", "dates"))
        check(known, f"{path} is damaged: make it again with sweep QUESTION --report")
        parts.append(f"## [{markdown(facts['question'])}]({quote(path.parent.name)}/report.md)")
        parts.append("\n".join(f"- {sentence}" for sentence in facts["answers"]))
        data, dates = (", ".join(facts[key]) for key in ("data", "dates"))
        parts.append(f"{markdown(data)}; {dates}; `{facts['command']}`")
    text = "\n\n".join(parts) + "\n"
    write_text(folder / "index.md", text)
    write_text(folder / "index.html", page(text.replace("/report.md)", "/report.html)"), []))
    return folder / "index.html"
