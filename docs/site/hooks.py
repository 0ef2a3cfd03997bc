"""What `mkdocs build` calls: adds the pages that are made from code and links files outside of docs/."""

import posixpath
import re
from pathlib import Path
from typing import Any

import pages
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SOURCE = "https://github.com/cnn-jax/cnn_jax/blob/main/"
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")

# Pages whose text is elsewhere: their place in the site -> their file.
ELSEWHERE = {
    "index.md": "README.md",
    "launch.md": "launch/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
FOLDERS = {"networks/": "networks", "commands/": "commands", "reports/": "reports"}  # of the navigation


def on_config(config: Any) -> Any:
    """Fills the folders of the navigation; docs/notebooks is shown where it exists."""
    listed = pages.navigation()

    def filled(entries: list[Any]) -> list[Any]:
        return [
            {title: listed[value] if isinstance(value, str) and value in listed else filled(value)}
            if isinstance(value, list) or value in listed
            else entry
            for entry in entries
            for title, value in entry.items()
        ]

    config.nav = filled(config.nav)
    notebooks = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
    if notebooks:
        place = next(i for i, entry in enumerate(config.nav) if "Lectures" in entry)
        config.nav.insert(place + 1, {"Notebooks": [f"notebooks/{path.name}" for path in notebooks]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from code, and those whose text is outside of docs/."""
    for uri, text in pages.generated().items():
        files.append(File.generated(config, uri, content=text))
    for uri, path in {**ELSEWHERE, **pages.reports()}.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "site.css", abs_src_path=str(ROOT / "docs" / "site" / "site.css")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Points links to files of the repository to their page here, or to the file on GitHub."""
    here = {path: uri for uri, path in {**ELSEWHERE, **pages.reports()}.items()}
    uri = page.file.src_uri
    source = {**ELSEWHERE, **pages.reports()}.get(uri, f"docs/{uri}")

    def target(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        if uri in pages.GENERATED:  # its links are those of the site
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        place = here.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        found = files.get_file_from_path(place) if place is not None else None
        if place is not None and ((found and found.inclusion.is_included()) or place.startswith("networks")):
            return posixpath.relpath(place, posixpath.dirname(uri) or ".") + anchor
        return SOURCE + path + anchor if (ROOT / path).exists() else match[0]

    return LINK.sub(target, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Keeps the two hyphens of a flag and its name on one line."""

    def joined(code: re.Match[str]) -> str:
        return re.sub(r"--\w+", r'<span class="flag">\g<0></span>', code[0])

    return re.sub(r"<code>[^<]*</code>", joined, html)
