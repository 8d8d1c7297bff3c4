"""The report of an evaluation:

one HTML page that opens offline, a CSV file, Markdown, a gallery.
"""

from __future__ import annotations

import base64
import csv
import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from DDA import files, images, metrics, sources, tree
from DDA.model_adapt import results, tables
from DDA.model_adapt.paired import named
from DDA.model_adapt.settings import Facts
from DDA.settings import as_list
from DDA.sources import Source

# of each column, or of its rule: its colour, and what it is
COLUMNS = """
source          #888888  the clean classifier on degraded images
source_adapted  #c0843d  the clean classifier on adapted copies
self_ensemble   #b5a642  the mean of its probabilities on both (DDA)
first           #2b6cb0  the first classifier on degraded images
second          #c05621  the second classifier on adapted copies
combined        #276749  both, combined
sum             #97266d  the sum of what both say (DiffAUD)
weighted_sum    #6b46c1  a sum whose weights are fitted on known degradations
gate            #0e7490  the weighted sum where the first is unsure, else the first alone: such images need no adaptation
other           #97266d  both, combined
"""
KNOWN = {
    name: rest for name, *rest in (line.split(None, 2) for line in COLUMNS.strip().splitlines())
}


def write(out: Path, count: int, title: str) -> list[Path]:
    """Write the report beside an evaluation's results, and return its files.

    These are report.html, report.csv and report.md, and gallery.png where images are shown. count:
    images that are shown of each corruption. Raises FileNotFoundError and ValueError.
    """
    if count < 0:
        raise ValueError(f"`images` {count} must be at least 0")
    if not (out / "summary.json").is_file():
        raise FileNotFoundError(f"{out} has no summary.json; test_ensemble.py writes it")
    report = Report(out, count)
    content = {
        "report.html": report.page(title),
        "report.csv": report.table(),
        "report.md": tables.markdown(report.summary),
    }
    for name, text in content.items():
        files.write_bytes(out / name, text.encode())
    paths = [out / name for name in content]
    if count:
        paths.append(out / "gallery.png")
        images.write_image(paths[-1], report.gallery())
    return paths


@dataclass(frozen=True)
class Shown:
    """An image of the galleries, and what the columns say of it."""

    cell: str
    key: str
    label: int
    predicted: dict[str, int]

    def is_right(self, column: str) -> bool:
        return self.predicted[column] == self.label


class Report:
    """What lies in a folder of results, read again; ``page``, ``table`` and ``gallery`` show it."""

    def __init__(self, out: Path, count: int):
        self.summary = files.read_json(out / "summary.json")
        self.facts = Facts.read(self.summary["facts"])
        self.cells = self.summary["cells"]
        self.names = results.shown(next(iter(self.cells.values())), self.facts)
        self.corruptions = list(dict.fromkeys(cell.partition("/")[0] for cell in self.cells))
        self.severities = tables.in_order(cell.partition("/")[2] for cell in self.cells)
        self._top1 = {name: self._accuracies(name) for name in self.names}
        self._count = count
        self._views = (
            [self._open(path) for path in (self.facts.degraded, self.facts.adapted)]
            if count
            else []
        )
        self._names = [
            {
                key: name
                for cell in self.cells
                for key, name in named(view, cell, partial=self.facts.partial).items()
            }
            for view in self._views
        ]
        self._said = {cell: self._predictions(out, cell) for cell in self.cells} if count else {}
        # clean images have a line of their own, and no part in the rest
        self._counted = [
            shown for cell in tables.corrupted(self._said) for shown in self._said[cell]
        ]

    def _accuracies(self, name: str) -> np.ndarray:
        """A column's top-1 in per cent, (corruptions, severities); NaN where there is no such
        cell.
        """
        accuracies = np.full((len(self.corruptions), len(self.severities)), np.nan)
        for cell, row in self.cells.items():
            corruption, _, severity = cell.partition("/")
            place = self.corruptions.index(corruption), self.severities.index(severity)
            accuracies[place] = 100 * row[name]["top1"]
        return accuracies

    def _open(self, path: str) -> Source:
        if not Path(path).exists():
            raise FileNotFoundError(
                f"{path}, whose images were evaluated, is gone; `images` 0 leaves the galleries out"
            )
        classes = None if Path(path).is_dir() else self.facts.classes
        return sources.open_source(Path(path), classes, self.facts.severity)

    def _predictions(self, out: Path, cell: str) -> list[Shown]:
        stored = results.read(out, cell)
        best = {
            name: scores.argmax(1) for name, scores in results.columns(stored, self.facts).items()
        }
        return [
            Shown(
                cell,
                str(key),
                int(label),
                {name: int(classes[i]) for name, classes in best.items()},
            )
            for i, (key, label) in enumerate(zip(stored["keys"], stored["labels"], strict=True))
        ]

    def title(self, name: str) -> str:
        return results.title(name, self.facts)

    def what(self, name: str) -> str:
        return KNOWN.get(self.facts.rules.get(name, name), KNOWN["other"])[1]

    # ------------------------------------------------------------------------------------ tables

    def table(self) -> str:
        """CSV: a line for each cell and column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        numbers = [
            key
            for key, value in next(iter(self.cells.values()))[self.names[0]].items()
            if isinstance(value, float)
        ]
        writer.writerow(["corruption", "severity", "column", "N", *numbers])
        for cell, row in self.cells.items():
            corruption, _, severity = cell.partition("/")
            for name in self.names:
                values = [f"{row[name][key]:.6f}" for key in numbers]
                writer.writerow([corruption, severity, self.title(name), row["N"], *values])
        return text.getvalue()

    def _means(self) -> str:
        """The means over cells, a line for each column, and what the columns are."""
        texts = {
            "top-1 %": [f"{100 * self.summary['all'][name]['top1']:.1f}" for name in self.names],
            **tables.measures(self.summary["all"], self.names, self.facts),
        }
        rows, words = [], []
        for i, name in enumerate(self.names):
            title = escape(self.title(name))
            rows.append(
                _row(
                    f"<i style='background:{_colour(name)}'></i>{title}",
                    [column[i] for column in texts.values()],
                )
            )
            words.append(f"<b>{title}</b>: {self.what(name)}")
        return f"{_table(['', *texts], rows)}<p class=note>{'; '.join(words)}.</p>"

    def _grid(self, name: str, minus: str | None = None) -> str:
        """Corruption by severity: a column's accuracy, or its gain over another as a heat map."""
        values = self._top1[name] - (self._top1[minus] if minus else 0)
        rows = []
        for corruption, row in zip(self.corruptions, values, strict=True):
            cells = "".join(_cell(value, minus is not None) for value in (*row, np.nanmean(row)))
            rows.append(f"<tr><th>{escape(corruption)}</th>{cells}</tr>")
        return _table(
            ["", *(severity or "all" for severity in self.severities), "mean"], rows, " class=grid"
        )

    # ---------------------------------------------------------------------------------- pictures

    def _chart(self) -> str:
        """Accuracy against severity, the mean over corruptions, as SVG."""
        rows = [
            self.corruptions.index(corruption) for corruption in tables.corrupted(self.corruptions)
        ]
        means = {name: self._top1[name][rows].mean(0) for name in self.names}
        whole = np.flatnonzero(
            ~np.isnan(means[self.names[0]])
        )  # severities that all corruptions have
        if len(whole) < 2:
            return ""
        marks = [(x, self.severities[i]) for x, i in enumerate(whole)]
        curves = [
            (self.title(name), _colour(name), list(enumerate(values[whole])))
            for name, values in means.items()
        ]
        return _plot(curves, marks, "severity", "top-1 % against severity, mean over corruptions")

    def _gate_chart(self) -> str:
        """Accuracy against the share of images that the gate sends to adaptation, as SVG."""
        gate = next(name for name in self.names if self.title(name) == "gate")
        points = [
            [(100 * row["adapted"], 100 * row["top1"]) for row in rows]
            for rows in (self.summary["gate"], [self.summary["all"][gate]])
        ]
        curves = [
            ("gate, any threshold", _colour("second"), points[0]),
            ("gate as fitted", _colour("gate"), points[1]),
        ]
        marks = [(float(tick), f"{tick} %") for tick in range(0, 101, 20)]
        return _plot(
            curves,
            marks,
            "adapted %",
            "top-1 % against the share of images that are adapted: from never (the first "
            "classifier alone) to always (the weighted sum); fitted on known degradations",
        )

    def _figure(self, shown: Shown) -> str:
        pictures = "".join(
            _picture(self._pixels(view, shown.key))
            for view in (0, 1)
            if shown.key in self._names[view]
        )
        answers = "".join(
            "<li "
            f"class={'right' if shown.is_right(name) else 'wrong'}>{escape(self.title(name))}: "
            f"{escape(self.facts.classes[shown.predicted[name]])}</li>"
            for name in ("first", "second", "combined")
            if name in self.names
        )
        label = escape(self.facts.classes[shown.label])
        caption = f"<figcaption><b>{label}</b><ul>{answers}</ul></figcaption>"
        return f"<figure title='{escape(shown.key, quote=True)}'>{pictures}{caption}</figure>"

    def _pixels(self, view: int, key: str) -> np.ndarray:
        """Of an image degraded (0) or adapted (1; degraded where there is no copy):

        uint8 (H,W,3).
        """
        view = view if key in self._names[view] else 0
        return sources.read_pixels(self._views[view], self._names[view][key])

    def gallery(self, columns: int = 8) -> np.ndarray:
        """Each corruption's images at its highest severity, before and after, uint8 (H,W,3).

        The frame is green where the classifier that sees the view is right (the clean one, where
        it was asked), else red.
        """
        pairs = (("source", "source_adapted"), ("first", "second"), ("first", "combined"))
        judges = next(pair for pair in pairs if set(pair) <= set(self.names))
        rows, frames = {}, {}
        hardest = {cell.partition("/")[0]: cell for cell in self.cells}
        for cell in hardest.values():
            chosen = tree.spread(self._said[cell], columns)
            for view, (judge, what) in enumerate(zip(judges, ("degraded", "adapted"), strict=True)):
                title = f"{cell} {what}"
                rows[title] = [self._pixels(view, shown.key) for shown in chosen]
                frames[title] = [
                    "seagreen" if shown.is_right(judge) else "crimson" for shown in chosen
                ]
        return np.asarray(
            images.contact_sheet(rows, [""] * max(map(len, rows.values())), side=64, frames=frames)
        )

    def _galleries(self) -> str:
        parts = []
        for corruption in self.corruptions:
            group = [
                shown
                for cell in self.cells
                if cell.partition("/")[0] == corruption
                for shown in self._said[cell]
            ]
            chosen = tree.spread(group, self._count)
            severities = ", ".join(dict.fromkeys(shown.cell.partition("/")[2] for shown in chosen))
            note = f"severity {escape(severities) or 'none'}; left degraded, right adapted"
            parts.append(self._gallery(escape(corruption), note, chosen))
        return "".join(parts)

    def _gallery(self, title: str, note: str, chosen: Sequence[Shown]) -> str:
        figures = "".join(map(self._figure, chosen))
        return f"<h3>{title}</h3><p class=note>{note}</p><div class=gallery>{figures}</div>"

    def _won_and_lost(self) -> str:
        parts, count = [], len(self._counted)
        outcomes = (
            ("Won", False, "wrong before and right after"),
            ("Lost", True, "right before and wrong after"),
        )
        for title, before, what in outcomes:
            group = [
                shown
                for shown in self._counted
                if shown.is_right("first") == before != shown.is_right("combined")
            ]
            parts.append(
                self._gallery(
                    f"{title}: {len(group):,} of {count:,} images, "
                    f"{100 * len(group) / count:.1f} %",
                    f"{what} the adapted copy was heard",
                    tree.spread(group, 2 * self._count),
                )
            )
        return "".join(parts)

    def _flips(self) -> str:
        """How many images each column breaks and mends of those before it."""
        hits = {
            name: np.array([shown.is_right(name) for shown in self._counted]) for name in self.names
        }
        rows = []
        for one, two in itertools.combinations(self.names, 2):
            rates = metrics.flips(hits[one], hits[two])
            title = escape(f"{self.title(one)} → {self.title(two)}")
            rows.append(_row(title, [f"{100 * rates[rate]:.1f}" for rate in ("NFR", "PFR")]))
        return _table(["", "broken %", "mended %"], rows)

    # ---------------------------------------------------------------------------------- the page

    def page(self, title: str) -> str:
        """The whole report as one HTML page."""
        sections = {
            "Result": self._means() + self._chart(),
            f"Gain of {self.title('combined')}, points": "".join(
                f"<h3>over {escape(self.title(base))}</h3>{self._grid('combined', base)}"
                for base in ("source", "first", "second")
                if base in self.names
            ),
            "When to adapt": self._gate_chart() if "gate" in self.summary else "",
            "What adaptation wins and loses": self._won_and_lost() + self._flips()
            if self._count
            else "",
            "Images": self._galleries() if self._count else "",
            "Every column, top-1 %": "".join(
                f"<details><summary>{escape(self.title(name))}: "
                f"{self.what(name)}</summary>{self._grid(name)}</details>"
                for name in self.names
            ),
            "Settings": self._settings(),
        }
        style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
        body = "".join(
            f"<section><h2>{escape(name)}</h2>{content}</section>"
            for name, content in sections.items()
            if content
        )
        title = escape(title)
        return (
            "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport "
            "content='width=device-width, "
            f"initial-scale=1'><title>{title}</title><style>{style}</style></head><body><h1>{title}</h1><p class=note>"
            f"{escape(self.summary['protocol'])}.</p>{body}</body></html>\n"
        )

    def _settings(self) -> str:
        facts = {**asdict(self.facts), "classes": len(self.facts.classes), "cells": None}
        settings = Path(self.facts.adapted) / tree.SETTINGS
        if settings.is_file():
            facts |= {
                f"adaptation: {name}": value for name, value in files.read_json(settings).items()
            }
        texts = [
            (name, ", ".join(map(str, as_list(value))))
            for name, value in facts.items()
            if value is not None
        ]
        return _table(
            [],
            [
                f"<tr><th>{escape(name)}</th><td class=what>{escape(text)}</td></tr>"
                for name, text in texts
            ],
        )


def _table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<div class=wide><table{kind}>{f'<tr>{head}</tr>' if heads else ''}{''.join(rows)}</table></div>"


def _row(head: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{head}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _colour(name: str) -> str:
    return KNOWN.get(name, KNOWN["other"])[0]


def _cell(value: float, is_gain: bool) -> str:
    if np.isnan(value):
        return "<td></td>"
    if not is_gain:
        return f"<td>{value:.1f}</td>"
    strength = min(1.0, abs(value) / 40)
    colour = (39, 103, 73) if value >= 0 else (192, 57, 43)
    mixed = ",".join(str(round(255 + (part - 255) * strength)) for part in colour)
    return f"<td style='background:rgb({mixed});color:{'#fff' if strength > 0.55 else '#111'}'>{value:+.1f}</td>"


def _plot(
    curves: Sequence[tuple[str, str, list[tuple[float, float]]]],
    marks: Sequence[tuple[float, str]],
    unit: str,
    text: str,
) -> str:
    """SVG with a legend.

    curves: titles, colours and points (x, accuracy in per cent); marks: the x that have a label.
    """
    width, height, left, bottom, top = 640, 300, 44, 34, 12
    values = [value for _, _, points in curves for _, value in points]
    step = next((step for step in (1, 2, 5) if max(values) - min(values) < 5 * step), 10)
    low, high = step * np.floor(min(values) / step), step * (np.floor(max(values) / step) + 1)
    first, last = marks[0][0], marks[-1][0]

    def x(value: float) -> float:
        return left + (width - left - 16) * (value - first) / (last - first)

    def y(value: float) -> float:
        return top + (height - top - bottom) * (high - value) / (high - low)

    parts = []
    for tick in np.arange(low, high + step / 2, step):
        parts.append(
            f'<line x1="{left}" x2="{width - 16}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" '
            'stroke="#ddd"/>'
            f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0f}</text>'
        )
    for at, label in marks:
        parts.append(
            f'<text x="{x(at):.1f}" y="{height - 14}" text-anchor="middle">{escape(label)}</text>'
        )
    for title, colour, points in curves:
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts += [
            f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"><title>'
            f"{escape(title)}, {unit} {at:g}: {value:.1f} %</title></circle>"
            for at, value in points
        ]
    spans = " ".join(
        f"<span><i style='background:{colour}'></i>{escape(title)}</span>"
        for title, colour, _ in curves
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(text, quote=True)}">{"".join(parts)}'
        f"</svg><p class=legend>{spans} · {escape(text)}</p>"
    )


def _picture(pixels: np.ndarray, side: int = 96) -> str:
    """An image inside the page:

    small ones as they are, enlarged without blur by the browser; large ones shrunk.
    """
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    size, kind = ("large", "jpeg") if max(image.size) > side else ("small", "png")
    image.thumbnail((2 * side, 2 * side))
    image.save(buffer, kind, quality=80)
    return f"<img alt='' class={size} src='data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
