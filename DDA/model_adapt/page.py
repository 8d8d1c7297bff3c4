"""The report of an evaluation: one HTML page that opens offline, CSV, Markdown, a gallery."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from DDA import commands, files, images, ledger, metrics, tree
from DDA.model_adapt import charts, html, originals, results, summary, tables
from DDA.model_adapt.charts import Curve
from DDA.model_adapt.gallery import Gallery
from DDA.model_adapt.results import Answers
from DDA.model_adapt.settings import Facts

# the colour and the meaning of a column, by its name or its rule
KNOWN = {
    "source": ("#888888", "the clean classifier on degraded images"),
    "source_adapted": ("#c0843d", "the clean classifier on adapted copies"),
    "self_ensemble": ("#b5a642", "the mean of its probabilities on both (DDA)"),
    "control": (
        "#b0477b",
        "the clean classifier, trained as long as the first on the same degraded images, without "
        "teachers and without adaptation",
    ),
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
# the columns that are looked at more closely
CHIEF = ("source", "control", "first", "second", "combined")
OPEN = 10  # lines of a long table that stand open; the rest is folded
BINS = 15  # of the reliability diagram, as of the ECE


def write(out: Path, count: int, title: str, clean: Path | None = None) -> list[Path]:
    """Write the report beside an evaluation's results, and return its files.

    These are report.html, report.csv and report.md, and gallery.png where images are shown.

    count: the number of images that are shown of each corruption. clean: the place of the clean
    originals, where the degraded tree does not tell it. Raises FileNotFoundError where results or
    images are missing, and ValueError for a negative count.
    """
    if count < 0:
        raise ValueError(f"`images` {count} must be at least 0")
    report = Report(out, count, clean)
    content = {
        "report.html": report.page(title),
        "report.csv": report.table(),
        "report.md": report.markdown(),
    }
    for name, text in content.items():
        files.write_text(out / name, text)
    paths = [out / name for name in content]
    if count:
        paths.append(out / "gallery.png")
        images.write_image(paths[-1], report.sheet())
    return paths


class Report:
    """The results in a folder, read again, and the files that show them."""

    def __init__(self, out: Path, count: int, clean: Path | None = None) -> None:
        self.summary = summary.read(out)
        self.facts = Facts.read(self.summary["facts"])
        self.cells = self.summary["cells"]
        self.names = results.shown(next(iter(self.cells.values())), self.facts)
        self.severities = tables.in_order(cell.partition("/")[2] for cell in self.cells)
        self._corruptions = list(dict.fromkeys(cell.partition("/")[0] for cell in self.cells))
        self._top1 = {name: self._accuracies(name) for name in self.names}
        means = np.nanmean(self._top1["combined"], axis=1)
        self._worst_first = [self._corruptions[place] for place in means.argsort(kind="stable")]
        evaluated = (out / "summary.json").stat().st_mtime
        self._date = datetime.fromtimestamp(evaluated, timezone.utc).date()
        self._answers = {cell: results.answers(out, cell, self.facts) for cell in self.cells}
        # clean images have a line of their own, and no part in the rest
        self._counted = results.joined(
            [self._answers[cell] for cell in tables.corrupted(self.cells)]
        )
        self._count = count
        self._gallery = Gallery(self.facts, self._chief(), clean) if count else None
        self._likeness: originals.Likeness = {}
        if self._gallery is not None:
            keys = {cell: list(map(str, each.keys)) for cell, each in self._answers.items()}
            self._likeness = self._gallery.likeness(keys)

    def _accuracies(self, name: str) -> np.ndarray:
        """Return a column's top-1 in per cent, (corruptions, severities).

        It is NaN where there is no such cell.
        """
        accuracies = np.full((len(self._corruptions), len(self.severities)), np.nan)
        for cell, row in self.cells.items():
            corruption, _, severity = cell.partition("/")
            place = self._corruptions.index(corruption), self.severities.index(severity)
            accuracies[place] = 100 * row[name]["top1"]
        return accuracies

    def title(self, name: str) -> str:
        """Return the title of a column."""
        return results.title(name, self.facts)

    def meaning(self, name: str) -> str:
        """Return what a column is, in a few words."""
        return KNOWN.get(self.facts.rules.get(name, name), KNOWN["other"])[1]

    def _chief(self) -> list[str]:
        """Return those of the chief columns that exist, each classifier of a view once."""
        twice = {"source"} if self.facts.source == self.facts.first else set()
        return [name for name in CHIEF if name in self.names and name not in twice]

    def _group(self, corruption: str) -> Answers:
        """Return the answers to all images of a corruption."""
        cells = [cell for cell in self.cells if cell.partition("/")[0] == corruption]
        return results.joined([self._answers[cell] for cell in cells])

    # -------------------------------------------------------------------------------- other files

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

    def verdict(self) -> str:
        """Return the verdict, and what the folder of the adapted copies warns of."""
        warning = (ledger.read_settings(Path(self.facts.adapted)) or {}).get(ledger.WARNING)
        text = tables.verdict(self.summary)
        return f"{text}. Beware: {warning}" if isinstance(warning, str) else text

    def markdown(self) -> str:
        """Return the verdict, the tables of the summary, and how near to clean images are."""
        text = f"**{self.verdict()}**\n\n{tables.markdown(self.summary)}"
        if self._likeness:
            rows = originals.likeness_rows(self._likeness)
            text += f"\n{commands.grid(originals.likeness_heads(), rows)}"
        return text

    def sheet(self) -> np.ndarray:
        """Draw each corruption's images at its highest severity in every view, uint8 (H,W,3)."""
        assert self._gallery is not None
        hardest = {cell.partition("/")[0]: cell for cell in self.cells}
        groups = {hardest[name]: self._answers[hardest[name]] for name in self._worst_first}
        return self._gallery.sheet(groups)

    # ---------------------------------------------------------------------------------- the page

    def page(self, title: str) -> str:
        """Return the whole report as one HTML page."""
        sections = {
            "What was tested": self._overview(),
            "Result": self._means() + self._charts(),
            "Cells, the worst first": self._worst_cells(),
            f"Gain of {self.title('combined')}, points": self._gains(),
        }
        if self._gallery is not None:
            sections["What adaptation wins and loses"] = self._won_and_lost(self._gallery)
            sections["Images"] = self._galleries(self._gallery)
            sections["How near to the clean originals"] = self._nearness()
        sections |= {
            "Classes": self._classes(),
            "Confidence": self._reliability(),
            "Details": self._details(),
        }
        return html.document(title, f"{self.verdict()}.", f"{self.summary['protocol']}.", sections)

    def _overview(self) -> str:
        """Return the date, the data, the models and the cost, a line for each."""
        facts, count = self.facts, len(self._counted.labels)
        lines = {
            "Evaluated": f"{self._date}",
            "Images": f"{count:,} of {len(facts.classes):,} classes in {facts.degraded}",
            "Adapted copies": facts.adapted,
            "Your classifier": facts.source or "",
            "Control": facts.control or "",
            "Sees degraded images": facts.first,
            "Sees adapted copies": facts.second,
            **_cost(Path(facts.adapted), self.cells),
        }
        items = (
            f"<dt>{html.safe(name)}</dt><dd>{html.safe(text)}</dd>"
            for name, text in lines.items()
            if text
        )
        return f"<dl>{''.join(items)}</dl>"

    def _means(self) -> str:
        """Return the means over cells, a line for each column, and the meaning of the columns."""
        overall = self.summary["all"]
        top1 = [f"{100 * overall[name]['top1']:.1f}" for name in self.names]
        texts = {"top-1 %": top1, **tables.measures(overall, self.names, self.facts)}
        rows, meanings = [], []
        for i, name in enumerate(self.names):
            title = html.safe(self.title(name))
            head = f"{charts.swatch(_colour(name))}{title}"
            rows.append(_row(head, [html.safe(column[i]) for column in texts.values()]))
            meanings.append(f"<b>{title}</b>: {html.safe(self.meaning(name))}")
        return f"{html.table(['', *texts], rows)}<p class=note>{'; '.join(meanings)}.</p>"

    def _charts(self) -> str:
        """Draw accuracy against severity, and against the share that a gate adapts."""
        drawn = self._severity_chart() + (self._gate_chart() if "gate" in self.summary else "")
        return f"<div class=charts>{drawn}</div>"

    def _severity_chart(self) -> str:
        """Draw accuracy against severity, the mean over corruptions."""
        rows = [self._corruptions.index(name) for name in tables.corrupted(self._corruptions)]
        means = {name: self._top1[name][rows].mean(0) for name in self.names}
        # the severities that all corruptions have
        whole = np.flatnonzero(~np.isnan(means[self.names[0]]))
        if len(whole) < 2:
            return ""
        marks = [(x, self.severities[i]) for x, i in enumerate(whole)]
        lines = [
            Curve(self.title(name), _colour(name), list(enumerate(values[whole])))
            for name, values in means.items()
        ]
        text = "Accuracy against severity, mean over corruptions"
        return charts.curves(lines, marks, ("severity", "top-1 %"), text)

    def _gate_chart(self) -> str:
        """Draw accuracy against the share of images that the gate sends to adaptation."""
        gate = next(name for name in self.names if self.title(name) == "gate")

        def points(rows: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
            return [(100 * row["adapted"], 100 * row["top1"]) for row in rows]

        lines = [
            Curve("gate, any threshold", _colour("second"), points(self.summary["gate"])),
            Curve("gate as fitted", _colour("gate"), points([self.summary["all"][gate]])),
        ]
        text = (
            "When to adapt: from never (the first classifier alone) to always (the weighted sum), "
            "fitted on known degradations"
        )
        return charts.curves(lines, _ticks(20), ("adapted images, %", "top-1 %"), text)

    def _worst_cells(self) -> str:
        """Return a table of all cells, that of the lowest accuracy first."""
        names = self._chief()
        heads = ["", "N", *(f"{self.title(name)} %" for name in names)]
        heads += [f"minus {self.title('first')} (95 % interval)"]
        worst = sorted(self.cells, key=lambda cell: self.cells[cell]["combined"]["top1"])
        rows = []
        for cell in worst:
            answers = self._answers[cell]
            before, after = (answers.right(name) for name in ("first", "combined"))
            gain = {
                "top1": after.mean() - before.mean(),
                "interval": metrics.gain_interval(before, after),
            }
            accuracies = [f"{100 * self.cells[cell][name]['top1']:.1f}" for name in names]
            count = f"{self.cells[cell]['N']:,}"
            rows.append(html.row(_cell_title(cell), [count, *accuracies, tables.say_gain(gain)]))
        return _long_table(heads, rows, "cells")

    def _gains(self) -> str:
        """Return the gain of the result over each single classifier."""
        grids = ""
        for base in self._chief():
            if base != "combined":
                title = html.safe(self.title(base))
                grids += f"<div><h3>over {title}</h3>{self._grid('combined', base)}</div>"
        return f"<div class=beside>{grids}</div>"

    def _grid(self, name: str, minus: str | None = None) -> str:
        """Return a table of corruptions by severities.

        It holds a column's accuracy, or its gain over the column ``minus`` as a heat map.
        """
        values = self._top1[name] - (self._top1[minus] if minus else 0)
        rows = []
        for corruption in self._worst_first:
            row = values[self._corruptions.index(corruption)]
            cells = "".join(_cell(value, minus is not None) for value in (*row, np.nanmean(row)))
            rows.append(f"<tr><th>{html.safe(_cell_title(corruption))}</th>{cells}</tr>")
        heads = [severity or "all" for severity in self.severities]
        return html.table(["", *heads, "mean"], rows)

    # ---------------------------------------------------------------------------------- pictures

    def _won_and_lost(self, gallery: Gallery) -> str:
        """Show images that the adapted copy makes right, and images that it makes wrong."""
        before, after = (self._counted.right(name) for name in ("first", "combined"))
        outcomes = (
            ("Won", ~before & after, "wrong without the adapted copy, right with it"),
            ("Lost", before & ~after, "right without the adapted copy, wrong with it"),
        )
        parts = ""
        for name, group, note in outcomes:
            title = f"{name}: {group.sum():,} of {len(group):,} images, {100 * group.mean():.1f} %"
            rows = tree.spread(np.flatnonzero(group).tolist(), 2 * self._count)
            figures = gallery.figures(self._counted, rows)
            parts += f"<h3>{title}</h3><p class=note>{note}</p>{figures}"
        return parts

    def _galleries(self, gallery: Gallery) -> str:
        """Show images of each corruption."""
        parts = ""
        if not gallery.has_originals:
            parts = (
                "<p class=note>The degraded images do not tell their clean originals; "
                "<code>clean</code> of the report names the folder of these.</p>"
            )
        for corruption in self._worst_first:
            answers = self._group(corruption)
            rows = tree.spread(range(len(answers.keys)), self._count)
            title = html.safe(_cell_title(corruption))
            parts += f"<h3>{title}</h3>{gallery.figures(answers, rows)}"
        return parts

    def _nearness(self) -> str:
        """Return PSNR and SSIM of both views against the clean originals, as a table."""
        if not self._likeness:
            return ""
        lines = originals.likeness_rows(self._likeness)
        rows = [html.row(_cell_title(name), numbers) for name, *numbers in lines]
        note = (
            f"Medians over at most {originals.COMPARED} images of each cell, least like the "
            "originals first. More is nearer: equal images have an SSIM of 1."
        )
        return f"<p class=note>{note}</p>{html.table(originals.likeness_heads(), rows)}"

    # ------------------------------------------------------------------- classes and confidences

    def _classes(self) -> str:
        """Return accuracies of each class, the worst first, and what is taken for what."""
        answers, names, classes = self._counted, self._chief(), self.facts.classes
        count = len(classes)
        confusion = {
            name: metrics.confusion(answers.predicted[name], answers.labels, count)
            for name in names
        }
        support = confusion["combined"].sum(1)
        shares = {
            name: 100 * counts.diagonal() / np.maximum(support, 1)
            for name, counts in confusion.items()
        }
        errors = confusion["combined"] * (1 - np.eye(count, dtype=int))
        rows = []
        for place in np.argsort(shares["combined"], kind="stable"):
            if support[place]:
                other = errors[place].argmax()
                taken = f"{classes[other]} ({errors[place, other]:,})"
                cells = [f"{support[place]:,}", *(f"{shares[name][place]:.1f}" for name in names)]
                cells.append(taken if errors[place, other] else "")
                rows.append(html.row(classes[place], cells))
        heads = ["", "N", *(f"{self.title(name)} %" for name in names), "most often taken for"]
        note = "All images together. The last column is of the combined answer."
        drawn = "".join(
            charts.matrix(counts, classes, f"{self.title(name)}: share of each class, %")
            for name, counts in confusion.items()
        )
        table = _long_table(heads, rows, "classes")
        return f"<p class=note>{note}</p>{table}<div class=charts>{drawn}</div>"

    def _reliability(self) -> str:
        """Draw accuracy against confidence."""
        lines = [Curve("calibrated", "#bbbbbb", [(0, 0), (100, 100)])]
        for name in self._chief():
            bins = metrics.reliability(
                self._counted.confidence[name], self._counted.right(name), BINS
            )
            kept = bins.counts >= max(1, 0.005 * bins.counts.sum())
            points = 100 * np.stack([bins.confidence, bins.right])[:, kept] / bins.counts[kept]
            title = f"{self.title(name)}, ECE {bins.error:.3f}"
            lines.append(Curve(title, _colour(name), points.T.tolist()))
        text = (
            f"Reliability: all images together in {BINS} bins of confidence, without bins of less "
            "than 0.5 % of them. Below the grey line a classifier is too sure."
        )
        titles = ("confidence, the largest probability, %", "accuracy, %")
        return f"<div class=charts>{charts.curves(lines, _ticks(20), titles, text)}</div>"

    # ----------------------------------------------------------------------------- what is folded

    def _details(self) -> str:
        """Return the accuracies of each column, the pairs of columns, and the settings."""
        parts = ""
        for name in self.names:
            parts += html.folded(
                f"{self.title(name)}: {self.meaning(name)}, top-1 %", self._grid(name)
            )
        parts += html.folded("Images that each later column breaks and mends", self._flips())
        return parts + html.folded("Settings", self._settings())

    def _flips(self) -> str:
        """Return the shares of images that each later column breaks and mends, as a table."""
        rows = []
        for one, two in itertools.combinations(self.names, 2):
            rates = metrics.flips(self._counted.right(one), self._counted.right(two))
            title = f"{self.title(one)} → {self.title(two)}"
            rows.append(html.row(title, [f"{100 * rates[rate]:.1f}" for rate in ("NFR", "PFR")]))
        return html.table(["", "broken %", "mended %"], rows)

    def _settings(self) -> str:
        """Return a table of the facts of the evaluation, and of the adaptation's settings."""
        facts = {**asdict(self.facts), "classes": len(self.facts.classes), "cells": None}
        adapted = ledger.read_settings(Path(self.facts.adapted)) or {}
        facts |= {f"adaptation: {name}": value for name, value in adapted.items()}
        rows = [html.row(name, [value]) for name, value in facts.items() if value is not None]
        return f"<div class=settings>{html.table([], rows)}</div>"


def _cost(adapted: Path, cells: Iterable[str]) -> dict[str, str]:
    """Return the prior of adapted copies, and the time of a copy, where their folder tells them."""
    jobs: dict[Any, Mapping[str, Any]] = {}
    for cell in cells:  # a job tells the same of each of its cells
        manifest = ledger.read_manifest(ledger.manifest_path(adapted, "manifest", cell))
        if manifest.get("made"):
            jobs[manifest["started"], manifest.get("command")] = manifest
    if not jobs:
        return {}
    made, seconds = (sum(job[name] for job in jobs.values()) for name in ("made", "seconds"))
    machines = dict.fromkeys(
        f"{job['device']}, {job['ranks']} process{'es' * (job['ranks'] > 1)}"
        for job in jobs.values()
    )
    return {
        "Prior": ", ".join(dict.fromkeys(job["prior"] for job in jobs.values())),
        "Cost": f"{seconds / made:.2g} s for an adapted copy ({'; '.join(machines)})",
    }


def _long_table(heads: Sequence[str], rows: Sequence[str], what: str) -> str:
    """Return a table whose first lines stand open."""
    table = html.table(heads, rows[:OPEN])
    if len(rows) > OPEN:
        title = f"the other {len(rows) - OPEN:,} {what}"
        table += html.folded(title, html.table(heads, rows[OPEN:]))
    return table


def _row(head: str, cells: Sequence[str]) -> str:
    """Return a line of a table. head, cells: HTML."""
    return f"<tr><th>{head}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _cell_title(cell: str) -> str:
    """Return the name of a cell or corruption as people read it."""
    return "all images" if cell == "." else cell


def _colour(name: str) -> str:
    return KNOWN.get(name, KNOWN["other"])[0]


def _ticks(step: int) -> list[tuple[float, str]]:
    """Return marks of an axis from 0 to 100."""
    return [(float(tick), f"{tick}") for tick in range(0, 101, step)]


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


def _no_formula(text: str) -> str:
    """Return a name of a CSV that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
