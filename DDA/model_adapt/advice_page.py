"""The page of a trial of adaptation: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from DDA.model_adapt import html


class Shown(NamedTuple):
    """An image of the gallery.

    views: the image and its copies, uint8 (H,W,3), by their names. answers: of each way, the class
    that it gives, and whether that is the image's.
    """

    name: str
    label: str
    views: Mapping[str, np.ndarray]
    answers: Mapping[str, tuple[str, bool]]


def page(facts: Mapping[str, Any], gallery: Sequence[Shown]) -> str:
    """Return the page of a trial. facts: the content of advice.json."""
    images = facts["images"]
    note = (
        f"{Path(facts['source']).name}: the way was chosen on {images['chosen_on']:,} images and "
        f"judged on {images['judged_on']:,} others, of which all numbers below are. Times are "
        f"measured on this machine ({facts['device']}, {facts['threads']} threads) and relative "
        f"to a pass of the classifier. {facts['date']}."
    )
    settings = {
        name: facts[name]
        for name in ("classifier", "student", "prior", "source", "corruption", "severity", "seed")
        if facts[name] not in (None, [])
    }
    sections = {
        "Every way": _ways(facts["ways"]) + _chart(facts["ways"]),
        "Images on which the ways differ": _figures(gallery),
        "Settings": html.table([], [html.row(name, [value]) for name, value in settings.items()]),
    }
    return html.document("Does adaptation help?", facts["verdict"], note, sections)


def _ways(ways: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the ways."""
    rows = []
    for place, way in enumerate(ways):
        gain = f"{way['gain']:+.1f} ({way['low']:+.1f} to {way['high']:+.1f})" if place else ""
        rows.append(html.row(way["name"], [f"{way['accuracy']:.1f}", gain, f"{way['cost']:.1f}"]))
    heads = ["", "top-1 %", "gain in points (95 % interval)", "time of an image"]
    return html.table(heads, rows)


def _chart(ways: Sequence[Mapping[str, Any]]) -> str:
    """Draw the gains with their intervals as SVG, a line for each way, around a line at 0."""
    ways = ways[1:]
    left, width, line = 150, 640, 30
    low = min(0.0, *(way["low"] for way in ways))
    high = max(0.0, *(way["high"] for way in ways))
    span = max(high - low, 1.0)

    def x(value: float) -> float:
        return left + (width - left - 20) * (value - low) / span

    height, shapes = line * len(ways) + 40, []
    zero, bottom = f"{x(0):.1f}", height - 34
    shapes.append(f'<line x1="{zero}" x2="{zero}" y1="4" y2="{bottom}" stroke="#888"/>')
    for place, way in enumerate(ways):
        y = line * place + 20
        colour = "#276749" if way["low"] > 0 else "#c0392b" if way["high"] < 0 else "#555"
        ends = f'x1="{x(way["low"]):.1f}" x2="{x(way["high"]):.1f}" y1="{y}" y2="{y}"'
        shapes.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(way["name"])}')
        shapes.append(f'</text><line {ends} stroke="{colour}" stroke-width="2.5"/>')
        shapes.append(f'<circle cx="{x(way["gain"]):.1f}" cy="{y}" r="4.5" fill="{colour}"/>')
    for value in sorted({low, 0.0, high}):
        place = f'x="{x(value):.1f}" y="{height - 18}" text-anchor="middle"'
        shapes.append(f"<text {place}>{value:+.1f}</text>")
    middle = f'x="{(left + width) / 2}" y="{height - 3}" text-anchor="middle"'
    shapes.append(f"<text {middle}>gain over the classifier alone, points</text>")
    frame = f'viewBox="0 0 {width} {height}" role="img" aria-label="the gains of the table"'
    return f"<svg {frame}>{''.join(shapes)}</svg>"


def _figures(gallery: Sequence[Shown]) -> str:
    """Return the images with their copies and the answers of each way."""
    figures = []
    for shown in gallery:
        answers = [(f"{way}: {label}", right) for way, (label, right) in shown.answers.items()]
        caption = f"<b>{html.safe(shown.label)}</b> {html.safe(shown.name)}"
        figures.append(html.figure(shown.name, shown.views, caption, answers))
    return f"<div class=gallery>{''.join(figures)}</div>" if figures else ""
