"""The report: complete, offline, the same numbers as the results."""

import csv
import html
import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from DDA import files, ledger, metrics, tree
from DDA.model_adapt import results, tables
from DDA.model_adapt.page import write
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
    job = {"made": 8, "seconds": 4.0, "device": "cpu", "ranks": 2, "prior": "pri<or.pt"}
    for cell, started in zip(CELLS, ("at one", "at one", "at two", "at two"), strict=True):
        path = ledger.manifest_path(tmp_path / "adapted", "manifest", cell)
        ledger.write_manifest(path, {**job, "started": started}, {})
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
    assert "<b>&dog" not in text and "sno<w" not in text and "pri<or" not in text
    assert (
        "<b>&dog" in "".join(page.text) and "sno<w" in "".join(page.text) and "a < b" in page.text
    )
    summary = files.read_json(out / "summary.json")
    for name in ("source", "first", "second", "combined"):
        assert f"{100 * summary['all'][name]['top1']:.1f}" in text
    assert html.escape(summary["protocol"], quote=True) in text
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


def test_the_csv_has_every_number_and_the_markdown_is_the_verdict_and_the_summarys(out):
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
    verdict = tables.verdict(files.read_json(out / "summary.json"))
    text = (out / "report.md").read_text()
    assert text == f"**{verdict}**\n\n{(out / 'summary.md').read_text()}"


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


def _section(text, title):
    """Return the HTML of a section of the page."""
    return text.split(f"<h2>{title}</h2>")[1].split("</section>")[0]


def _rows(text):
    """Return the texts of the cells of each table row in some HTML."""
    lines = re.findall("<tr>(.*?)</tr>", text)
    return [
        [html.unescape(cell) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", x)] for x in lines
    ]


def _summary(gain, **facts):
    facts = {"first": "a.pth", "source": "c.pth", "ensemble": "sum", **facts}
    minus = {"first": {"top1": gain, "interval": [gain - 0.01, gain + 0.02]}}
    columns = {"combined": {"top1": 0.85, "minus": minus}}
    columns |= {"source": {"top1": 0.704}} if facts["source"] else {}
    return {"facts": facts, "all": columns}


def test_the_verdict_tells_the_result_and_what_adaptation_adds():
    student = "points to the student of degraded images"
    assert tables.verdict(_summary(-0.001)) == (
        "sum 85.0 % against 70.4 % of your classifier; adaptation adds -0.1 (-1.1 to 1.9) "
        f"{student}: no sure difference"
    )
    assert tables.verdict(_summary(0.05)).endswith(f"+5.0 (4.0 to 7.0) {student}: a gain")
    assert tables.verdict(_summary(-0.05)).endswith(f"{student}: a loss")
    assert tables.verdict(_summary(0.05, first="c.pth")).endswith(
        "points to your classifier: a gain"
    )
    alone = tables.verdict(_summary(0.05, source=None))
    assert alone.startswith("sum 85.0 %; adaptation adds")
    assert alone.endswith("points to the classifier of degraded images: a gain")


def test_the_page_begins_with_the_verdict_the_date_the_data_the_models_and_the_cost(out):
    os.utime(out / "summary.json", (1_000_000_000, 1_000_000_000))
    write(out, 0, "A title")
    text = (out / "report.html").read_text()
    verdict = tables.verdict(files.read_json(out / "summary.json"))
    assert f"<h1>A title</h1><p class=verdict>{verdict}.</p>" in text
    overview = _section(text, "What was tested")
    shown = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", overview))
    assert shown["Evaluated"] == "2001-09-09"
    assert shown["Images"] == f"16 of 10 classes in {out.parent}/degraded"
    assert [shown[name] for name in ("Your classifier", "Sees adapted copies")] == [
        "c.pth",
        "b.pth",
    ]
    assert shown["Prior"] == "pri&lt;or.pt"
    # two jobs of two cells each, each of 8 copies in 4 s
    assert shown["Cost"] == "0.5 s for an adapted copy (cpu, 2 processes)"


def test_the_verdict_warns_of_copies_of_a_prior_that_denoises_badly(out):
    adapted = out.parent / "adapted/settings.json"
    files.write_json(adapted, {"N": 12, ledger.WARNING: "the <prior> denoises badly"})
    write(out, 0, "A title")
    text, markdown = ((out / f"report.{kind}").read_text() for kind in ("html", "md"))
    verdict = text[text.index("<p class=verdict>") :].partition("</p>")[0]
    assert verdict.endswith(". Beware: the &lt;prior&gt; denoises badly.")
    assert "Beware: the <prior> denoises badly**" in markdown
    files.write_json(adapted, {"N": 12})
    write(out, 0, "A title")
    assert "Beware" not in (out / "report.html").read_text()


def test_an_evaluation_of_copies_that_tell_no_time_has_no_cost(out):
    for path in (out.parent / "adapted").glob("manifest*.json"):
        path.unlink()
    write(out, 0, "A title")
    overview = _section((out / "report.html").read_text(), "What was tested")
    assert "<dt>Cost" not in overview and "<dt>Prior" not in overview


def test_cells_and_corruptions_stand_the_worst_first(out):
    write(out, 1, "A title")
    text = (out / "report.html").read_text()
    cells = files.read_json(out / "summary.json")["cells"]
    head, *rows = _rows(_section(text, "Cells, the worst first"))
    accuracies = [float(row[5]) for row in rows]
    assert len(rows) == 4 and accuracies == sorted(accuracies) and len(set(accuracies)) > 1
    for name, count, *numbers in rows:
        columns = [100 * cells[name][c]["top1"] for c in ("source", "first", "second", "combined")]
        assert [float(number) for number in numbers[:4]] == pytest.approx(columns, abs=0.05)
        assert int(count) == 4 and numbers[4].startswith(f"{columns[3] - columns[1]:+.1f} (")
    assert head[5:] == ["sum %", "minus first (degraded) (95 % interval)"]
    means = {
        name: np.mean([cells[f"{name}/{s}"]["combined"]["top1"] for s in (1, 3)])
        for name in ("fog", "sno<w")
    }
    order = [html.unescape(name) for name in re.findall("<h3>(.*?)</h3>", _section(text, "Images"))]
    assert order == sorted(means, key=means.get)


def test_galleries_show_the_clean_original_and_what_the_source_says(out):
    rng = np.random.default_rng(1)
    for label in ("cat", "dog"):
        for i in range(4):
            path = out.parent / f"degraded/clean/0/{label}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (120 if label == "dog" else 8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    assert main([str(out), "--images", "2"]) == 0
    text = (out / "report.html").read_text()
    gallery = _section(text, "Images")
    assert gallery.count("<figure") == 4 and gallery.count("<img") == 12
    assert gallery.count("<span>clean</span>") == gallery.count("<span>adapted</span>") == 4
    key = re.search("<figure class=views title='(fog.*?)'>", gallery)[1]
    stored = results.answers(
        out, key.rpartition("/")[0], Facts.read(files.read_json(out / "summary.json")["facts"])
    )
    row = stored.keys.tolist().index(key)
    classes = files.read_json(out / "summary.json")["facts"]["classes"]
    said = html.escape(f"source: {classes[stored.predicted['source'][row]]}")
    figure = gallery.split(f"title='{key}'")[1].split("</figure>")[0]
    kind = "right" if stored.right("source")[row] else "wrong"
    assert f"<li class={kind}>{said}</li>" in figure
    # PSNR and SSIM stand in the page and in the Markdown
    rows = _rows(_section(text, "How near to the clean originals"))
    assert [row[0] for row in rows[1:]].count("mean") == 1 and len(rows) == 4
    name, *numbers = rows[1]
    values = [[], []]
    for cell in (f"{name}/1", f"{name}/3"):
        for i, view in enumerate(("degraded", "adapted")):
            psnr = []
            for path in sorted((out.parent / view / cell).glob("*.png")):
                pair = (path, out.parent / "degraded/clean/0" / path.name)
                image, clean = (np.asarray(Image.open(one), float) for one in pair)
                psnr.append(20 * np.log10(255) - 10 * np.log10(((image - clean) ** 2).mean()))
            values[i].append(np.median(psnr))
    assert numbers[:2] == [f"{np.mean(each):.1f}" for each in values]
    markdown = (out / "report.md").read_text()
    assert f"| {name} | {numbers[0]} | {numbers[1]} |" in markdown


def test_a_report_without_originals_says_how_to_name_them(out, tmp_path):
    assert main([str(out), "--images", "1"]) == 0
    text = (out / "report.html").read_text()
    assert "do not tell their clean originals" in text and "<span>clean" not in text
    assert "How near to the clean" not in text
    shutil.copytree(tmp_path / "adapted/fog/1", tmp_path / "clean")
    assert main([str(out), "--images", "1", "--clean", str(tmp_path / "clean")]) == 0
    text = (out / "report.html").read_text()
    assert "<span>clean" in text and "do not tell" not in text
    assert main([str(out), "--clean", str(tmp_path / "none")]) == 2


def test_classes_have_accuracies_confusions_and_what_they_are_taken_for(out):
    write(out, 0, "A title")
    text = _section((out / "report.html").read_text(), "Classes")
    summary = files.read_json(out / "summary.json")
    facts = Facts.read(summary["facts"])
    every = results.joined([results.answers(out, cell, facts) for cell in CELLS])
    rows = _rows(text)[1:]
    assert {row[0] for row in rows} == {"cat", "<b>&dog"}  # only these have images
    assert float(rows[0][5]) <= float(rows[1][5])
    for name, count, source, *_, combined, taken in rows:
        own = every.labels == facts.classes.index(name)
        assert int(count) == own.sum() == 8
        for column, number in (("source", source), ("combined", combined)):
            assert float(number) == pytest.approx(100 * every.right(column)[own].mean(), abs=0.05)
        wrong = own & ~every.right("combined")
        most = (
            np.bincount(every.predicted["combined"][wrong], minlength=1).max() if any(wrong) else 0
        )
        assert taken.endswith(f"({most})") if most else taken == ""
    assert text.count("<svg") == 4 and text.count("predicted class</text>") == 4
    matrix = text.split("<svg")[4]
    counts = metrics.confusion(every.predicted["combined"], every.labels, 10)
    shares = {f"{100 * count / 8:.0f}" for count in counts[counts > 0]}
    numbers = re.findall(r'<text [^>]*text-anchor="middle" fill="[^"]*">(\d+)</text>', matrix)
    assert len(numbers) == (counts > 0).sum() and set(numbers) == shares


def test_the_reliability_diagram_has_the_bins_of_the_calibration_error(out):
    write(out, 0, "A title")
    text = _section((out / "report.html").read_text(), "Confidence")
    facts = Facts.read(files.read_json(out / "summary.json")["facts"])
    every = results.joined([results.answers(out, cell, facts) for cell in CELLS])
    bins = metrics.reliability(every.confidence["first"], every.right("first"), 15)
    assert f"first (degraded), ECE {bins.error:.3f}</span>" in text
    points = re.findall(
        r"<title>first \(degraded\).*? ([\d.]+), accuracy, % ([\d.]+)</title>", text
    )
    kept = bins.counts > 0
    expected = 100 * bins.right[kept] / bins.counts[kept]
    assert [float(y) for _, y in points] == pytest.approx(expected.tolist(), abs=0.05)
    assert ">confidence, the largest probability, %</text>" in text
    assert ">accuracy, %</text>" in text


def test_charts_have_titles_at_both_axes(out):
    write(out, 0, "A title")
    text = _section((out / "report.html").read_text(), "Result")
    assert text.count("<svg") == 2 and text.count(">top-1 %</text>") == 2
    assert ">severity</text>" in text and ">adapted images, %</text>" in text


def test_pairs_and_settings_are_folded(out):
    write(out, 0, "A title")
    text = (out / "report.html").read_text()
    open_part = re.sub("<details>.*?</details>", "", text)
    for folded in ("broken %", "adaptation: N", "source → "):
        assert folded in text and folded not in open_part
    assert text.count("<details>") == text.count("</details>") == 9 + 2


def test_of_many_cells_and_classes_only_the_worst_stand_open(tmp_path):
    classes = [f"class {i}" for i in range(30)]
    cells = [f"fog/{i}" for i in range(12)]
    rng = np.random.default_rng(0)
    for cell in cells:
        keys = tuple(f"{cell}/{name}" for name in classes)
        columns = {name: rng.normal(size=(30, 30)) + np.eye(30) for name in ("first", "second")}
        columns = {name: values.astype(np.float32) for name, values in columns.items()}
        results.write(tmp_path, Cell(cell, keys, np.arange(30), (), ()), columns)
    facts = Facts(first="a", second="b", classes=classes, cells=cells, degraded="d", adapted="e")
    tables.summarise(tmp_path, facts)
    write(tmp_path, 0, "A title")
    text = (tmp_path / "report.html").read_text()
    for title, total in (("Cells, the worst first", 12), ("Classes", 30)):
        section = _section(text, title)
        assert len(_rows(section.partition("<details>")[0])) == 1 + 10
        assert f"the other {total - 10} {'classes' if total == 30 else 'cells'}" in section
    matrices = _section(text, "Classes").partition("<svg")[2]
    assert "<image " in matrices and ">class 3</text>" not in matrices


CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_the_page_at_the_width_of_a_phone_and_of_a_desk(out, tmp_path, width):
    assert main([str(out), "--images", "2"]) == 0
    page = html.escape((out / "report.html").read_text(), quote=True)
    (tmp_path / "frame.html").write_text(
        f'<iframe id=f style="width:{width}px;height:800px;border:0" '
        f'srcdoc="{page}"></iframe><script>f.onload=()=>{{'
        "const d=f.contentDocument,bad=[...d.images].filter(i=>!i.naturalWidth).length;"
        "const points=d.querySelectorAll('svg circle').length;"
        "const wide=d.documentElement.scrollWidth,content=d.body.clientWidth;"
        "document.body.dataset.found=[wide,bad,d.images.length,points,content]"
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
    numbers = map(int, re.search(r'data-found="([\d,]+)"', dom)[1].split(","))
    wide, bad, pictures, points, content = numbers
    assert wide <= width and bad == 0 and pictures >= 8
    assert points >= 2 * 9 + 14 + 1  # curves, the gate and its choice
    assert width - 50 <= content <= width  # the page is as wide as the window
