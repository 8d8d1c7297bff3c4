"""The report of an evaluation: one HTML page that opens offline, CSV, Markdown, a gallery."""

from __future__ import annotations

import base64
import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from DDA import files, images, ledger, metrics, sources, tree
from DDA.model_adapt import results, summary, tables
from DDA.model_adapt.paired import named
from DDA.model_adapt.settings import Facts
from DDA.settings import as_list
from DDA.sources import Source

# the colour and the meaning of a column, by its name or its rule
KNOWN = {
    "source": ("#888888", "the clean classifier on degraded images"),
    "source_adapted": ("#c0843d", "the clean classifier on adapted copies"),
    "self_ensemble": ("#b5a642", "the mean of its probabilities on both (DDA)"),
    "first": ("#2b6cb0", "the first classifier on degraded images"),
    "second": ("#c05621", "the second classifier on adapted copies"),
    "combined": ("#276749", "both, combined"),
    "sum": ("#97266d", "the sum of both classifiers' scores (DiffAUD)"),
    "weighted_sum": ("#6b46c1", "a sum whose weights are fitted on known degradations"),
    "gate": (
        "#0e7490",
        "the weighted sum where the first is unsure, else the first alone: "
        "such images need no adaptation",
    ),
    "other": ("#97266d", "both, combined"),
}


def write(out: Path, count: int, title: str) -> list[Path]:
    """Write the report beside an evaluation's results, and return its files.

    These are report.html, report.csv and report.md, and gallery.png where images are shown.

    count: the number of images that are shown of each corruption. Raises FileNotFoundError where
    results or images are missing, and ValueError for a negative count.
    """
    if count < 0:
        raise ValueError(f"`images` {count} must be at least 0")
    report = Report(out, count)
    content = {
        "report.html": report.page(title),
        "report.csv": report.table(),
        "report.md": tables.markdown(report.summary),
    }
    for name, text in content.items():
        files.write_text(out / name, text)
    paths = [out / name for name in content]
    if count:
        paths.append(out / "gallery.png")
        images.write_image(paths[-1], report.gallery())
    return paths


@dataclass(frozen=True)
class Shown:
    """An image of the galleries, and the class that each column predicts."""

    cell: str
    key: str
    label: int
    predicted: dict[str, int]

    def is_right(self, column: str) -> bool:
        """Tell whether a column predicts the image's class."""
        return self.predicted[column] == self.label


class Report:
    """The results in a folder, read again; ``page``, ``table`` and ``gallery`` show them."""

    def __init__(self, out: Path, count: int):
        self.summary = summary.read(out)
        self.facts = Facts.read(self.summary["facts"])
        self.cells = self.summary["cells"]
        self.names = results.shown(next(iter(self.cells.values())), self.facts)
        self.corruptions = list(dict.fromkeys(cell.partition("/")[0] for cell in self.cells))
        self.severities = tables.in_order(cell.partition("/")[2] for cell in self.cells)
        self._top1 = {name: self._accuracies(name) for name in self.names}
        self._count = count
        self._views: list[Source] = []
        self._names: list[dict[str, str]] = []
        self._shown: dict[str, list[Shown]] = {}
        if count:
            self._views = [self._open(path) for path in (self.facts.degraded, self.facts.adapted)]
            self._names = [self._names_of(view) for view in self._views]
            self._shown = {cell: self._predictions(out, cell) for cell in self.cells}
        # clean images have a line of their own, and no part in the rest
        counted = (self._shown[cell] for cell in tables.corrupted(self._shown))
        self._counted = list(itertools.chain.from_iterable(counted))

    def _names_of(self, view: Source) -> dict[str, str]:
        """Return the name of each image in a view, by its key."""
        names = {}
        for cell in self.cells:
            names |= named(view, cell, partial=self.facts.partial)
        return names

    def _accuracies(self, name: str) -> np.ndarray:
        """Return a column's top-1 in per cent, (corruptions, severities).

        It is NaN where there is no such cell.
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
        """Return the images of a cell, with the class that each column predicts."""
        stored = results.read(out, cell, self.facts)
        columns = results.columns(stored, self.facts)
        classes = {name: scores.argmax(1).tolist() for name, scores in columns.items()}
        images_of_cell = []
        for i, (key, label) in enumerate(zip(stored["keys"], stored["labels"], strict=True)):
            predicted = {name: column[i] for name, column in classes.items()}
            images_of_cell.append(Shown(cell, str(key), int(label), predicted))
        return images_of_cell

    def title(self, name: str) -> str:
        """Return the title of a column."""
        return results.title(name, self.facts)

    def meaning(self, name: str) -> str:
        """Return what a column is, in a few words."""
        return KNOWN.get(self.facts.rules.get(name, name), KNOWN["other"])[1]

    # ------------------------------------------------------------------------------------ tables

    def table(self) -> str:
        """Return CSV with a line for each cell and column."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        first = next(iter(self.cells.values()))[self.names[0]]
        numbers = [key for key, value in first.items() if isinstance(value, float)]
        writer.writerow(["corruption", "severity", "column", "N", *numbers])
        for cell, row in self.cells.items():
            corruption, _, severity = cell.partition("/")
            for name in self.names:
                values = [f"{row[name][key]:.6f}" for key in numbers]
                names = map(_no_formula, (corruption, severity, self.title(name)))
                writer.writerow([*names, row["N"], *values])
        return text.getvalue()

    def _means(self) -> str:
        """Return the means over cells, a line for each column, and the meaning of the columns."""
        overall = self.summary["all"]
        top1 = [f"{100 * overall[name]['top1']:.1f}" for name in self.names]
        texts = {"top-1 %": top1, **tables.measures(overall, self.names, self.facts)}
        rows, meanings = [], []
        for i, name in enumerate(self.names):
            title = escape(self.title(name))
            head = f"<i style='background:{_colour(name)}'></i>{title}"
            rows.append(_row(head, [column[i] for column in texts.values()]))
            meanings.append(f"<b>{title}</b>: {self.meaning(name)}")
        return f"{_table(['', *texts], rows)}<p class=note>{'; '.join(meanings)}.</p>"

    def _grid(self, name: str, minus: str | None = None) -> str:
        """Return a table of corruptions by severities.

        It holds a column's accuracy, or its gain over the column ``minus`` as a heat map.
        """
        values = self._top1[name] - (self._top1[minus] if minus else 0)
        rows = []
        for corruption, row in zip(self.corruptions, values, strict=True):
            cells = "".join(_cell(value, minus is not None) for value in (*row, np.nanmean(row)))
            rows.append(f"<tr><th>{escape(corruption)}</th>{cells}</tr>")
        heads = [severity or "all" for severity in self.severities]
        return _table(["", *heads, "mean"], rows, " class=grid")

    # ---------------------------------------------------------------------------------- pictures

    def _chart(self) -> str:
        """Draw accuracy against severity, the mean over corruptions, as SVG."""
        rows = [self.corruptions.index(name) for name in tables.corrupted(self.corruptions)]
        means = {name: self._top1[name][rows].mean(0) for name in self.names}
        # the severities that all corruptions have
        whole = np.flatnonzero(~np.isnan(means[self.names[0]]))
        if len(whole) < 2:
            return ""
        marks = [(x, self.severities[i]) for x, i in enumerate(whole)]
        curves = []
        for name, values in means.items():
            curves.append((self.title(name), _colour(name), list(enumerate(values[whole]))))
        return _plot(curves, marks, "severity", "top-1 % against severity, mean over corruptions")

    def _gate_chart(self) -> str:
        """Draw accuracy against the share of images that the gate sends to adaptation, as SVG."""
        gate = next(name for name in self.names if self.title(name) == "gate")

        def points(rows: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
            return [(100 * row["adapted"], 100 * row["top1"]) for row in rows]

        curves = [
            ("gate, any threshold", _colour("second"), points(self.summary["gate"])),
            ("gate as fitted", _colour("gate"), points([self.summary["all"][gate]])),
        ]
        marks = [(float(tick), f"{tick} %") for tick in range(0, 101, 20)]
        text = (
            "top-1 % against the share of images that are adapted: from never (the first "
            "classifier alone) to always (the weighted sum); fitted on known degradations"
        )
        return _plot(curves, marks, "adapted %", text)

    def _figure(self, shown: Shown) -> str:
        """Show an image in both views, with its class and those that the columns predict."""
        views = [view for view in (0, 1) if shown.key in self._names[view]]
        pictures = "".join(_picture(self._pixels(view, shown.key)) for view in views)
        items = ""
        for name in ("first", "second", "combined"):
            if name in self.names:
                kind = "right" if shown.is_right(name) else "wrong"
                predicted = escape(self.facts.classes[shown.predicted[name]])
                items += f"<li class={kind}>{escape(self.title(name))}: {predicted}</li>"
        label = escape(self.facts.classes[shown.label])
        caption = f"<figcaption><b>{label}</b><ul>{items}</ul></figcaption>"
        return f"<figure title='{escape(shown.key, quote=True)}'>{pictures}{caption}</figure>"

    def _pixels(self, view: int, key: str) -> np.ndarray:
        """Read an image, degraded (view 0) or adapted (view 1), as uint8 (H,W,3).

        An image without an adapted copy is shown degraded.
        """
        view = view if key in self._names[view] else 0
        return sources.read_pixels(self._views[view], self._names[view][key])

    def gallery(self, columns: int = 8) -> np.ndarray:
        """Draw each corruption's images at its highest severity in both views, uint8 (H,W,3).

        A frame is green where the classifier that sees the view is right, else red. Where there is
        a clean classifier, its answers decide.
        """
        pairs = (("source", "source_adapted"), ("first", "second"), ("first", "combined"))
        judges = next(pair for pair in pairs if set(pair) <= set(self.names))
        rows, frames = {}, {}
        hardest = {cell.partition("/")[0]: cell for cell in self.cells}
        for cell in hardest.values():
            chosen = tree.spread(self._shown[cell], columns)
            for view, kind in enumerate(("degraded", "adapted")):
                title = f"{cell} {kind}"
                rows[title] = [self._pixels(view, shown.key) for shown in chosen]
                verdicts = [shown.is_right(judges[view]) for shown in chosen]
                frames[title] = ["seagreen" if is_right else "crimson" for is_right in verdicts]
        heads = [""] * max(map(len, rows.values()))
        return np.asarray(images.contact_sheet(rows, heads, side=64, frames=frames))

    def _galleries(self) -> str:
        """Show images of each corruption."""
        parts = []
        for corruption in self.corruptions:
            cells = [cell for cell in self.cells if cell.partition("/")[0] == corruption]
            group = [shown for cell in cells for shown in self._shown[cell]]
            chosen = tree.spread(group, self._count)
            severities = ", ".join(dict.fromkeys(shown.cell.partition("/")[2] for shown in chosen))
            note = f"severity {escape(severities) or 'none'}; left degraded, right adapted"
            parts.append(self._gallery(escape(corruption), note, chosen))
        return "".join(parts)

    def _gallery(self, title: str, note: str, chosen: Sequence[Shown]) -> str:
        figures = "".join(map(self._figure, chosen))
        return f"<h3>{title}</h3><p class=note>{note}</p><div class=gallery>{figures}</div>"

    def _won_and_lost(self) -> str:
        """Show images that the adapted copy makes right, and images that it makes wrong."""
        won, lost = [], []
        for shown in self._counted:
            if shown.is_right("first") != shown.is_right("combined"):
                (lost if shown.is_right("first") else won).append(shown)
        outcomes = (
            ("Won", won, "wrong without the adapted copy, right with it"),
            ("Lost", lost, "right without the adapted copy, wrong with it"),
        )
        parts, count = [], len(self._counted)
        for name, group, note in outcomes:
            share = f"{100 * len(group) / count:.1f} %"
            title = f"{name}: {len(group):,} of {count:,} images, {share}"
            parts.append(self._gallery(title, note, tree.spread(group, 2 * self._count)))
        return "".join(parts)

    def _flips(self) -> str:
        """Return the shares of images that each later column breaks and mends, as a table."""
        hits = {}
        for name in self.names:
            hits[name] = np.array([shown.is_right(name) for shown in self._counted])
        rows = []
        for one, two in itertools.combinations(self.names, 2):
            rates = metrics.flips(hits[one], hits[two])
            title = escape(f"{self.title(one)} → {self.title(two)}")
            rows.append(_row(title, [f"{100 * rates[rate]:.1f}" for rate in ("NFR", "PFR")]))
        return _table(["", "broken %", "mended %"], rows)

    # ---------------------------------------------------------------------------------- the page

    def page(self, title: str) -> str:
        """Return the whole report as one HTML page."""
        sections = {
            "Result": self._means() + self._chart(),
            f"Gain of {self.title('combined')}, points": self._gains(),
            "When to adapt": self._gate_chart() if "gate" in self.summary else "",
        }
        if self._count:
            sections["What adaptation wins and loses"] = self._won_and_lost() + self._flips()
            sections["Images"] = self._galleries()
        sections |= {"Every column, top-1 %": self._columns(), "Settings": self._settings()}
        style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
        title = escape(title)
        head = (
            "<meta charset=utf-8>"
            "<meta name=viewport content='width=device-width, initial-scale=1'>"
            f"<title>{title}</title><style>{style}</style>"
        )
        body = f"<h1>{title}</h1><p class=note>{escape(self.summary['protocol'])}.</p>"
        for name, content in sections.items():
            if content:
                body += f"<section><h2>{escape(name)}</h2>{content}</section>"
        return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"

    def _gains(self) -> str:
        """Return the gain of the result over each single classifier."""
        grids = ""
        for base in ("source", "first", "second"):
            if base in self.names:
                title = escape(self.title(base))
                grids += f"<h3>over {title}</h3>{self._grid('combined', base)}"
        return grids

    def _columns(self) -> str:
        """Return the accuracies of each column, folded up."""
        parts = ""
        for name in self.names:
            head = f"{escape(self.title(name))}: {self.meaning(name)}"
            parts += f"<details><summary>{head}</summary>{self._grid(name)}</details>"
        return parts

    def _settings(self) -> str:
        """Return a table of the facts of the evaluation, and of the adaptation's settings."""
        facts = {**asdict(self.facts), "classes": len(self.facts.classes), "cells": None}
        for name, value in (ledger.read_settings(Path(self.facts.adapted)) or {}).items():
            facts[f"adaptation: {name}"] = value
        rows = []
        for name, value in facts.items():
            if value is not None:
                text = escape(", ".join(map(str, as_list(value))))
                rows.append(f"<tr><th>{escape(name)}</th><td class=what>{text}</td></tr>")
        return _table([], rows)


def _table(heads: Sequence[str], rows: Sequence[str], kind: str = "") -> str:
    """Return a table in HTML. heads: texts. rows: HTML. kind: attributes of the table."""
    cells = "".join(f"<th>{escape(text)}</th>" for text in heads)
    head = f"<tr>{cells}</tr>" if heads else ""
    return f"<div class=wide><table{kind}>{head}{''.join(rows)}</table></div>"


def _row(head: str, cells: Sequence[str]) -> str:
    return f"<tr><th>{head}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _colour(name: str) -> str:
    return KNOWN.get(name, KNOWN["other"])[0]


def _cell(value: float, is_gain: bool) -> str:
    """Return a cell in HTML; the background of a gain is greener, that of a loss redder."""
    if np.isnan(value):
        return "<td></td>"
    if not is_gain:
        return f"<td>{value:.1f}</td>"
    strength = min(1.0, abs(value) / 40)
    colour = (39, 103, 73) if value >= 0 else (192, 57, 43)
    mixed = ",".join(str(round(255 + (part - 255) * strength)) for part in colour)
    ink = "#fff" if strength > 0.55 else "#111"
    return f"<td style='background:rgb({mixed});color:{ink}'>{value:+.1f}</td>"


def _plot(
    curves: Sequence[tuple[str, str, list[tuple[float, float]]]],
    marks: Sequence[tuple[float, str]],
    unit: str,
    text: str,
) -> str:
    """Draw curves as SVG, with a legend.

    curves: titles, colours and points (x, accuracy in per cent). marks: the x that have a label.
    unit: the name of x. text: the meaning of the whole.
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

    shapes, spans = [], []
    for tick in np.arange(low, high + step / 2, step):
        line = f'x1="{left}" x2="{width - 16}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
        shapes.append(f'<line {line} stroke="#ddd"/>')
        place = f'x="{left - 6}" y="{y(tick) + 4:.1f}"'
        shapes.append(f'<text {place} text-anchor="end">{tick:.0f}</text>')
    for at, label in marks:
        place = f'x="{x(at):.1f}" y="{height - 14}"'
        shapes.append(f'<text {place} text-anchor="middle">{escape(label)}</text>')
    for title, colour, points in curves:
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
        line = f'points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"'
        shapes.append(f"<polyline {line}/>")
        for at, value in points:
            circle = f'cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"'
            tip = f"{escape(title)}, {unit} {at:g}: {value:.1f} %"
            shapes.append(f"<circle {circle}><title>{tip}</title></circle>")
        spans.append(f"<span><i style='background:{colour}'></i>{escape(title)}</span>")
    frame = f'viewBox="0 0 {width} {height}" role="img" aria-label="{escape(text, quote=True)}"'
    legend = f"<p class=legend>{' '.join(spans)} · {escape(text)}</p>"
    return f"<svg {frame}>{''.join(shapes)}</svg>{legend}"


def _picture(pixels: np.ndarray, side: int = 96) -> str:
    """Return an image inside the page.

    Small images stay as they are, and the browser enlarges them without blur. Large ones shrink.
    """
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    size, kind = ("large", "jpeg") if max(image.size) > side else ("small", "png")
    image.thumbnail((2 * side, 2 * side))
    image.save(buffer, kind, quality=80)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='' class={size} src='data:image/{kind};base64,{content}'>"


def _no_formula(text: str) -> str:
    """Return a name of a CSV that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
