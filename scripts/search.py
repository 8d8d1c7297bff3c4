#!/usr/bin/env python3
"""Choose the sampler's settings on known degradations of training images, never on what they will be judged by.

  make_data.py degrade --base_samples clean --split train --num_samples 100 --type jpeg --level 10 20 40 --save_dir T
  scripts/search.py --model_path prior.pt --classifier resnet56.th --base_samples T --out search --ranks 2 \\
      --flags="--speed one-shot" --N 4 6 8 12 16 --D 2 4 --k 0.5 0.75 1

--base_samples is a tree of known degradations, <degradation>/<level>; others are refused. Each combination of --N, --D, --k,
--scale, --steps, --eta and --sampler, those that are given, is adapted with --flags beside it and scored with the classifier:
the mean of its accuracy on the adapted copies and of the self-ensemble. OUT gets a tree for each, search.json, search.md and
search.png, the curves; finished trees are used again.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ladder

from DDA import commands, sources
from DDA.sources.cells import cells_of
from DistilledClassifier import classifiers
from DistilledClassifier.degradations import DEGRADATIONS

PROGRAM = "search.py"
GRID = {
    "N": int,
    "D": int,
    "k": float,
    "scale": float,
    "steps": int,
    "eta": float,
    "sampler": str,
}  # and of what kind


def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 2 for wrong input, or the status of an adaptation job that failed."""
    return commands.run(lambda: _main(parser().parse_args(argv), argv), PROGRAM)


def _main(args: argparse.Namespace, argv: list[str] | None) -> int:
    combinations, beside = grid(args), shlex.split(args.flags)
    ladder.check_flags("--flags", beside)
    settings = {
        name: [*beside, *(f"--{flag}={value}" for flag, value in own.items())]
        for name, own in combinations.items()
    }
    if not args.base_samples.is_dir():
        raise ValueError(
            f"--base_samples {args.base_samples} is no folder; make_data.py degrade makes a tree"
        )
    classifier = classifiers.load(args.classifier)
    source = sources.Folder(args.base_samples)
    cells = cells_of(source, args.dataset, args.corruption, args.severity, train=True)
    check_known(cells, args.base_samples)
    examples = ladder.label(source, cells, classifier)
    if status := ladder.adapt_all(args, args.base_samples, settings):
        return status
    rows = ladder.score(examples, classifier, settings, args.out)
    result = {
        **ladder.protocol(args, PROGRAM, argv, examples, cells),
        "flags": args.flags,
        "degraded": rows[0]["adapted"]["accuracy"],
        "rows": sorted(
            (summed(row, combinations[row["setting"]]) for row in rows[1:]),
            key=lambda row: -row["mean"],
        ),
    }
    ladder.write(args.out / "search", result, table(result))
    chart(result, args.out / "search.png")
    print(f"best        {args.flags} {result['rows'][0]['flags']}")
    print(f"written     {args.out}/search.json, .md, .png")
    return 0


FLAGS = """
--model_path FILE!  the prior
--classifier FILE!  a classifier's checkpoint
--base_samples PATH!  a labelled tree, <degradation>/<level>
--out DIR!
--ranks INT = 1  run the jobs under mpiexec -n INT
--batch_size INT = 16
--flags FLAGS  of image_sample.py, for all: --flags="--speed one-shot"
[values to try]
--N VALUE+
--D VALUE+
--k VALUE+
--scale VALUE+
--steps VALUE+
--eta VALUE+
--sampler VALUE+
"""


def parser() -> argparse.ArgumentParser:
    p = commands.parser(PROGRAM, __doc__, FLAGS)
    p.set_defaults(dataset="cifar10c", corruption=["all"], severity=["all"], flags="")
    return p


def grid(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Name to the flags, with their values, of each combination. Raises ValueError."""
    axes = {name: getattr(args, name) for name in GRID if getattr(args, name)}
    if not axes:
        raise ValueError(f"give values to try: --{', --'.join(GRID)}")
    combinations = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        combinations["-".join(f"{axis}{value}" for axis, value in chosen.items())] = chosen
    return combinations


def check_known(cells: list[str], root: Path) -> None:
    """Raises ValueError for what is no known degradation: the settings would be chosen on what they are judged by."""
    unknown = sorted({cell.partition("/")[0] for cell in cells} - set(DEGRADATIONS))
    if unknown:
        known = ", ".join(DEGRADATIONS)
        raise ValueError(
            f"{root} holds {unknown[0]}: settings are chosen on known degradations only, {known}"
        )


def summed(row: dict, own: dict[str, str]) -> dict:
    """A setting with its flags of the grid, and the mean of both views."""
    views = {view: row[view]["accuracy"] for view in ladder.VIEWS}
    flags = " ".join(f"--{flag} {value}" for flag, value in own.items())
    return {"flags": flags, **views, "mean": sum(views.values()) / len(views)}


def table(result: dict) -> str:
    """Markdown, the best first."""
    rows = [
        (f"`{row['flags']}`", *(f"{row[name]:.1f}" for name in (*ladder.VIEWS, "mean")))
        for row in result["rows"]
    ]
    return (
        f"{result['protocol']}: {', '.join(result['cells'])}. Degraded: {result['degraded']:.1f} %. All with "
        f"`{result['flags'] or 'the default flags'}`.\n\n"
        f"{commands.grid(('flags', 'adapted %', 'self-ensemble %', 'mean %'), rows)}"
    )


def chart(result: dict, path: Path) -> None:
    """The mean of both views against the first flag of the grid, a curve for each value of the others."""
    curves: dict[str, list[tuple[float | str, float]]] = {}
    for row in result["rows"]:
        axis, value, *others = row["flags"].split()
        curves.setdefault(" ".join(others), []).append(
            (GRID[axis.removeprefix("--")](value), row["mean"])
        )
    axes = ladder.empty_chart(
        result["protocol"], axis.removeprefix("--"), "accuracy, mean of both views, %"
    )
    for label in sorted(curves):
        axes.plot(
            *zip(*sorted(curves[label]), strict=True),
            marker="o",
            label=label.replace("--", "") or None,
        )
    axes.set_xticks(sorted({x for points in curves.values() for x, _ in points}))
    axes.axhline(
        result["degraded"], color="dimgray", linestyle="--", linewidth=1, label="not adapted"
    )
    axes.legend(fontsize=8)
    axes.figure.savefig(path, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
