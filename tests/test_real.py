"""Whole jobs on real degraded photographs, with a real prior and a published classifier.

They take more than an hour on two cores.

    DIFFAUD_SLOW_DIR=/somewhere scripts/test.sh -m slow -s tests/test_real.py

The adapted trees are kept in DIFFAUD_SLOW_DIR, so that an interrupted run goes on where it stopped.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, SHARED, needs_shared, processes_of

from DDA import files, images, tree
from DDA.sources import open_source
from DistilledClassifier import classifiers, recipes
from DistilledClassifier.corruptions import CORRUPTIONS, corrupt

pytestmark = [pytest.mark.slow, needs_shared]
OPEN = SHARED / "data" / "cifar10c_open.npz"
RESNET56 = SHARED / "ckpt" / "resnet56-4bfd9763.th"
PRIOR = SHARED / "ckpt" / "cifar10_small_linear.pt"
SCRIPT = ROOT / "DDA" / "image_adapt" / "scripts" / "image_sample.py"
CELL = "gaussian_noise/5"
ENV = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
ENV["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    kept = os.environ.get("DIFFAUD_SLOW_DIR")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("real")
    if not (folder / "source" / "classes.txt").exists():
        source = open_source(OPEN)
        for name in source.list(CELL)[0]:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            source.read(name).save(folder / "source" / name)
        tree.write_classes(folder / "source", source.classes)
    return folder


def command(folder, name, *flags, ranks=2, batch_size=16):
    job = [
        sys.executable,
        SCRIPT,
        "--model_path",
        PRIOR,
        "--base_samples",
        folder / "source",
        "--save_dir",
        folder / name,
        "--dataset",
        "cifar10c",
        "--corruption",
        "gaussian_noise",
        "--batch_size",
        batch_size,
        *flags,
    ]
    return [*map(str, ["mpiexec", "-n", ranks, *job])]


def adapted(folder, name, *flags, **options):
    """Return the pixels, uint8 (250,32,32,3), in the order of the keys."""
    subprocess.run(command(folder, name, *flags, **options), env=ENV, check=True)
    return read(folder / name)


def read(root):
    saved = tree.saved_images(root, [CELL])
    assert len(saved) == 250
    return np.stack([np.asarray(images.read_rgb(root / saved[key])) for key in sorted(saved)])


def sources(folder):
    """Return pixels and labels in the order of the keys."""
    paths = tree.list_images(folder / "source", CELL)[0]
    classes = (folder / "source" / "classes.txt").read_text().split()
    labels = [classes.index(Path(path).name.split("_")[0]) for path in paths]
    return np.stack(
        [np.asarray(images.read_rgb(folder / "source" / path)) for path in paths]
    ), torch.tensor(labels)


def agreement(one, other):
    return (np.abs(one.astype(int) - other) <= 1).mean()


def psnr(one, other):
    return 10 * np.log10(
        255**2 / np.maximum(((one.astype(float) - other) ** 2).mean((1, 2, 3)), 1e-9)
    )


def right(folder, pixels):
    """Return where the published ResNet-56 is right: on both views, and as a self-ensemble.

    The three are floats (250,), which are 1 where the prediction is right.
    """
    classifier = classifiers.load(RESNET56)
    degraded, labels = sources(folder)
    one, two = classifier.scores(degraded), classifier.scores(pixels)
    return [
        (scores.argmax(1) == labels).double()
        for scores in (one, two, one.softmax(1) + two.softmax(1))
    ]


@pytest.mark.parametrize(("ranks", "batch_size"), [(1, 7), (1, 64), (2, 64), (2, 1), (1, 1)])
def test_rank_count_and_batch_size_change_nothing(folder, ranks, batch_size):
    expected = adapted(folder, "r2b7", batch_size=7)
    actual = adapted(folder, f"r{ranks}b{batch_size}", ranks=ranks, batch_size=batch_size)
    gap = np.abs(actual.astype(int) - expected)
    print(
        f"\n{ranks} ranks, batch {batch_size}: {100 * (gap <= 1).mean():.4f} % within 1 grey "
        f"level, largest gap {gap.max()}"
    )
    assert agreement(actual, expected) >= 0.999


def test_the_mean_accuracy_of_three_seeds_beats_the_noise(folder):
    runs = [adapted(folder, "r2b7", batch_size=7)] + [
        adapted(folder, f"seed{s}", "--seed", str(s)) for s in (1, 2)
    ]
    table = torch.stack([torch.stack([view.mean() for view in right(folder, run)]) for run in runs])
    print(
        "\nsource, adapted, self-ensemble, % of 250 images, one row a seed:\n",
        (100 * table).round(decimals=1),
    )
    assert table[:, 1].mean() >= 0.31 > table[0, 0]


def test_bfloat16_is_close_to_float32(folder):
    exact, rounded = (
        adapted(folder, "r2b7", batch_size=7),
        adapted(folder, "bf16", "--dtype", "bfloat16"),
    )
    decibels = psnr(exact, rounded)
    print(
        "\nPSNR dB of bfloat16 against float32: min, 5 %, median, 95 %, max",
        np.percentile(decibels, (0, 5, 50, 95, 100)).round(1),
    )
    assert np.median(decibels) >= 40
    for name, one, two in zip(
        ("adapted", "self-ensemble"),
        right(folder, exact)[1:],
        right(folder, rounded)[1:],
        strict=True,
    ):
        gap = two - one
        error = float(gap.std() / len(gap) ** 0.5)
        means = f"float32 {100 * one.mean():.1f} %, bfloat16 {100 * two.mean():.1f} %"
        print(f"{name}: {means}, paired standard error {100 * error:.2f}")
        assert abs(float(gap.mean())) <= max(0.01, 3 * error)


def test_ten_kills_of_a_rank_lose_nothing(folder):
    """A job whose ranks are killed at random moments ends with the tree of an undisturbed job."""
    rng = random.Random(0)
    kills = 0
    while kills < 10:
        job = subprocess.Popen(
            command(folder, "killed", batch_size=7),
            env=ENV,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        time.sleep(rng.uniform(5, 30))
        if job.poll() is not None:
            assert job.returncode == 0
            break  # finished before it could be killed
        os.kill(rng.choice(processes_of(f"{folder}/killed")), signal.SIGKILL)
        errors, _ = job.communicate(timeout=60)
        assert job.returncode != 0 and "BAD TERMINATION" in errors
        kills += 1
        present = len(tree.saved_images(folder / "killed", [CELL]))
        print(f"kill {kills}: {present} images, all of them whole: {all_whole(folder / 'killed')}")
        assert all_whole(folder / "killed")
    assert kills == 10
    final = adapted(folder, "killed", batch_size=7)
    share = agreement(final, adapted(folder, "r2b7", batch_size=7))
    print(f"{100 * share:.4f} % of the values within 1 grey level of the uninterrupted run")
    assert share >= 0.999
    assert not [
        path for path in (folder / "killed").rglob("*") if path.name.endswith(files.TEMPORARY)
    ]


def all_whole(root):
    return all(
        images.read_rgb(root / path).size == (32, 32)
        for path in tree.saved_images(root, [CELL]).values()
    )


def test_our_corruptions_cost_a_classifier_as_much_as_the_real_cifar_10_c():
    """Our corruptions cost the published ResNet-56 as much accuracy as the real ones.

    Ours are the mean of 5 seeds; the comparison is paired by image.
    """
    with np.load(OPEN) as data:
        real = {name: data[name] for name in CORRUPTIONS}
        clean, labels = data["clean"], torch.from_numpy(data["labels"]).long()
    classifier = classifiers.load(RESNET56)

    def right(pixels):
        return (classifier.scores(pixels).argmax(1) == labels).double().numpy() * 100

    outside = []
    print(
        "\n| corruption | real % | ours - real, mean of severities | standard error | by "
        "severity |\n|---|---|---|---|---|"
    )
    for name in CORRUPTIONS:
        theirs = np.stack([right(pixels) for pixels in real[name]])
        ours = np.stack(
            [
                np.mean(
                    [
                        right(
                            np.stack(
                                [
                                    corrupt(
                                        image,
                                        name,
                                        severity,
                                        rng=recipes.generator(seed, f"{name}/{severity}/{i}"),
                                    )
                                    for i, image in enumerate(clean)
                                ]
                            )
                        )
                        for seed in range(5)
                    ],
                    axis=0,
                )
                for severity in range(1, 6)
            ]
        )
        gap = ours - theirs  # (severity, image)
        errors = gap.std(axis=1, ddof=1) / len(labels) ** 0.5
        mean, error = gap.mean(), gap.mean(0).std(ddof=1) / len(labels) ** 0.5
        outside += [(name, s + 1) for s in range(5) if abs(gap[s].mean()) > 3 * errors[s]]
        cells = ", ".join(f"{g:+.1f} ({e:.1f})" for g, e in zip(gap.mean(1), errors, strict=True))
        print(f"| {name} | {theirs.mean():.1f} | {mean:+.2f} | {error:.2f} | {cells} |")
        assert abs(mean) <= max(2, 3 * error), name
    print(f"{len(outside)} of 75 cells outside 3 standard errors: {outside}")
    assert len(outside) <= 2
