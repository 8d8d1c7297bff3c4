"""Charts of pages, drawn as SVG: curves, and matrices of shares."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from DDA.model_adapt.html import safe

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 480, 330, 58, 50, 12, 18  # pixels of a chart of curves
MATRIX = 320  # side of a matrix
LABELLED = 20  # classes at most whose names stand beside a matrix
BLUE = np.array([43, 108, 176])


class Curve(NamedTuple):
    """A line through points (x, y in per cent)."""

    title: str
    colour: str
    points: Sequence[tuple[float, float]]


def curves(
    lines: Sequence[Curve], marks: Sequence[tuple[float, str]], titles: tuple[str, str], text: str
) -> str:
    """Draw curves, with a legend.

    marks: the x that have a label. titles: those of both axes. text: the meaning of the whole.
    """
    values = [value for line in lines for _, value in line.points]
    step = next((step for step in (1, 2, 5) if max(values) - min(values) < 5 * step), 10)
    low, high = step * np.floor(min(values) / step), step * (np.floor(max(values) / step) + 1)
    high = min(high, step * np.ceil(100 / step))
    first, last = marks[0][0], marks[-1][0]

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - first) / (last - first)

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    shapes = []
    for tick in np.arange(low, high + step / 2, step):
        line = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
        shapes.append(f'<line {line} stroke="#ddd"/>')
        shapes.append(_text(f"{tick:.0f}", LEFT - 6, y(tick) + 4, "end"))
    for at, label in marks:
        shapes.append(_text(label, x(at), HEIGHT - BOTTOM + 18, "middle"))
    for line in lines:
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line.points)
        look = f'fill="none" stroke="{line.colour}" stroke-width="2.5"'
        shapes.append(f'<polyline points="{path}" {look}/>')
        for at, value in line.points:
            circle = f'cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5" fill="{line.colour}"'
            tip = safe(f"{line.title}: {titles[0]} {at:.4g}, {titles[1]} {value:.1f}")
            shapes.append(f"<circle {circle}><title>{tip}</title></circle>")
    shapes += _axes(titles, WIDTH, HEIGHT, LEFT, TOP + (HEIGHT - TOP - BOTTOM) / 2)
    swatches = " ".join(f"<span>{swatch(line.colour)}{safe(line.title)}</span>" for line in lines)
    return _figure(shapes, WIDTH, HEIGHT, text, f"<p class=legend>{swatches}</p>")


def matrix(counts: np.ndarray, classes: Sequence[str], text: str) -> str:
    """Draw the shares of each row's images as a matrix.

    counts: of images (K,K), true classes by predicted ones. text: its title. Names and numbers
    stand there where the classes are few.
    """
    count = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    few = count <= LABELLED
    longest = max(map(len, classes)) if few else 0
    left = 30 + min(7 * longest, 120)
    side, width, height = MATRIX / count, left + MATRIX + 8, 8 + MATRIX + left
    strength = np.sqrt(shares)[..., None]  # so that rare confusions are seen
    pixels = (255 + strength * (BLUE - 255.0)).round().astype(np.uint8)
    place = f'x="{left}" y="8" width="{MATRIX}" height="{MATRIX}" style="image-rendering:pixelated"'
    shapes = [f'<image {place} href="{_png(pixels)}"/>']
    shapes.append(f'<rect {place} fill="none" stroke="#bbb"/>')
    for row, name in enumerate(classes if few else ()):
        middle = 8 + side * (row + 0.5)
        shapes.append(_text(_short(name), left - 5, middle + 4, "end"))
        across = left + side * (row + 0.5) + 4
        foot = f'transform="translate({across:.1f},{MATRIX + 14}) rotate(-90)"'
        shapes.append(f'<text {foot} text-anchor="end">{safe(_short(name))}</text>')
        for column in np.flatnonzero(shares[row] >= 0.005) if count <= 12 else ():
            ink = "#fff" if shares[row, column] > 0.35 else "#222"
            number, at = f"{100 * shares[row, column]:.0f}", left + side * (column + 0.5)
            shapes.append(_text(number, at, middle + 4, "middle", ink))
    shapes += _axes(("predicted class", "true class"), width, height, left, 8 + MATRIX / 2)
    return _figure(shapes, width, height, text, "")


def swatch(colour: str) -> str:
    """Return a small square of a colour."""
    return f"<i style='background:{colour}'></i>"


def _axes(titles: tuple[str, str], width: int, height: int, left: int, middle: float) -> list[str]:
    """Return the titles of both axes. middle: the height of the middle of the y axis."""
    turned = f'transform="translate(14,{middle:.0f}) rotate(-90)" text-anchor="middle"'
    return [
        _text(titles[0], (left + width - RIGHT) / 2, height - 8, "middle"),
        f"<text {turned}>{safe(titles[1])}</text>",
    ]


def _text(text: str, x: float, y: float, anchor: str, colour: str = "") -> str:
    ink = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{ink}>{safe(text)}</text>'


def _short(name: str, most: int = 17) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _figure(shapes: Sequence[str], width: int, height: int, text: str, legend: str) -> str:
    """Return a drawing with its title and its legend."""
    frame = f'viewBox="0 0 {width} {height}" role="img" aria-label="{safe(text)}"'
    picture = f"<svg {frame}>{''.join(shapes)}</svg>"
    return f"<div class=chart><p class=note>{safe(text)}</p>{picture}{legend}</div>"


def _png(pixels: np.ndarray) -> str:
    """Return an image as an address that holds it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
