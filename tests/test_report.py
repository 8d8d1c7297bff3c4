"""The report: complete, offline, the same numbers as the results."""

import csv
import html
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from DDA import files, tree
from DDA.model_adapt import results, tables
from DDA.model_adapt.paired import Cell
from DDA.model_adapt.report import main
from DDA.model_adapt.settings import Facts

CELLS = ("fog/1", "fog/3", "sno<w/1", "sno<w/3")


@pytest.fixture
def out(tmp_path):
    """Results of random scores over a tiny tree, with a source classifier.

    One class has a name that HTML must escape.
    """
    rng = np.random.default_rng(0)
    classes = ["cat", "<b>&dog", *tree.class_list("cifar10")[2:]]
    for cell in CELLS:
        labels = np.arange(4) % 2
        keys = [f"{cell}/{('cat', 'dog')[label]}_{i}" for i, label in enumerate(labels)]
        for view in ("degraded", "adapted"):
            (tmp_path / view / cell).mkdir(parents=True)
            for key in keys:
                pixels = rng.integers(0, 256, (120 if "dog" in key else 8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / view / f"{key}.png")
        columns = {
            name: rng.normal(size=(4, 10)).astype(np.float32)
            + 2 * np.eye(10)[labels].astype(np.float32)
            for name in ("source", "source_adapted", "first", "second")
        }
        results.write(tmp_path / "out", Cell(cell, tuple(keys), labels, (), ()), columns)
    files.write_json(tmp_path / "adapted/settings.json", {"N": 12, "D": 4})
    facts = {
        "first": "a.pth",
        "second": "b.pth",
        "source": "c.pth",
        "ensemble": "sum",
        "scores": "logits",
        "topk": 5,
        "beside": ["weighted_sum", "gate", "entropy"],
        "partial": False,
        "params": {
            "weighted_sum": {"weight": 0.5, "temperatures": [1, 1]},
            "gate": {"threshold": 0.9, "weight": 0.5, "temperatures": [1, 1]},
        },
        "metrics": ["accuracy", "calibration", "flips"],
        "baseline": None,
        "degraded": str(tmp_path / "degraded"),
        "adapted": str(tmp_path / "adapted"),
        "layout": "cifar10c",
        "num_samples": None,
        "classes": classes,
        "cells": list(CELLS),
    }
    tables.summarise(tmp_path / "out", Facts(**facts))
    return tmp_path / "out"


class _Page(HTMLParser):
    """Check that tags close in order, and collect the addresses that would be fetched."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched, self.pictures, self.text = [], [], 0, []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and value:
                (self.fetched.append(value) if not value.startswith("data:") else None)
                self.pictures += value.startswith("data:image/")

    def handle_startendtag(self, tag, attributes):
        pass  # of SVG

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_whole_offline_and_escapes_names(out, capsys):
    assert main([str(out), "--images", "2", "--title", "a < b"]) == 0
    assert str(out / "report.html") in capsys.readouterr().out
    text = (out / "report.html").read_text()
    page = _Page(text)
    assert page.fetched == [] and "url(" not in text and "<script" not in text
    assert page.pictures >= 2 * 2 * 2  # two corruptions, two images, two views
    assert (
        "<b>&dog" in "".join(page.text) and "sno<w" in "".join(page.text) and "a < b" in page.text
    )
    summary = files.read_json(out / "summary.json")
    for name in ("source", "first", "second", "combined"):
        assert f"{100 * summary['all'][name]['top1']:.1f}" in text
    assert summary["protocol"].replace("<", "&lt;").replace("'", "&#x27;") in text
    assert "adaptation: N" in text and "severity" in text
    with Image.open(out / "gallery.png") as gallery:
        colours = {colour for _, colour in gallery.convert("RGB").getcolors(1 << 20)}
    assert {(220, 20, 60), (46, 139, 87)} <= colours  # wrong and right


def test_won_and_lost_are_counted(out):
    assert main([str(out), "--images", "1"]) == 0
    facts = Facts.read(files.read_json(out / "summary.json")["facts"])
    won = lost = 0
    for cell in CELLS:
        found = results.read(out, cell)
        scores, labels = results.columns(found, facts), found["labels"]
        before, after = (scores[name].argmax(1) == labels for name in ("first", "combined"))
        won, lost = won + int((~before & after).sum()), lost + int((before & ~after).sum())
    counts = re.findall(r"(Won|Lost): (\d+) of 16 images", (out / "report.html").read_text())
    assert counts == [("Won", str(won)), ("Lost", str(lost))]


def test_the_csv_has_every_number_and_the_markdown_is_the_summarys(out):
    assert main([str(out)]) == 0
    rows = list(csv.DictReader(io.StringIO((out / "report.csv").read_text())))
    assert len(rows) == 4 * 9
    cells = files.read_json(out / "summary.json")["cells"]
    for row in rows:
        name = {
            "sum": "combined",
            "adapted + source": "source_adapted",
            "self-ensemble": "self_ensemble",
            "first (degraded)": "first",
            "second (adapted)": "second",
        }.get(row["column"], row["column"])
        assert float(row["top1"]) == pytest.approx(
            cells[f"{row['corruption']}/{row['severity']}"][name]["top1"], abs=1e-6
        )
    assert (out / "report.md").read_text() == (out / "summary.md").read_text()


def test_what_is_missing_is_named(out, tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "has no summary.json; test_ensemble.py writes it" in capsys.readouterr().err
    (tmp_path / "degraded").rename(tmp_path / "gone")
    assert main([str(out)]) == 2
    assert "is gone; --images 0 leaves the galleries out" in capsys.readouterr().err
    assert main([str(out), "--images", "0"]) == 0
    path = results.path_of(out, "fog/1")
    path.write_bytes(path.read_bytes()[:100])
    (tmp_path / "gone").rename(tmp_path / "degraded")
    assert main([str(out)]) == 2
    assert "1/fog.npz is damaged" in capsys.readouterr().err


CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_shows_the_page_at_the_width_of_a_phone_and_of_a_desk(out, tmp_path, width):
    assert main([str(out), "--images", "2"]) == 0
    page = html.escape((out / "report.html").read_text(), quote=True)
    (tmp_path / "frame.html").write_text(
        f'<iframe id=f style="width:{width}px;height:800px;border:0" '
        f'srcdoc="{page}"></iframe><script>f.onload=()=>{{'
        "const d=f.contentDocument,bad=[...d.images].filter(i=>!i.naturalWidth).length;"
        "const points=d.querySelectorAll('svg circle').length;"
        "document.body.dataset.found=[d.documentElement.scrollWidth,bad,d.images.length,points]"
        "}</script>"
    )
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"file://{tmp_path / 'frame.html'}",
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    wide, bad, pictures, points = map(int, re.search(r'data-found="([\d,]+)"', dom)[1].split(","))
    assert (
        wide <= width and bad == 0 and pictures >= 8 and points == 2 * 9 + 14 + 1
    )  # curves, the gate and its choice
