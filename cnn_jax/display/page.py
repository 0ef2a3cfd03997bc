"""A report in Markdown as one HTML page."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto; padding: 1rem;
  max-width: 70rem; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.table, .wide { overflow-x: auto; }
img { display: block; width: 100%; min-width: 40rem; height: auto; margin: 1rem auto 0; }
em { font-size: .9rem; color: #444; } table { border-collapse: collapse; font-size: .85rem; margin: .5rem 0 1.5rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; }
code { font-size: .85em; overflow-wrap: anywhere; }
td code { display: inline-block; min-width: 24rem; white-space: normal; }
@media print { body { max-width: none; font-size: 10pt; } .table { overflow: visible; } table { font-size: 7pt; }
  th, td { white-space: normal; padding: .1rem .3rem; } img, td code { min-width: 0; }
  img, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def page(text: str, pictures: Sequence[Path]) -> str:
    """Returns a report in Markdown as one HTML page with its pictures inside; it loads nothing from anywhere else."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    body = re.sub(r"<p>(<img [^>]*>)</p>", r'<div class="wide">\1</div>', body)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")

    own = {html.escape(path.name): path for path in pictures}

    def embed(match: re.Match) -> str:
        path = own.get(match.group(1))
        return f'src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"' if path else 'src=""'

    body = re.sub(r'src="([^"]*)"', embed, body)
    title = html.escape(text.splitlines()[0].removeprefix("# "))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
