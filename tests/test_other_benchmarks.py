"""RobustBench and torch-uncertainty evaluate an `Ensemble` on a part of CIFAR-10-C, in two minutes.

pip installs both from the package index in an environment of their own, in pytest's cache. It
borrows torch from the environment that runs the tests, so that torch is not installed a second
time.
"""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SHARED, needs_shared

from DDA import metrics
from DDA.model_adapt import results
from DDA.model_adapt.ensemble import combine

pytest.importorskip("mmcls")  # test_ensemble.py reads its config with mmcv
pytestmark = [pytest.mark.slow, needs_shared]
OPEN = SHARED / "data" / "cifar10c_open.npz"
PRIOR = SHARED / "ckpt" / "cifar10_small_linear.pt"
CLASSIFIER = SHARED / "ckpt" / "resnet56-4bfd9763.th"
CONFIG = "configs/ensemble/resnet18_ensemble_b64_cifar10c.py"
CORRUPTIONS = ("fog", "gaussian_noise", "glass_blur")
CELLS = [f"{name}/5" for name in CORRUPTIONS]
# These packages need torch, which is borrowed; so they are installed without what they require.
WITHOUT_REQUIREMENTS = [
    *("robustbench==1.1.1", "timm==1.0.9", "geotorch", "torchdiffeq", "pyautoattack"),
    *("torch-uncertainty==0.13.0", "lightning<2.7", "pytorch-lightning<2.7"),
    *("torchmetrics", "lightning-utilities"),
]
# The rest of what they require. RobustBench imports pkg_resources, which setuptools 81 dropped.
REST = [
    *("setuptools<81", "gdown==5.1.0", "requests", "pandas"),
    *("einops", "seaborn", "jsonargparse[signatures]", "rich"),
]


@pytest.fixture(scope="module")
def python(pytestconfig) -> Path:
    """The interpreter of an environment with both packages, made once."""
    folder = pytestconfig.cache.mkdir("other_benchmarks")
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    interpreter, stamp = folder / "bin" / "python", folder / "installed.json"
    wanted = json.dumps([sys.version, borrowed, WITHOUT_REQUIREMENTS, REST])
    if stamp.exists() and stamp.read_text() == wanted:
        return interpreter
    venv.create(folder, clear=True, with_pip=True)
    places = {"base": folder, "platbase": folder}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=places))
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    pip = [interpreter, "-m", "pip", "install", "--quiet"]
    run(*pip, "--no-deps", *WITHOUT_REQUIREMENTS)
    run(*pip, *REST)
    stamp.write_text(wanted)
    return interpreter


def run(*command) -> None:
    """Run a command; a test fails with its output where it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    # lightning loads mpi4py where there is one; its library lies in the borrowed environment
    libraries = [f"{sys.prefix}/lib", os.environ.get("LD_LIBRARY_PATH", "")]
    environment |= {"PYTHONPATH": f"{ROOT}", "LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    result = subprocess.run(
        [*map(str, command)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A part of CIFAR-10-C, its adapted copies, and what test_ensemble.py says of them."""
    folder = tmp_path_factory.mktemp("other_benchmarks")
    with np.load(OPEN) as data:
        part = {name: data[name] for name in ("labels", *CORRUPTIONS)}
    np.savez(folder / "degraded.npz", **part)
    scripts = (ROOT / "DDA/image_adapt/scripts/image_sample.py", "DDA/model_adapt/test_ensemble.py")
    cells = ["--corruption", "all", "--severity", "5"]
    source = ["--base_samples", folder / "degraded.npz", "--save_dir", folder / "adapted"]
    method = ["--model_path", PRIOR, "--speed", "one-shot", "--dataset", "cifar10c"]
    run(sys.executable, scripts[0], *source, *method, *cells)
    views = ["--data_prefix1", folder / "degraded.npz", "--data_prefix2", folder / "adapted"]
    evaluation = [CONFIG, CLASSIFIER, *views, *cells, "--out", folder / "eval"]
    run(sys.executable, ROOT / scripts[1], *evaluation)
    return folder


@pytest.fixture(scope="module")
def answers(python, folder) -> dict:
    """What both benchmarks say of each cell."""
    return evaluate(python, folder, "every_cell")


def evaluate(python: Path, folder: Path, task: str) -> dict:
    """What a task of other_benchmarks.py writes."""
    out = folder / f"{task}.json"
    inputs = (PRIOR, CLASSIFIER, folder / "degraded.npz", folder / "eval")
    run(python, ROOT / "tests" / "other_benchmarks.py", task, *inputs, out)
    return json.loads(out.read_text())


def stored(folder: Path, cell: str) -> tuple[np.ndarray, np.ndarray]:
    """The combined scores (N,K) and the labels (N,) that test_ensemble.py wrote."""
    columns = results.read(folder / "eval", cell)
    first, second = (torch.from_numpy(columns[name]) for name in ("first", "second"))
    return combine(first, second, "sum").numpy(), columns["labels"].astype(np.int64)


def hits(answer: dict, labels: np.ndarray) -> np.ndarray:
    """Which images RobustBench counted as right, as float (N,)."""
    return metrics.hits(np.array(answer["scores"]), labels).astype(float)


@pytest.mark.parametrize("cell", CELLS)
def test_with_the_same_keys_robustbench_sees_the_scores_of_test_ensemble(folder, answers, cell):
    scores, labels = stored(folder, cell)
    answer = answers[cell]["seeds"][0]
    assert np.abs(np.array(answer["scores"]) - scores).max() <= 1e-4
    assert answer["top1"] == pytest.approx(metrics.hits(scores, labels).mean(), abs=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_with_the_same_keys_torch_uncertainty_finds_the_metrics_of_test_ensemble(
    folder, answers, cell
):
    scores, labels = stored(folder, cell)
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(scores), torch.from_numpy(labels))
    answer = answers[cell]["torch_uncertainty"]
    assert answer["test/cls/Acc"] == pytest.approx(metrics.hits(scores, labels).mean(), abs=1e-4)
    assert answer["test/cls/NLL"] == pytest.approx(float(loss), abs=1e-4)


def test_without_keys_top_1_lies_within_the_spread_of_three_sampler_seeds(folder, answers):
    """Compare top-1 without keys with the mean of three seeds, in standard deviations of the noise.

    Without keys the noise is one more draw beside those of the three seeds. A fourth draw lies
    outside the range of three with probability 1/2, so the range is printed and not asserted. The
    spread is the standard deviation of top-1 from draw to draw. The images tell it better than
    three numbers do: the noises of two images are independent, so the variance of the count of
    hits is the sum of each image's variance over the seeds. The difference of a draw from the
    mean of three others has 4/3 of the variance of a draw. Allowed are 3 standard deviations of
    that difference.
    """
    table, outside = [], 0
    for cell in CELLS:
        labels = stored(folder, cell)[1]
        seeds = np.stack([hits(answer, labels) for answer in answers[cell]["seeds"]])
        own = hits(answers[cell]["without_keys"], labels)
        assert answers[cell]["without_keys"]["top1"] == pytest.approx(own.mean(), abs=1e-6)
        variance = seeds.var(axis=0, ddof=1).sum() / len(labels) ** 2
        table.append((own.mean(), seeds.mean(), variance))
        least, most = seeds.mean(1).min(), seeds.mean(1).max()
        outside += not least <= own.mean() <= most
        print(f"\n{cell}: {own.mean():.1%}, seeds {least:.1%} to {most:.1%}, {variance**0.5:.2%}")
    own, seeds, variances = np.array(table).T
    allowed = 3 * np.sqrt(variances * 4 / 3)
    print(f"{outside} of {len(CELLS)} cells outside the seeds' range")
    assert (np.abs(own - seeds) <= allowed).all()
    together = 3 * np.sqrt(variances.sum() * 4 / 3) / len(CELLS)
    assert abs(own.mean() - seeds.mean()) <= together
    assert (variances > 0).all()  # other seeds are other noise


def test_guidance_by_a_gradient_runs_where_inference_mode_is_on(python, folder):
    for cell, (loss, expected) in evaluate(python, folder, "gradient").items():
        assert loss == pytest.approx(expected, abs=1e-4), cell
