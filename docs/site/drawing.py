"""Draws a network from its layer table: a box for each stage, as high as its maps are and as wide as they are many."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from cnn_jax.analysis.layer_table import LayerRow, stages

COLORS = {"conv": "#3f51b5", "pool": "#00897b", "linear": "#ef6c00", "norm": "#8d6e63"}
HEIGHT, GAP, TOP, BOTTOM = 170, 16, 44, 74  # pixels: of the highest box, between boxes, of the texts
MOST = 16  # layers that have boxes of their own; more are drawn by stage


@dataclass(frozen=True)
class Box:
    """A layer or a stage. shape: of its output, [*spatial, C]."""

    name: str
    kind: str
    shape: tuple[int, ...]
    layers: int
    parameters: int

    @property
    def text(self) -> str:
        """The size of the output, such as 56x56x64."""
        return "x".join(map(str, self.shape))


def boxes(rows: Sequence[LayerRow]) -> list[Box]:
    """Returns a box for each layer that changes the shape, or for each stage where the layers are many."""
    rows = [row for row in rows if not row.name.startswith("auxiliary")]
    shown = [row for row in rows if row.kind != "norm"]
    parts: list[tuple[str, list[LayerRow]]] = []
    for name, found in stages(shown).items():
        if len(shown) <= MOST or name == "head":
            parts += [(row.name.removeprefix("head/").removesuffix("/conv"), [row]) for row in found]
        else:
            parts.append((name, found))
    return [_box(name, part, rows) for name, part in parts]


def _box(name: str, part: Sequence[LayerRow], rows: Sequence[LayerRow]) -> Box:
    last = part[-1]
    shape, following = last.output_shape, rows[rows.index(last) + 1 :]
    if len(part) > 1 and following:  # branches are joined: the maps are those that the next layer gets
        shape = (*shape[:-1], following[0].kept // math.prod(shape[:-1]))
    kind = "conv" if any(row.kind == "conv" for row in part) else last.kind
    return Box(name, kind, shape, sum(row.parameters > 0 for row in part), sum(row.parameters for row in part))


def svg(title: str, rows: Sequence[LayerRow]) -> str:
    """Returns the drawing as an SVG element that follows the page's colors."""
    parts = boxes(rows)
    largest = max(math.prod(box.shape[:-1]) ** (1 / max(1, len(box.shape) - 1)) for box in parts)
    x, drawn = 8.0, []
    for box in parts:
        spatial = len(box.shape) - 1
        side = math.prod(box.shape[:-1]) ** (1 / spatial) if spatial else 1
        height = max(6.0, HEIGHT * math.sqrt(side / max(largest, 2)))
        width = 10 + 6 * math.log2(max(2, box.shape[-1])) if spatial else 14
        if not spatial:  # units of a linear layer stand in a column
            height = 18 + 11 * math.log2(max(2, box.shape[-1]))
        label = max(len(box.name), len(box.text)) * 6.4 + 4
        slot = max(width, label)
        left, top = x + (slot - width) / 2, TOP + (HEIGHT - height) / 2
        color = COLORS.get(box.kind, COLORS["linear"])
        center = x + slot / 2
        count = f"{box.layers} layers" if box.layers > 1 else ""
        drawn += [
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" fill="{color}"/>',
            _text(center, TOP - 26, box.name, bold=True),
            _text(center, TOP - 10, count),
            _text(center, TOP + HEIGHT + 22, box.text),
            _text(center, TOP + HEIGHT + 40, f"{box.parameters:,}" if box.parameters else ""),
        ]
        x += slot + GAP
    legend = "".join(
        f'<rect x="{8 + 110 * i}" y="{TOP + HEIGHT + 58}" width="10" height="10" rx="2" fill="{COLORS[kind]}"/>'
        + _text(24 + 110 * i, TOP + HEIGHT + 67, label, anchor="start")
        for i, (kind, label) in enumerate((("conv", "convolution"), ("pool", "pooling"), ("linear", "linear")))
    )
    width, height = max(x, 360), TOP + HEIGHT + BOTTOM
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" xmlns="http://www.w3.org/2000/svg">{"".join(drawn)}{legend}</svg>'
    )


def _text(x: float, y: float, text: str, *, bold: bool = False, anchor: str = "middle") -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" text-anchor="{anchor}" fill="currentColor"{weight}>'
        f"{escape(text)}</text>"
    )
