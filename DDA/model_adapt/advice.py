"""Advice on labelled images: a trial of adaptation with a classifier, its numbers and words."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from DDA import commands, files, inputs, metrics, sources, tree
from DDA.image_adapt.adapter import Adapter
from DDA.image_adapt.cache import CachedAdapter
from DDA.model_adapt import advice_page
from DDA.model_adapt.evaluate import Ensemble
from DDA.model_adapt.opening import common_classes, open_classifiers
from DDA.model_adapt.settings import LEAST_IMAGES, Trial
from DDA.progress import Show
from DDA.sources.cells import cells_of, fit_of, one_severity, orientation_of
from DistilledClassifier.classifiers import Classifier

AS_IT_IS = "as it is"
STUDENT = "student"
VIEWS = ("copy", "sum")  # the ways to use a copy: alone, or together with the image
SHOWN = 12  # images of the gallery
VERDICTS = {1: "helps", 0: "makes no difference that these images show", -1: "harms"}


@dataclass(frozen=True)
class Way:
    """One way to classify the images, and what it gives.

    chosen_on, accuracy: the share of right answers in per cent, on the images that choose and on
    those that judge. gain, low, high: its difference from the images as they are, in points on the
    latter, with its 95 % interval. cost: the time of an image, that of the classifier being 1.
    """

    name: str
    chosen_on: float
    accuracy: float
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    cost: float = 1.0

    @property
    def sign(self) -> int:
        """Return 1 where the way helps, -1 where it harms, and 0 where that is not known."""
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Advice:
    """The answer of a trial.

    best: the way with a copy that is best on the images that choose. student: that of the student,
    if one was given. failed: images that could not be read, with the reason. facts: everything, as
    advice.json has it. warning: of a prior that denoises too badly.
    """

    ways: Sequence[Way]
    best: Way
    out: Path
    student: Way | None = None
    failed: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    warning: str | None = None

    @property
    def verdict(self) -> str:
        """Return the answer in one or two sentences, and the warning if there is one."""
        text = _verdict(self.ways[0], self.best, self.student)
        return text if self.warning is None else f"{text} Beware: {self.warning}."

    def __str__(self) -> str:
        return f"{self.verdict}\n\n{_table(self.ways)}\nwritten     {self.out}/advice.html"


class _Images(NamedTuple):
    """The labelled images of a trial. judges: (N,) bool, whether an image judges or chooses."""

    source: sources.Source
    names: list[str]
    labels: np.ndarray
    groups: np.ndarray
    judges: np.ndarray


def advise(trial: Trial, show: Show | None = None) -> Advice:
    """Try adaptation on labelled images, and write the answer as a page.

    The way to use the copies is chosen on one half of the images and judged on the other; all
    copies of one image under several corruptions are in the same half.

    Args:
        trial: the classifier, the prior and the images.
        show: where the progress is shown.

    Returns:
        The answer, whose numbers are also in ``out/advice.json``.

    Raises:
        FileNotFoundError, ValueError: something that a setting names is missing, damaged or does
            not fit; there are too few images.

    Example:
        >>> from DDA.model_adapt.advice import advise
        >>> from DDA.model_adapt.settings import Trial
        >>> views = {"classifier": first, "prior": tiny_prior, "source": labelled}
        >>> answer = advise(Trial(**views, out=out, cache=out / "cache", speeds=["fast"]))
        >>> [way.name for way in answer.ways]
        ['as it is', 'fast (copy)', 'fast (sum)']
    """
    show = show or Show(quiet=True)
    named = {"classifier": trial.classifier}
    named |= {} if trial.student is None else {"student": trial.student}
    opened = open_classifiers(named, views=(0, 0))
    classes = common_classes(opened, trial.classes)
    upright = orientation_of(trial.layout) == "apply"
    severity = one_severity(trial.severity)
    source = sources.open_source(trial.source, classes, severity, upright=upright)
    classes = classes or source.classes
    if classes is None:
        raise ValueError(
            f"neither {trial.classifier} nor {trial.source} tells its classes; name them with "
            "`classes`"
        )
    ensembles = {speed: _ensemble(trial, opened, classes, speed) for speed in trial.speeds}
    data = _images(trial, source, classes)
    cost = _costs(ensembles, data, show)
    scores, failed = _scores(ensembles, opened[1:], data, trial.batch_size, show)
    left = [place for place, name in enumerate(data.names) if name not in failed]
    data = _Images(
        data.source,
        [data.names[place] for place in left],
        *(values[left] for values in (data.labels, data.groups, data.judges)),
    )
    _check_halves(data, trial)
    scores = {name: values[left] for name, values in scores.items()}
    right = {name: values.argmax(1) == data.labels for name, values in scores.items()}
    ways = [_way(name, hits, right[AS_IT_IS], data, cost) for name, hits in right.items()]
    student = next((way for way in ways if way.name == STUDENT), None)
    copied = [way for way in ways[1:] if way is not student]
    best = max(copied, key=lambda way: (way.chosen_on, -way.cost))
    shortfalls = [both.adapter.adapter.shortfall for both in ensembles.values()]
    warning = next((words for words in shortfalls if words is not None), None)
    advice = Advice(ways, best, trial.out, student, failed, warning=warning)
    return _written(advice, trial, data, scores, ensembles)


def _ensemble(
    trial: Trial, opened: Sequence[Classifier], classes: Sequence[str], speed: str
) -> Ensemble:
    """Return the classifier with the copies of one rung."""
    adapter = Adapter(
        trial.prior,
        speed=speed,
        seed=trial.seed,
        fit=trial.fit or fit_of(trial.layout),
        device=trial.device,
        batch_size=trial.batch_size,
    )
    return Ensemble(
        opened[0],
        adapter=CachedAdapter(adapter, trial.cache),
        classes=classes,
        device=trial.device,
        batch_size=trial.batch_size,
    )


def _images(trial: Trial, source: sources.Source, classes: Sequence[str]) -> _Images:
    """Return the labelled images. Raises FileNotFoundError and ValueError."""
    if source.classes is not None and tuple(source.classes) != tuple(classes):
        raise ValueError(f"{trial.source} has other classes than {trial.classifier}")
    cells = cells_of(source, trial.layout, trial.corruption, trial.severity, train=trial.train)
    placed = [(name, cell) for cell in cells for name in source.list(cell)[0]]
    placed = tree.spread(sorted(placed), trial.num_samples)
    if len(placed) < LEAST_IMAGES:
        raise ValueError(
            f"{trial.source} has {len(placed)} images; advice needs {LEAST_IMAGES} at least, and "
            "some hundreds to say anything"
        )
    names = [name for name, _ in placed]
    groups = np.array([tree.key_of(name.removeprefix(f"{cell}/")) for name, cell in placed])
    judges = np.array([tree.is_held_out(group, 0.5) for group in groups])
    labels = tree.labels_of(names, classes, source.where)
    return _Images(source, names, labels, groups, judges)


def _check_halves(data: _Images, trial: Trial) -> None:
    """Raise ValueError where one half has hardly any image."""
    if min(data.judges.sum(), (~data.judges).sum()) < LEAST_IMAGES // 4:
        raise ValueError(
            f"{trial.source} has only {len(data.names)} images that can be read; advice needs "
            f"{LEAST_IMAGES} at least"
        )


def _scores(
    ensembles: Mapping[str, Ensemble],
    students: Sequence[Classifier],
    data: _Images,
    batch_size: int,
    show: Show,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the scores (N,K) of each way, and the images that cannot be read with the reason."""
    batches: list[dict[str, np.ndarray]] = []
    failed: dict[str, str] = {}
    places: list[int] = []
    progress = show.progress(len(data.names))
    for first in range(0, len(data.names), batch_size):
        pixels = {}
        for place in range(first, min(first + batch_size, len(data.names))):
            try:
                pixels[place] = sources.read_pixels(data.source, data.names[place])
            except (ValueError, OSError) as error:
                failed[data.names[place]] = f"{error}"
        progress.add([(len(pixels), min(batch_size, len(data.names) - first) - len(pixels))])
        if pixels:
            batches.append(_batch_scores(ensembles, students, list(pixels.values())))
            places += pixels
    if not batches:
        raise ValueError(f"{data.source.path} has no image that can be read")
    scores = {}
    for name in batches[0]:
        joined = np.concatenate([batch[name] for batch in batches])
        scores[name] = np.full((len(data.names), joined.shape[1]), np.nan, np.float32)
        scores[name][places] = joined
    return scores, failed


def _batch_scores(
    ensembles: Mapping[str, Ensemble], students: Sequence[Classifier], pixels: list[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the scores of each way for some images, by the way's name."""
    keys, scores = inputs.keys(pixels), {}
    for speed, both in ensembles.items():
        scored = both.score_views(pixels, keys)
        scores.setdefault(AS_IT_IS, scored.first.numpy())
        for view, values in zip(VIEWS, (scored.second, scored.combined), strict=True):
            scores[f"{speed} ({view})"] = values.numpy()
    for student in students:
        scores[STUDENT] = student.scores(pixels).cpu().numpy()
    return scores


def _way(
    name: str, right: np.ndarray, as_it_is: np.ndarray, data: _Images, cost: Mapping[str, float]
) -> Way:
    """Return what a way gives. right: (N,) bool, the images that it classifies rightly."""
    judges = data.judges
    shares = [float(100 * right[half].mean()) for half in (~judges, judges)]
    if right is as_it_is:
        return Way(name, *shares)
    gains = 100.0 * right[judges] - 100.0 * as_it_is[judges]
    low, high = metrics.interval(gains, data.groups[judges])
    own = cost.get(name.partition(" ")[0], 0.0) + (2.0 if name.endswith("(sum)") else 1.0)
    return Way(name, *shares, float(gains.mean()), low, high, own)


# ----------------------------------------------------------------------------------------- cost


def _costs(
    ensembles: Mapping[str, Ensemble], data: _Images, show: Show, rounds: int = 3
) -> dict[str, float]:
    """Return the time of a copy at each rung, in times of a pass of the classifier.

    One batch is measured in turns; the fastest of the rounds counts.
    """
    pixels = _first_batch(data, next(iter(ensembles.values())).batch_size)
    if not pixels:
        return {}
    works: dict[str, Callable[[], Any]] = {
        speed: lambda both=both: both.adapter.adapter.pixels(pixels, inputs.keys(pixels))
        for speed, both in ensembles.items()
    }
    classifier = next(iter(ensembles.values())).classifiers[0]
    works[AS_IT_IS] = lambda: classifier.scores(pixels)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            begun = time.perf_counter()
            work()  # its result is on the CPU, so a GPU has finished too
            seconds[name].append(time.perf_counter() - begun)
    fastest = {name: min(times) / len(pixels) for name, times in seconds.items()}
    for speed in ensembles:
        total = fastest[speed] * len(data.names)
        show.say(f"{speed:<12}{total:,.0f} s for the copies of {len(data.names):,} images")
    return {speed: fastest[speed] / fastest[AS_IT_IS] for speed in ensembles}


def _first_batch(data: _Images, count: int) -> list[np.ndarray]:
    """Return the pixels of some images that can be read."""
    pixels: list[np.ndarray] = []
    for name in data.names[: 4 * count]:
        try:
            pixels.append(sources.read_pixels(data.source, name))
        except (ValueError, OSError):
            continue
        if len(pixels) == count:
            break
    return pixels


# -------------------------------------------------------------------------- what people look at


def _verdict(as_it_is: Way, best: Way, student: Way | None) -> str:
    """Return the answer in one or two sentences."""
    text = f"Adaptation {VERDICTS[best.sign]}: {best.accuracy:.1f} % of the images right with "
    text += f"{best.name}, {as_it_is.accuracy:.1f} % as they are ({_gain(best)}), for "
    text += f"{best.cost:.1f} times the classifier's time."
    if student is None:
        return f"{text} No student of degraded images was compared."
    return (
        f"{text} The student of degraded images has {student.accuracy:.1f} % ({_gain(student)}), "
        f"for {student.cost:.1f} times."
    )


def _gain(way: Way) -> str:
    return f"{way.gain:+.1f} points, 95 % interval {way.low:+.1f} to {way.high:+.1f}"


def _table(ways: Sequence[Way]) -> str:
    """Return the ways as a table in Markdown."""
    heads = ("way", "top-1 %", "gain (95 % interval)", "time of an image", "")
    rows = []
    for place, way in enumerate(ways):
        gain = f"{way.gain:+.1f} ({way.low:+.1f} to {way.high:+.1f})" if place else ""
        says = {1: "helps", 0: "", -1: "harms"}[way.sign] if place else ""
        rows.append((way.name, f"{way.accuracy:.1f}", gain, f"{way.cost:.1f}", says))
    return commands.grid(heads, rows)


def _written(
    advice: Advice,
    trial: Trial,
    data: _Images,
    scores: Mapping[str, np.ndarray],
    ensembles: Mapping[str, Ensemble],
) -> Advice:
    """Write the answer as JSON, Markdown and a page, and return it with its facts."""
    both = next(iter(ensembles.values()))
    facts = {
        "verdict": advice.verdict,
        "helps": advice.best.sign > 0,
        "warning": advice.warning,
        "best": advice.best.name,
        "ways": [asdict(way) for way in advice.ways],
        "images": {"chosen_on": int((~data.judges).sum()), "judged_on": int(data.judges.sum())},
        "failed": dict(advice.failed),
        "classifier": f"{both.classifiers[0].name}",
        "student": None if trial.student is None else f"{trial.student}",
        "prior": f"{trial.prior}",
        "source": f"{trial.source}",
        "corruption": list(trial.corruption),
        "severity": list(trial.severity),
        "seed": trial.seed,
        "device": f"{both.classifiers[0].device}",
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
    }
    files.make_folder(trial.out)
    files.write_json(trial.out / "advice.json", facts)
    text = f"{advice.verdict}\n\n{_table(advice.ways)}"
    files.write_text(trial.out / "advice.md", text)
    gallery = _gallery(data, scores, ensembles)
    page = advice_page.page(facts, gallery)
    files.write_text(trial.out / "advice.html", page)
    return replace(advice, facts=facts)


def _gallery(
    data: _Images, scores: Mapping[str, np.ndarray], ensembles: Mapping[str, Ensemble]
) -> list[advice_page.Shown]:
    """Return some images with their copies, of those that a way mends or breaks first."""
    classes = next(iter(ensembles.values())).classes
    predicted = {name: values.argmax(1) for name, values in scores.items()}
    right = {name: values == data.labels for name, values in predicted.items()}
    differs = [len({bool(hits[i]) for hits in right.values()}) > 1 for i in range(len(data.names))]
    places = tree.spread([i for i, one in enumerate(differs) if one], SHOWN)
    shown = []
    for place in places:
        pixels = [sources.read_pixels(data.source, data.names[place])]
        copies = {
            speed: both.adapter.pixels(pixels, inputs.keys(pixels))[0]
            for speed, both in ensembles.items()
        }
        answers = {
            name: (classes[predicted[name][place]], bool(right[name][place])) for name in predicted
        }
        label = classes[data.labels[place]]
        shown.append(
            advice_page.Shown(data.names[place], label, {"image": pixels[0], **copies}, answers)
        )
    return shown
