"""A page of a network's errors: the worst examples with their pictures, and the classes that are confused most.

The page is one file: pictures are embedded, nothing else is loaded and no script runs.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.core.text import printable
from cnn_jax.data import crops
from cnn_jax.data.loader import Split

MOST = 48  # examples on a page
SMALL = 96  # pixels: smaller pictures are enlarged by whole pixels, and stored without loss

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: left; border-bottom: 1px solid #ddd; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem; }
figure { margin: 0; overflow-wrap: anywhere; } figcaption { font-size: 13px; }
figure img { width: 100%; aspect-ratio: 1; object-fit: contain; background: #eee; }
img.small { image-rendering: pixelated; }
img.plot { max-width: 100%; max-height: 40rem; }
.name { color: #666; } .wrong { color: #b00020; }
"""


@dataclass(frozen=True)
class WrongExample:
    """An example and its wrong prediction.

    confidence: the probability of the predicted class. of_true: that of the true one.
    image: uint8 [H, W, C] as the network saw it; None for a sequence.
    """

    name: str
    true: str
    predicted: str
    confidence: float
    of_true: float
    image: np.ndarray | None


def picture(split: Split, index: int) -> np.ndarray | None:
    """Returns an example as the network sees it in a single view, uint8 [H, W, C]; for a clip, the middle frame.

    None for a sequence.
    """
    (example,) = split.source.read([index])
    if example is None or len(split.config.image_size) == 1:
        return None
    image = crops.crop(example["image"], split.config, train=False)
    return image[len(image) // 2] if image.ndim == 4 else image


def page(summary: Mapping[str, Any], worst: Sequence[WrongExample], plots: Sequence[Path]) -> str:
    """Returns the page as HTML.

    Args:
      summary: from `results.Results`. worst: sorted, the worst first. plots: PNG files to show as well.
    """
    title = f"{summary['network']} on {summary['data']}, {summary['part']} part"
    wrong = round((1 - summary["top1_accuracy"]) * summary["examples"])
    intro = (
        f"{summary['examples']:,} examples, {wrong:,} of them wrong; top-1 accuracy {summary['top1_accuracy']:.2%}, "
        f"top-5 accuracy {summary['top5_accuracy']:.2%}, balanced accuracy {summary['balanced_accuracy']:.2%}. "
        f"Seen: {summary['protocol']}."
    )
    pairs = [
        f"<tr><td>{_text(one['true'])}</td><td>{_text(one['predicted'])}</td>"
        f'<td class="number">{one["count"]:,}</td><td class="number">{one["share"]:.1%}</td></tr>'
        for one in summary["most_confused"]
    ]
    body = [
        f"<h1>{_text(title)}</h1>",
        f"<p>{_text(intro)}</p>",
        "<h2>Worst errors</h2>",
        *_section(
            [_figure(one) for one in worst],
            "Wrong predictions, the highest confidence first.",
            '<div class="gallery">',
            "</div>",
        ),
        "<h2>Most confused classes</h2>",
        *_section(
            pairs,
            "How many examples of one class are predicted as another, and what share of the class they are.",
            '<table><tr><th>true class</th><th>predicted class</th><th class="number">examples</th>'
            '<th class="number">of the class</th></tr>',
            "</table>",
        ),
        "<h2>Confusion matrix and reliability</h2>",
        *(
            f'<p><img class="plot" alt="{_text(path.stem)}" src="{_uri(path.read_bytes(), "png")}"></p>'
            for path in plots
        ),
    ]
    head = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>",
    ]
    return "\n".join([*head, *body, "</body></html>", ""])


def _section(entries: Sequence[str], about: str, start: str, end: str) -> list[str]:
    return [f"<p>{about}</p>", start, *entries, end] if entries else ["<p>There are none.</p>"]


def _figure(one: WrongExample) -> str:
    shown = "" if one.image is None else _image(one.image, one.true)
    return (
        f'<figure>{shown}<figcaption><span class="wrong">{_text(one.predicted)}</span> {one.confidence:.1%}<br>'
        f"is {_text(one.true)} ({one.of_true:.1%})<br>"
        f'<span class="name">{_text(one.name)}</span></figcaption></figure>'
    )


def _image(image: np.ndarray, alternative: str) -> str:
    from PIL import Image

    channels = image.shape[-1]
    values = image if channels in (3, 4) else image[..., 0]
    small = max(image.shape[:2]) <= SMALL
    form = "png" if small or channels == 4 else "jpeg"
    file = io.BytesIO()
    Image.fromarray(values).save(file, form)
    kind = ' class="small"' if small else ""
    return f'<img{kind} alt="{_text(alternative)}" src="{_uri(file.getvalue(), form)}">'


def _uri(content: bytes, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"


def _text(text: str) -> str:
    """Returns a text escaped for HTML."""
    return html.escape(printable(text))
