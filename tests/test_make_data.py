"""Making data: trees, degraded copies, checks and sheets, from the command line and in Python."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from DDA import files, images, tree
from DDA.sources import Folder, open_source
from DistilledClassifier import degradations, make_data, making, recipes, trees, verify
from DistilledClassifier.corruptions import corrupt
from DistilledClassifier.making import Originals, Target

CLASSES = ("cat", "dog")


@pytest.fixture
def clean(tmp_path) -> Path:
    """A prepared tree: 2 splits of 6 smooth images in 2 classes, flat names as CIFAR's."""
    rng = np.random.default_rng(0)
    for split in ("cifar_train", "cifar_test"):
        folder = tmp_path / "set" / "clean" / split
        folder.mkdir(parents=True)
        for i in range(6):
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(
                folder / f"{CLASSES[i % 2]}_{i:05}.png"
            )
    tree.write_classes(tmp_path / "set", CLASSES)
    return tmp_path / "set"


def run(flags, *, status=0, **paths):
    """Run a command; the paths follow the other flags, each with the flag of its name."""
    argv = flags.split()
    for name, path in paths.items():
        argv += [f"--{name}", str(path)]
    assert make_data.main(argv) == status


def contents(root):
    """Return every file's bytes but the manifests', which hold the path of the source."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file() and path.suffix != ".json"
    }


def test_degraded_copies_have_the_level_that_the_manifest_tells(clean, tmp_path):
    run(
        "degrade --type jpeg noise combined --workers 1",
        base_samples=clean,
        save_dir=tmp_path / "deg",
    )
    assert (tmp_path / "deg/classes.txt").read_text().split() == list(CLASSES)
    for kind in ("jpeg", "noise", "combined"):
        manifest = files.read_json(tmp_path / f"deg/made.{kind}.json")
        assert manifest["state"] == "complete" and len(manifest["images"]) == 12
        for target, entry in manifest["images"].items():
            source = np.asarray(images.read_rgb(clean / target.replace(kind, "clean", 1)))
            rng = recipes.generator(0, tree.key_of(target))
            drawn = recipes.Recipe(kind, "degrade", kind).draw(rng)
            assert drawn == (entry["name"], entry["level"]) and (
                kind == "combined" or entry["name"] == kind
            )
            expected = degradations.by_name(entry["name"])(source, entry["level"], rng)
            np.testing.assert_array_equal(images.read_rgb(tmp_path / "deg" / target), expected)
    levels = [
        entry["level"]
        for entry in files.read_json(tmp_path / "deg/made.noise.json")["images"].values()
    ]
    assert len(set(levels)) > 4


COMMANDS = {
    "degrade": "degrade --type blur saltpepper combined",
    "levels": "degrade --type jpeg --level 10 30 --split cifar_test",
    "sequence": "sequence --split cifar_test --name weak_seq strong_seq_published",
    "corrupt": "corrupt --split cifar_test --corruption gaussian_noise snow --severity 2 5",
    "prepare": "prepare",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_one_seed_gives_the_same_bytes_with_one_process_and_with_two(clean, tmp_path, name):
    command = COMMANDS[name]
    run(f"{command} --workers 1", base_samples=clean, save_dir=tmp_path / "one")
    run(f"{command} --workers 2", base_samples=clean, save_dir=tmp_path / "two")
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) > 6
    if name != "prepare":
        run(f"{command} --workers 1 --seed 1", base_samples=clean, save_dir=tmp_path / "other")
        assert (one == contents(tmp_path / "other")) == (name == "levels")  # JPEG draws nothing


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("degrade --type jpeg", ["jpeg/cifar_test", "jpeg/cifar_train"]),
        (
            "degrade --type jpeg --level test --split cifar_test",
            [f"jpeg/{severity}" for severity in range(1, 6)],
        ),
        ("degrade --type blur --level 0.5 --split cifar_test", ["blur/0.5"]),
        ("sequence --split cifar_test", ["medium_seq/0", "strong_seq/0", "weak_seq/0"]),
        ("corrupt --split cifar_test --corruption fog --severity 4", ["fog/4"]),
        ("prepare", ["clean/cifar_test", "clean/cifar_train"]),
    ],
)
def test_the_trees_are_laid_out_as_the_adaptation_job_reads_them(
    clean, tmp_path, command, expected
):
    run(f"{command} --workers 1", base_samples=clean, save_dir=tmp_path / "out")
    names = tree.list_images(tmp_path / "out")[0]
    cats = [name for name in names if name.endswith("cat_00000.png")]
    assert cats == [f"{folder}/cat_00000.png" for folder in expected]


def test_the_fixed_test_levels_are_the_papers(clean, tmp_path):
    run(
        "degrade --split cifar_test --type noise --level test",
        base_samples=clean,
        save_dir=tmp_path / "out",
    )
    levels = [
        files.read_json(tmp_path / f"out/made.noise.{s}.json")["settings"]["level"]
        for s in range(1, 6)
    ]
    np.testing.assert_allclose(levels, [57.0, 80.6, 98.8, 114.0, 127.5], atol=0.05)


def test_a_finished_command_does_nothing_and_an_unfinished_one_goes_on(clean, tmp_path, capsys):
    command = "degrade --type noise --workers 1"
    places = {"base_samples": clean, "save_dir": tmp_path / "out"}
    run(command, **places)
    first = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    lost = tmp_path / "out/noise/cifar_test/dog_00003.png"
    lost.unlink()
    (tmp_path / f"out/noise/{platform.node()[:64]}-9999999-aa{files.TEMPORARY}").write_bytes(
        b"half"
    )
    run(command, **places)
    assert contents(tmp_path / "out") == first
    assert all(path.stat().st_mtime_ns == at for path, at in times.items() if path != lost)
    before = (tmp_path / "out/made.noise.json").stat().st_mtime_ns
    run(command, **places)
    assert (tmp_path / "out/made.noise.json").stat().st_mtime_ns == before


def test_a_killed_writer_leaves_whole_files_and_the_next_run_completes_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    script = ROOT / "DistilledClassifier" / "make_data.py"
    flags = ["degrade", "--type", "blur", "--workers", "2"]
    places = ["--base_samples", tmp_path / "x.npy", "--save_dir", tmp_path / "out"]
    command = [sys.executable, *map(str, [script, *flags, *places])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(list((tmp_path / "out").rglob("*.png"))) < 100 and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2.5)  # the workers see that their parent is gone
    written = tree.list_images(tmp_path / "out")[0]
    assert 100 <= len(written) < 3000
    assert all(images.read_rgb(tmp_path / "out" / name).size == (64, 64) for name in written)
    time.sleep(0.5)
    assert len(tree.list_images(tmp_path / "out")[0]) == len(written)  # no orphan goes on
    assert verify.verify(tmp_path / "out")[1]["made.blur.json"].startswith(
        "the run that made this folder did not end"
    )
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(tree.list_images(tmp_path / "out")[0]) == 3000
    assert not list((tmp_path / "out").rglob(f"*{files.TEMPORARY}"))
    assert not verify.verify(tmp_path / "out")[1]


def test_another_way_of_making_them_is_refused(clean, tmp_path, capsys):
    command = "degrade --type noise --workers 1"
    places = {"base_samples": clean, "save_dir": tmp_path / "out"}
    run(command, **places)
    run(f"{command} --seed 3", **places, status=2)
    assert "was made in another way: seed 0 there, 3 here" in capsys.readouterr().err
    run(f"{command} --behavior published", **places, status=2)
    assert "how corrected there, published here" in capsys.readouterr().err
    Image.new("RGB", (32, 32)).save(clean / "clean/cifar_test/cat_00000.png")
    run(command, **places, status=2)
    assert "another source" in capsys.readouterr().err
    (tmp_path / "out/made.noise.json").unlink()
    run(command, **places, status=2)
    assert "were not made here" in capsys.readouterr().err
    (tmp_path / "out" / tree.SETTINGS).write_text("{}")
    run(command, **places, status=2)
    assert "holds adapted images" in capsys.readouterr().err


def test_broken_images_are_named_counted_and_tried_again(clean, tmp_path, capsys):
    bad = clean / "clean/cifar_test/dog_00001.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40])
    command = "degrade --type blur"
    places = {"base_samples": clean, "save_dir": tmp_path / "out"}
    run(f"{command} --workers 2", **places, status=1)
    errors = capsys.readouterr().err
    assert (
        "failed: blur/cifar_test/dog_00001.png" in errors
        and "clean/cifar_test/dog_00001.png: " in errors
        and "1 of 12 images failed" in errors
    )
    assert list(files.read_json(tmp_path / "out/made.blur.json")["failures"]) == [
        "blur/cifar_test/dog_00001.png"
    ]
    run("verify", save_dir=tmp_path / "out", status=1)
    assert "dog_00001.png: failed when it was made" in capsys.readouterr().err
    bad.write_bytes(whole)
    run(command, **places)
    run("verify", save_dir=tmp_path / "out")


@pytest.fixture
def made(clean, tmp_path) -> Path:
    command = "corrupt --split cifar_test --corruption fog contrast --severity 1 3 --workers 1"
    run(command, base_samples=clean, save_dir=tmp_path / "C")
    return tmp_path / "C"


HARM = {
    "missing": (
        lambda root: (root / "fog/3/cat_00002.png").unlink(),
        "fog/3/cat_00002.png: missing",
    ),
    "extra": (
        lambda root: shutil.copy(root / "fog/3/cat_00002.png", root / "fog/3/cat_00077.png"),
        "fog/3/cat_00077.png: extra",
    ),
    "truncated": (
        lambda root: (root / "fog/3/cat_00002.png").write_bytes(
            (root / "fog/3/cat_00002.png").read_bytes()[:-90]
        ),
        "fog/3/cat_00002.png: truncated or damaged",
    ),
    "mislabelled": (
        lambda root: (root / "fog/3/cat_00002.png").rename(root / "fog/3/dog_00002.png"),
        "fog/3/dog_00002.png: mislabelled: it should be fog/3/cat_00002.png",
    ),
    "no class": (
        lambda root: (root / "fog/3/cat_00002.png").rename(root / "fog/3/cow_00002.png"),
        "fog/3/cow_00002.png: mislabelled: its name has none of the classes",
    ),
    "no image": (
        lambda root: (root / "fog/3/notes.txt").write_text("x"),
        "fog/3/notes.txt: no image",
    ),
}


@pytest.mark.parametrize("manifests", [True, False])
@pytest.mark.parametrize("harm", HARM)
def test_verify_finds(made, capsys, harm, manifests):
    run("verify", save_dir=made)
    assert "24 images in 4 folders, 0 faults" in capsys.readouterr().out
    if not manifests:  # a downloaded tree: its cells are compared with each other
        for path in made.glob("made*.json"):
            path.unlink()
        run("verify", save_dir=made)
    HARM[harm][0](made)
    run("verify", save_dir=made, status=1)
    assert HARM[harm][1] in capsys.readouterr().err


def test_verify_knows_classes_that_share_file_names(tmp_path, capsys):
    for cell in ("fog/1", "fog/2", "fog/3"):
        for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
            (tmp_path / cell / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / cell / f"{name}.png")
    tree.write_classes(tmp_path, CLASSES)
    run("verify", save_dir=tmp_path)
    (tmp_path / "fog/2/cat/1.png").unlink()
    (tmp_path / "fog/2/dog/1.png").unlink()
    run("verify", save_dir=tmp_path, status=1)
    lines = [f"make_data.py: fog/2/{name}/1.png: missing\n" for name in ("cat", "dog")]
    assert capsys.readouterr().err == "".join(lines)


def test_verify_finds_an_altered_file(made, capsys):
    Image.new("RGB", (32, 32)).save(made / "fog/3/cat_00002.png")
    run("verify", save_dir=made, status=1)
    assert "fog/3/cat_00002.png: altered" in capsys.readouterr().err


def test_verify_compares_with_the_clean_images(made, clean, capsys):
    for path in made.glob("made*.json"):
        path.unlink()
    for cell in ("fog/1", "fog/3", "contrast/1", "contrast/3"):
        (
            made / cell / "cat_00004.png"
        ).unlink()  # missing everywhere, so that comparing cells finds nothing
    run("verify", save_dir=made)
    run("verify --split cifar_test", save_dir=made, base_samples=clean, status=1)
    assert capsys.readouterr().err.count("cat_00004.png: missing") == 4


def test_the_official_arrays_are_the_tree(clean, tmp_path):
    command = "corrupt --split cifar_test --corruption contrast snow"
    run(f"{command} --format npy", base_samples=clean, save_dir=tmp_path / "C")
    array, labels = np.load(tmp_path / "C/contrast.npy"), np.load(tmp_path / "C/labels.npy")
    assert array.shape == (30, 32, 32, 3) and labels.tolist() == [0, 1, 0, 1, 0, 1] * 5
    for row in range(6):
        image = np.asarray(
            images.read_rgb(clean / f"clean/cifar_test/{CLASSES[row % 2]}_{row:05}.png")
        )
        np.testing.assert_array_equal(array[12 + row], corrupt(image, "contrast", 3))
    run("verify", save_dir=tmp_path / "C")
    source = open_source(tmp_path / "C", CLASSES)
    for name in source.names:
        np.testing.assert_array_equal(source.read(name), images.read_rgb(tmp_path / "C" / name))


def test_prepare_links_image_files_and_writes_pixels_as_png(clean, tmp_path):
    run("prepare --workers 1", base_samples=clean, save_dir=tmp_path / "linked")
    name = "clean/cifar_test/cat_00000.png"
    assert os.path.samefile(clean / name, tmp_path / "linked" / name)
    np.savez(
        tmp_path / "x.npz",
        labels=np.arange(10),
        fog=np.random.default_rng(0).integers(0, 256, (2, 10, 32, 32, 3), dtype=np.uint8),
    )
    run("prepare --workers 1", base_samples=tmp_path / "x.npz", save_dir=tmp_path / "pixels")
    assert tree.list_images(tmp_path / "pixels", "fog/2")[0][0] == "fog/2/airplane_00000.png"
    run("verify", save_dir=tmp_path / "pixels")
    run("prepare --num_samples 3", base_samples=tmp_path / "x.npz", save_dir=tmp_path / "few")
    assert len(Folder(tmp_path / "few").names) == 3
    run(
        "prepare --num_samples 5", base_samples=tmp_path / "x.npz", save_dir=tmp_path / "few"
    )  # some of them again
    run("verify", save_dir=tmp_path / "few")


def test_a_list_chooses_images_by_name(clean, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("dog_00001\ncat_00004.png\n")
    command = "prepare --split cifar_test"
    places = {"base_samples": clean, "save_dir": tmp_path / "out", "list": tmp_path / "list.txt"}
    run(command, **places)
    assert [Path(name).stem for name in Folder(tmp_path / "out").names] == [
        "cat_00004",
        "dog_00001",
    ]
    (tmp_path / "list.txt").write_text("dog_00001\nhorse_1\n")
    run(command, **places, status=2)
    assert "names 2 images, of which" in capsys.readouterr().err


def test_the_list_of_5000_imagenet_images_names_5000_of_the_50000():
    lines = (ROOT / "DistilledClassifier/lists/imagenet_val_5k.txt").read_text().split()
    numbers = {int(line.removeprefix("ILSVRC2012_val_")) for line in lines}
    assert len(lines) == len(numbers) == 5000 and min(numbers) >= 1 and max(numbers) <= 50000


@pytest.mark.parametrize(
    "kind", ["jpeg", "blur", "noise", "saltpepper", "weak_seq", "glass_blur", "frost"]
)
def test_the_sheet_shows_all_levels(clean, tmp_path, kind):
    run("sheet --num_samples 3", base_samples=clean, type=kind, out=tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows = 7 if kind == "weak_seq" else 6
        assert sheet.height > rows * 128 and sheet.width > 3 * 128


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("degrade --type jpeg --level 0", "jpeg level 0.0 is outside 1..101"),
        ("degrade --type jpeg --level low", "--level low"),
        ("degrade --type combined --level 5", "does not go with --type combined"),
        ("corrupt --corruption rain", "--corruption rain is unknown"),
        ("corrupt --severity 9", "--severity 9 must be 1..5"),
        ("corrupt --severity 5 --format npy", "--format npy holds all five severities"),
        ("degrade --type jpeg --split val", "has no images in --split val"),
        ("degrade --type jpeg --num_samples 0", "--num_samples 0"),
        ("prepare --workers 0", "--workers 0"),
        ("prepare --severity 9", "--severity 9 must be 1..5"),
        ("prepare --base_samples nowhere", "nowhere does not exist"),
        ("prepare --classes nothing.txt", "--classes nothing.txt is neither a file nor one of"),
    ],
)
def test_wrong_input_is_named(clean, tmp_path, capsys, command, words):
    places = {} if "--base_samples" in command else {"base_samples": clean}
    run(command, save_dir=tmp_path / "out", **places, status=2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_verify_and_sheet_name_wrong_input(clean, tmp_path, capsys):
    run("verify", save_dir=tmp_path / "nothing", status=2)
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    run("verify", save_dir=tmp_path / "nothing", status=2)
    assert "holds no images" in capsys.readouterr().err
    run("sheet --type rain", base_samples=clean, out=tmp_path / "a.png", status=2)
    assert "--type rain is unknown" in capsys.readouterr().err
    run("sheet --type jpeg", base_samples=clean, out=tmp_path / "a.jpg", status=2)
    assert "must end in .png" in capsys.readouterr().err


def test_manifests_are_plain_json(made):
    manifest = json.loads((made / "made.fog.3.json").read_text())
    assert manifest["settings"]["name"] == "fog" and manifest["state"] == "complete"
    assert set(manifest["images"]) == set(tree.list_images(made, "fog/3")[0])


def test_copies_beside_their_sources_are_no_sources(tmp_path):
    """The target is the folder of the sources, or lies in it; there is no clean folder."""
    (tmp_path / "photos/cat").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (16, 16), (40 * i, 0, 0)).save(tmp_path / f"photos/cat/{i}.png")
    for target in ("photos", "photos/copies"):
        for _ in range(2):
            run(
                "degrade --type jpeg --workers 1",
                base_samples=tmp_path / "photos",
                save_dir=tmp_path / target,
            )
        run(
            "degrade --type blur --workers 1",
            base_samples=tmp_path / "photos",
            save_dir=tmp_path / target,
        )
    assert len(tree.list_images(tmp_path / "photos")[0]) == 3 + 2 * 6
    assert not (tmp_path / "photos/blur/jpeg").exists()


def test_an_image_that_a_recipe_refuses_is_a_failure_of_its_own(clean, tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(clean / "clean/cifar_test/cat_00099.png")
    command = "corrupt --split cifar_test --corruption fog"
    places = {"base_samples": clean, "save_dir": tmp_path / "out"}
    run(f"{command} --severity 1 --workers 1", **places, status=1)
    errors = capsys.readouterr().err
    assert (
        "clean/cifar_test/cat_00099.png: fog wants" in errors and "1 of 7 images failed" in errors
    )


def test_an_altered_file_stays_altered_after_the_next_run(clean, tmp_path, capsys):
    command = "degrade --type noise --workers 1"
    places = {"base_samples": clean, "save_dir": tmp_path / "out"}
    run(command, **places)
    Image.new("RGB", (32, 32)).save(tmp_path / "out/noise/cifar_test/cat_00000.png")
    (tmp_path / "out/noise/cifar_test/dog_00001.png").unlink()
    run(command, **places)
    run("verify", save_dir=tmp_path / "out", status=1)
    assert "noise/cifar_test/cat_00000.png: altered" in capsys.readouterr().err


def test_verify_says_in_one_line_that_a_run_did_not_end(made, capsys):
    manifest = json.loads((made / "made.fog.3.json").read_text())
    (made / "made.fog.3.json").write_text(
        json.dumps({**manifest, "state": "running", "images": {}})
    )
    run("verify", save_dir=made, status=1)
    fault = "made.fog.3.json: the run that made this folder did not end; run it again"
    assert capsys.readouterr().err == f"make_data.py: {fault}\n"
    (made / "made.fog.3.json").write_text("{}")
    run("verify", save_dir=made, status=2)
    assert "made.fog.3.json is damaged: the entry failures is missing" in capsys.readouterr().err


def test_classes_that_do_not_fit_are_refused(clean, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("cow\nbird\n")
    command = "prepare"
    places = {
        "base_samples": clean / "clean" / "cifar_test",
        "save_dir": tmp_path / "out",
        "classes": tmp_path / "classes.txt",
    }
    run(command, **places, status=2)
    assert (
        "has no class of cat_00000.png" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )
    for content, words in ((b"", "is empty"), (b"\xff\xfe", "is no text file")):
        (tmp_path / "classes.txt").write_bytes(content)
        run(command, **places, status=2)
        assert words in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "bare/1.png")
    run("corrupt --format npy", base_samples=tmp_path / "bare", save_dir=tmp_path / "npy", status=2)
    assert (
        "--format npy needs labels" in capsys.readouterr().err and not (tmp_path / "npy").exists()
    )


def test_a_new_degradation_is_one_entry_that_combined_and_the_command_line_know(
    clean, tmp_path, monkeypatch, capsys
):
    invert = degradations.Degradation(
        lambda image, level, rng, behavior: 255 - image, training=(0, 1, 1), test=(1,) * 5
    )
    drawn = [
        recipes.Recipe("combined", "degrade", "combined").draw(recipes.generator(0, f"{i}"))
        for i in range(40)
    ]
    monkeypatch.setitem(degradations.DEGRADATIONS, "invert", invert)
    command = "degrade --split cifar_test --workers 1"
    run(f"{command} --type invert --level test", base_samples=clean, save_dir=tmp_path / "out")
    for severity in range(1, 6):
        written = np.asarray(images.read_rgb(tmp_path / f"out/invert/{severity}/cat_00000.png"))
        np.testing.assert_array_equal(
            255 - written, images.read_rgb(clean / "clean/cifar_test/cat_00000.png")
        )
    run("sheet --type invert --num_samples 2", base_samples=clean, out=tmp_path / "sheet.png")
    again = [
        recipes.Recipe("combined", "degrade", "combined").draw(recipes.generator(0, f"{i}"))
        for i in range(40)
    ]
    assert "invert" in {name for name, _ in again} and "invert" not in {name for name, _ in drawn}


def test_combined_draws_what_it_always_drew():
    """Trees that lie on disk are completed by these draws."""
    draws = [
        recipes.Recipe("combined", "degrade", "combined").draw(
            recipes.generator(0, f"combined/{i}")
        )
        for i in range(6)
    ]
    assert draws == [
        ("noise", 35),
        ("jpeg", 94),
        ("blur", 1.7),
        ("saltpepper", 9),
        ("blur", 4.5),
        ("blur", 0.5),
    ]


def test_a_tree_of_the_last_release_goes_on_where_it_stopped(clean, tmp_path, capsys):
    """The manifest is that which the code wrote before the ledger was a module."""
    command = "degrade --split cifar_test --type noise --workers 1"
    run(command, base_samples=clean, save_dir=tmp_path / "whole")
    (tmp_path / "out/noise/cifar_test").mkdir(parents=True)
    target = "noise/cifar_test/cat_00000.png"
    shutil.copy(tmp_path / "whole" / target, tmp_path / "out" / target)
    digest = files.sha256(clean / "clean/cifar_test/cat_00000.png")
    manifest = {
        "folder": "noise",
        "state": "running",
        "settings": {
            "folder": "noise",
            "kind": "degrade",
            "name": "noise",
            "level": None,
            "how": "corrected",
            "seed": 0,
        },
        "source": "/x",
        "source_sha256": {"clean/cifar_test/cat_00000.png": digest},
        "failures": {},
        "images": {},
    }
    path = tmp_path / "out/made.noise.json"
    path.write_text(json.dumps(manifest))
    run(command, base_samples=clean, save_dir=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    ours, whole = (
        json.loads(path.read_text()),
        json.loads((tmp_path / "whole/made.noise.json").read_text()),
    )
    assert ours["images"] == whole["images"] and ours["state"] == "complete"
    assert ours["source_sha256"]["clean/cifar_test/cat_00000.png"] == digest
    path.write_text(
        json.dumps(manifest | {"source_sha256": {"clean/cifar_test/cat_00000.png": "0" * 64}})
    )
    run(command, base_samples=clean, save_dir=tmp_path / "out", status=2)
    assert "another source" in capsys.readouterr().err
    path.write_text(json.dumps(manifest | {"settings": manifest["settings"] | {"seed": 1}}))
    run(command, base_samples=clean, save_dir=tmp_path / "out", status=2)
    assert "seed 1 there, 0 here" in capsys.readouterr().err


def test_fixed_levels_and_drawn_ones_do_not_share_a_folder(clean, tmp_path, capsys):
    command = "degrade --type jpeg --workers 1"
    places = {"base_samples": clean, "save_dir": tmp_path / "out"}
    run(f"{command} --split cifar_test --level test", **places)
    run(command, **places, status=2)
    assert "were made in another way (made.jpeg.1.json)" in capsys.readouterr().err


def test_a_key_that_is_no_text_has_a_stream_too():
    one, two = (recipes.generator(0, key).random() for key in ("jpeg/\udcff", "jpeg/\udcfe"))
    assert one != two


def test_json_has_the_counts_the_faults_and_the_path(clean, tmp_path, capsys):
    out, sheet = tmp_path / "out", tmp_path / "sheet.png"
    run("degrade --type jpeg --workers 1 --json", base_samples=clean, save_dir=out)
    made = json.loads(capsys.readouterr().out)
    assert made == {"total": 12, "done": 12, "failed": {}, "save_dir": str(out)}
    (out / "jpeg/cifar_test/cat_00000.png").unlink()
    run("verify --json", save_dir=out, status=1)
    checked = json.loads(capsys.readouterr().out)
    assert checked["counts"] == {"jpeg/cifar_test": 5, "jpeg/cifar_train": 6}
    assert checked["faults"] == {"jpeg/cifar_test/cat_00000.png": "missing"}
    run("sheet --type blur --num_samples 2 --json", base_samples=clean, out=sheet)
    assert json.loads(capsys.readouterr().out) == {"path": str(sheet)}


def test_a_lost_worker_is_one_line_and_the_status_of_work_that_goes_on(
    clean, tmp_path, capsys, monkeypatch
):
    def lose_a_worker(*_, **__):
        raise BrokenProcessPool

    monkeypatch.setattr(trees, "_make", lose_a_worker)
    run("degrade --type jpeg --workers 1", base_samples=clean, save_dir=tmp_path, status=1)
    errors = capsys.readouterr().err
    assert errors.count("a worker process died") == 1 and "with fewer --workers;" in errors
    assert "Traceback" not in errors
    with pytest.raises(trees.LostWorker, match="with fewer `workers`"):
        making.degrade(clean, Target(tmp_path, workers=1), type="jpeg", quiet=True)


def test_a_folder_that_vanishes_is_one_line_and_is_not_made_again(
    clean, tmp_path, capsys, monkeypatch
):
    out, make = tmp_path / "out", trees._make

    def make_and_move(task):
        made = make(task)
        out.rename(tmp_path / "elsewhere")
        return made

    monkeypatch.setattr(trees, "_make", make_and_move)
    run("degrade --type jpeg --workers 1 --quiet", base_samples=clean, save_dir=out, status=1)
    errors = capsys.readouterr().err.strip()
    assert "\n" not in errors and f"the folder {out} is gone" in errors and not out.exists()
    assert "run the same command again to go on" in errors


def test_python_takes_texts_paths_and_numbers_and_makes_the_same_files(clean, tmp_path):
    flags = "--split cifar_test --workers 1"
    run(f"degrade --type blur --level 1 0.5 {flags}", base_samples=clean, save_dir=tmp_path / "a")
    run(
        f"corrupt --corruption fog --severity 2 {flags}",
        base_samples=clean,
        save_dir=tmp_path / "a",
    )
    originals = Originals(str(clean), split="cifar_test")
    target = Target(str(tmp_path / "b"), workers=1)
    made = making.degrade(originals, target, type="blur", level=[1, 0.5], quiet=True)
    assert (made.total, made.done, made.failed) == (12, 12, {})
    assert making.corrupt(originals, target, corruption="fog", severity=2, quiet=True).done == 6
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not making.verify(str(tmp_path / "b"), originals).faults


def test_quiet_calls_print_nothing_and_others_their_plan(clean, tmp_path, capsys):
    target = Target(tmp_path / "out", workers=1)
    making.sequence(str(clean), target, name="weak_seq", quiet=True)
    assert capsys.readouterr() == ("", "")
    making.sequence(str(clean), target, name="medium_seq")
    assert "images      12 of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "once", "again"),
    [
        ("degrade", {"type": ["jpeg"]}, {"type": ["jpeg", "jpeg"]}),
        ("degrade", {"type": "blur", "level": 1}, {"type": "blur", "level": ["1", "1.0", 1]}),
        ("sequence", {"name": "weak_seq"}, {"name": ["weak_seq", "weak_seq"]}),
        (
            "corrupt",
            {"corruption": "fog", "severity": 1},
            {"corruption": ["fog", "fog"], "severity": [1, 1]},
        ),
    ],
)
def test_what_is_named_twice_is_made_and_counted_once(clean, tmp_path, name, once, again):
    make = getattr(making, name)
    first = make(clean, Target(tmp_path / "once", workers=1), **once, quiet=True)
    second = make(clean, Target(tmp_path / "again", workers=1), **again, quiet=True)
    assert first.total == second.total == 12
    assert contents(tmp_path / "once") == contents(tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "chosen", "words"),
    [
        ("degrade", {"type": []}, "`type` is empty"),
        ("degrade", {"type": "jpeg", "level": 0}, "`level` 0: jpeg level 0.0 is outside 1..101"),
        ("degrade", {"type": "jpeg", "behavior": "old"}, "`behavior`: 'old' is unknown"),
        ("sequence", {"name": ()}, "`name` is empty"),
        ("corrupt", {"corruption": []}, "`corruption` is empty"),
        ("corrupt", {"severity": [9]}, "`severity` 9 must be 1..5"),
        ("corrupt", {"constants": "coco"}, "`constants`: 'coco' is unknown"),
        ("corrupt", {"format": "jpg"}, "`format`: 'jpg' is unknown"),
    ],
)
def test_the_library_names_wrong_settings_before_it_writes(clean, tmp_path, name, chosen, words):
    with pytest.raises(ValueError, match=words):
        getattr(making, name)(clean, tmp_path / "out", **chosen, quiet=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["", "degrade", "corrupt", "sheet"])
def test_the_help_waits_for_no_library_of_images(command):
    code = (
        "import sys\nfrom DistilledClassifier import make_data\n"
        f"try:\n    make_data.main({[*command.split(), '--help']})\n"
        "except SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'mmcls', 'cv2', 'scipy'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr
