import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from PIL import Image

from DDA import files, images, tree
from DDA.sources import Folder, open_source
from DistilledClassifier import degradations, make_data, recipes, trees
from DistilledClassifier.corruptions import corrupt

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


def run(*argv, status=0):
    assert make_data.main([str(arg) for arg in argv]) == status


def contents(root):
    """Return every file's bytes but the manifests', which hold the path of the source."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(Path(root).rglob("*"))
        if path.is_file() and path.suffix != ".json"
    }


def test_degraded_copies_have_the_level_that_the_manifest_tells(clean, tmp_path):
    run(
        "degrade",
        "--base_samples",
        clean,
        "--save_dir",
        tmp_path / "deg",
        "--type",
        "jpeg",
        "noise",
        "combined",
        "--workers",
        1,
    )
    assert (tmp_path / "deg/classes.txt").read_text().split() == list(CLASSES)
    for kind in ("jpeg", "noise", "combined"):
        manifest = files.read_json(tmp_path / f"deg/made.{kind}.json")
        assert manifest["state"] == "complete" and len(manifest["images"]) == 12
        for target, entry in manifest["images"].items():
            source = np.asarray(images.read_rgb(clean / target.replace(kind, "clean", 1)))
            rng = trees.generator(0, tree.key_of(target))
            drawn = trees.Recipe(kind, "degrade", kind).draw(rng)
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
    "degrade": ["--type", "blur", "saltpepper", "combined"],
    "levels": ["--type", "jpeg", "--level", "10", "30", "--split", "cifar_test"],
    "sequence": ["--split", "cifar_test", "--name", "weak_seq", "strong_seq_published"],
    "corrupt": [
        "--split",
        "cifar_test",
        "--corruption",
        "gaussian_noise",
        "snow",
        "--severity",
        "2",
        "5",
    ],
    "prepare": [],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_one_seed_gives_the_same_bytes_with_one_process_and_with_two(clean, tmp_path, name):
    command = [{"levels": "degrade"}.get(name, name), "--base_samples", clean, *COMMANDS[name]]
    run(*command, "--save_dir", tmp_path / "one", "--workers", 1)
    run(*command, "--save_dir", tmp_path / "two", "--workers", 2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) > 6
    if name != "prepare":
        run(*command, "--save_dir", tmp_path / "other", "--workers", 1, "--seed", 1)
        assert (one == contents(tmp_path / "other")) == (name == "levels")  # JPEG draws nothing


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["degrade", "--type", "jpeg"],
            ["jpeg/cifar_test/cat_00000.png", "jpeg/cifar_train/cat_00000.png"],
        ),
        (
            ["degrade", "--type", "jpeg", "--level", "test", "--split", "cifar_test"],
            [f"jpeg/{s}/cat_00000.png" for s in range(1, 6)],
        ),
        (
            ["degrade", "--type", "blur", "--level", "0.5", "--split", "cifar_test"],
            ["blur/0.5/cat_00000.png"],
        ),
        (
            ["sequence", "--split", "cifar_test"],
            [f"{name}/0/cat_00000.png" for name in ("medium_seq", "strong_seq", "weak_seq")],
        ),
        (
            ["corrupt", "--split", "cifar_test", "--corruption", "fog", "--severity", "4"],
            ["fog/4/cat_00000.png"],
        ),
        (["prepare"], ["clean/cifar_test/cat_00000.png", "clean/cifar_train/cat_00000.png"]),
    ],
)
def test_the_trees_are_laid_out_as_the_adaptation_job_reads_them(
    clean, tmp_path, command, expected
):
    run(*command, "--base_samples", clean, "--save_dir", tmp_path / "out", "--workers", 1)
    found = tree.list_images(tmp_path / "out")[0]
    assert [name for name in found if name.endswith("cat_00000.png")] == expected


def test_the_fixed_test_levels_are_the_papers(clean, tmp_path):
    run(
        "degrade",
        "--base_samples",
        clean,
        "--split",
        "cifar_test",
        "--save_dir",
        tmp_path / "out",
        "--type",
        "noise",
        "--level",
        "test",
    )
    levels = [
        files.read_json(tmp_path / f"out/made.noise.{s}.json")["settings"]["level"]
        for s in range(1, 6)
    ]
    np.testing.assert_allclose(levels, [57.0, 80.6, 98.8, 114.0, 127.5], atol=0.05)


def test_a_finished_command_does_nothing_and_an_unfinished_one_goes_on(clean, tmp_path, capsys):
    command = [
        "degrade",
        "--base_samples",
        clean,
        "--save_dir",
        tmp_path / "out",
        "--type",
        "noise",
        "--workers",
        1,
    ]
    run(*command)
    first = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    lost = tmp_path / "out/noise/cifar_test/dog_00003.png"
    lost.unlink()
    (tmp_path / f"out/noise/{platform.node()[:64]}-9999999-aa{files.TEMPORARY}").write_bytes(
        b"half"
    )
    run(*command)
    assert contents(tmp_path / "out") == first
    assert all(path.stat().st_mtime_ns == at for path, at in times.items() if path != lost)
    before = (tmp_path / "out/made.noise.json").stat().st_mtime_ns
    run(*command)
    assert (tmp_path / "out/made.noise.json").stat().st_mtime_ns == before


def test_a_killed_writer_leaves_whole_files_and_the_next_run_completes_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 64, 64, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    script = ROOT / "DistilledClassifier" / "make_data.py"
    command = [
        sys.executable,
        script,
        "degrade",
        "--base_samples",
        tmp_path / "x.npy",
        "--save_dir",
        tmp_path / "out",
        "--type",
        "blur",
    ]
    command = [*map(str, command), "--workers", "2"]
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
    assert trees.verify(tmp_path / "out")[1]["made.blur.json"].startswith(
        "the run that made this folder did not end"
    )
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert len(tree.list_images(tmp_path / "out")[0]) == 3000
    assert not list((tmp_path / "out").rglob(f"*{files.TEMPORARY}"))
    assert not trees.verify(tmp_path / "out")[1]


def test_another_way_of_making_them_is_refused(clean, tmp_path, capsys):
    command = [
        "degrade",
        "--base_samples",
        clean,
        "--save_dir",
        tmp_path / "out",
        "--type",
        "noise",
        "--workers",
        1,
    ]
    run(*command)
    run(*command, "--seed", 3, status=2)
    assert "was made in another way: seed 0 there, 3 here" in capsys.readouterr().err
    run(*command, "--behavior", "published", status=2)
    assert "how corrected there, published here" in capsys.readouterr().err
    Image.new("RGB", (32, 32)).save(clean / "clean/cifar_test/cat_00000.png")
    run(*command, status=2)
    assert "another source" in capsys.readouterr().err
    (tmp_path / "out/made.noise.json").unlink()
    run(*command, status=2)
    assert "were not made here" in capsys.readouterr().err
    (tmp_path / "out" / tree.SETTINGS).write_text("{}")
    run(*command, status=2)
    assert "holds adapted images" in capsys.readouterr().err


def test_broken_images_are_named_counted_and_tried_again(clean, tmp_path, capsys):
    bad = clean / "clean/cifar_test/dog_00001.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:40])
    command = ["degrade", "--base_samples", clean, "--save_dir", tmp_path / "out", "--type", "blur"]
    run(*command, "--workers", 2, status=1)
    said = capsys.readouterr().err
    assert (
        "failed: blur/cifar_test/dog_00001.png" in said
        and "clean/cifar_test/dog_00001.png: " in said
        and "1 of 12 images failed" in said
    )
    assert list(files.read_json(tmp_path / "out/made.blur.json")["failures"]) == [
        "blur/cifar_test/dog_00001.png"
    ]
    run("verify", "--save_dir", tmp_path / "out", status=1)
    assert "dog_00001.png: failed when it was made" in capsys.readouterr().err
    bad.write_bytes(whole)
    run(*command)
    run("verify", "--save_dir", tmp_path / "out")


@pytest.fixture
def made(clean, tmp_path) -> Path:
    chosen = ["--corruption", "fog", "contrast", "--severity", "1", "3"]
    run(
        "corrupt",
        "--base_samples",
        clean,
        "--split",
        "cifar_test",
        "--save_dir",
        tmp_path / "C",
        *chosen,
        "--workers",
        1,
    )
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
    run("verify", "--save_dir", made)
    assert "24 images in 4 folders, 0 faults" in capsys.readouterr().out
    if not manifests:  # a downloaded tree: its cells are compared with each other
        for path in made.glob("made*.json"):
            path.unlink()
        run("verify", "--save_dir", made)
    HARM[harm][0](made)
    run("verify", "--save_dir", made, status=1)
    assert HARM[harm][1] in capsys.readouterr().err


def test_verify_knows_classes_that_share_file_names(tmp_path, capsys):
    for cell in ("fog/1", "fog/2", "fog/3"):
        for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
            (tmp_path / cell / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / cell / f"{name}.png")
    tree.write_classes(tmp_path, CLASSES)
    run("verify", "--save_dir", tmp_path)
    (tmp_path / "fog/2/cat/1.png").unlink()
    (tmp_path / "fog/2/dog/1.png").unlink()
    run("verify", "--save_dir", tmp_path, status=1)
    lines = [f"make_data.py: fog/2/{name}/1.png: missing\n" for name in ("cat", "dog")]
    assert capsys.readouterr().err == "".join(lines)


def test_verify_finds_an_altered_file(made, capsys):
    Image.new("RGB", (32, 32)).save(made / "fog/3/cat_00002.png")
    run("verify", "--save_dir", made, status=1)
    assert "fog/3/cat_00002.png: altered" in capsys.readouterr().err


def test_verify_compares_with_the_clean_images(made, clean, capsys):
    for path in made.glob("made*.json"):
        path.unlink()
    for cell in ("fog/1", "fog/3", "contrast/1", "contrast/3"):
        (
            made / cell / "cat_00004.png"
        ).unlink()  # missing everywhere, so that comparing cells finds nothing
    run("verify", "--save_dir", made)
    run("verify", "--save_dir", made, "--base_samples", clean, "--split", "cifar_test", status=1)
    assert capsys.readouterr().err.count("cat_00004.png: missing") == 4


def test_the_official_arrays_are_the_tree(clean, tmp_path):
    command = [
        "corrupt",
        "--base_samples",
        clean,
        "--split",
        "cifar_test",
        "--corruption",
        "contrast",
        "snow",
    ]
    run(*command, "--save_dir", tmp_path / "C", "--format", "npy")
    array, labels = np.load(tmp_path / "C/contrast.npy"), np.load(tmp_path / "C/labels.npy")
    assert array.shape == (30, 32, 32, 3) and labels.tolist() == [0, 1, 0, 1, 0, 1] * 5
    for row in range(6):
        image = np.asarray(
            images.read_rgb(clean / f"clean/cifar_test/{CLASSES[row % 2]}_{row:05}.png")
        )
        np.testing.assert_array_equal(array[12 + row], corrupt(image, "contrast", 3))
    run("verify", "--save_dir", tmp_path / "C")
    source = open_source(tmp_path / "C", CLASSES)
    for name in source.names:
        np.testing.assert_array_equal(source.read(name), images.read_rgb(tmp_path / "C" / name))


def test_prepare_links_image_files_and_writes_pixels_as_png(clean, tmp_path):
    run("prepare", "--base_samples", clean, "--save_dir", tmp_path / "linked", "--workers", 1)
    name = "clean/cifar_test/cat_00000.png"
    assert os.path.samefile(clean / name, tmp_path / "linked" / name)
    np.savez(
        tmp_path / "x.npz",
        labels=np.arange(10),
        fog=np.random.default_rng(0).integers(0, 256, (2, 10, 32, 32, 3), dtype=np.uint8),
    )
    run(
        "prepare",
        "--base_samples",
        tmp_path / "x.npz",
        "--save_dir",
        tmp_path / "pixels",
        "--workers",
        1,
    )
    assert tree.list_images(tmp_path / "pixels", "fog/2")[0][0] == "fog/2/airplane_00000.png"
    run("verify", "--save_dir", tmp_path / "pixels")
    run(
        "prepare",
        "--base_samples",
        tmp_path / "x.npz",
        "--save_dir",
        tmp_path / "few",
        "--num_samples",
        3,
    )
    assert len(Folder(tmp_path / "few").names) == 3
    run(
        "prepare",
        "--base_samples",
        tmp_path / "x.npz",
        "--save_dir",
        tmp_path / "few",
        "--num_samples",
        5,
    )  # some of them again
    run("verify", "--save_dir", tmp_path / "few")


def test_a_list_chooses_images_by_name(clean, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("dog_00001\ncat_00004.png\n")
    command = [
        "prepare",
        "--base_samples",
        clean,
        "--split",
        "cifar_test",
        "--save_dir",
        tmp_path / "out",
        "--list",
        tmp_path / "list.txt",
    ]
    run(*command)
    assert [Path(name).stem for name in Folder(tmp_path / "out").names] == [
        "cat_00004",
        "dog_00001",
    ]
    (tmp_path / "list.txt").write_text("dog_00001\nhorse_1\n")
    run(*command, status=2)
    assert "names 2 images, of which" in capsys.readouterr().err


def test_the_list_of_5000_imagenet_images_names_5000_of_the_50000():
    lines = (ROOT / "DistilledClassifier/lists/imagenet_val_5k.txt").read_text().split()
    numbers = {int(line.removeprefix("ILSVRC2012_val_")) for line in lines}
    assert len(lines) == len(numbers) == 5000 and min(numbers) >= 1 and max(numbers) <= 50000


@pytest.mark.parametrize(
    "kind", ["jpeg", "blur", "noise", "saltpepper", "weak_seq", "glass_blur", "frost"]
)
def test_the_sheet_shows_all_levels(clean, tmp_path, kind):
    run(
        "sheet",
        "--base_samples",
        clean,
        "--type",
        kind,
        "--out",
        tmp_path / "sheet.png",
        "--num_samples",
        3,
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        rows = 7 if kind == "weak_seq" else 6
        assert sheet.height > rows * 128 and sheet.width > 3 * 128


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["degrade", "--type", "jpeg", "--level", "0"], "jpeg level 0.0 is outside 1..101"),
        (["degrade", "--type", "jpeg", "--level", "low"], "--level low"),
        (["degrade", "--type", "combined", "--level", "5"], "does not go with --type combined"),
        (["corrupt", "--corruption", "rain"], "--corruption rain is unknown"),
        (["corrupt", "--severity", "9"], "--severity 9 must be 1..5"),
        (
            ["corrupt", "--severity", "5", "--format", "npy"],
            "--format npy holds all five severities",
        ),
        (["degrade", "--type", "jpeg", "--split", "val"], "has no images in --split val"),
        (["degrade", "--type", "jpeg", "--num_samples", "0"], "--num_samples 0"),
        (["prepare", "--workers", "0"], "--workers 0"),
        (["prepare", "--base_samples", "nowhere"], "nowhere does not exist"),
        (
            ["prepare", "--classes", "nothing.txt"],
            "--classes nothing.txt is neither a file nor one of",
        ),
    ],
)
def test_wrong_input_is_named(clean, tmp_path, capsys, command, words):
    argv = [command[0], "--base_samples", clean, "--save_dir", tmp_path / "out", *command[1:]]
    run(*argv, status=2)
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_verify_and_sheet_name_wrong_input(clean, tmp_path, capsys):
    run("verify", "--save_dir", tmp_path / "nothing", status=2)
    assert "is not a folder" in capsys.readouterr().err
    (tmp_path / "nothing").mkdir()
    run("verify", "--save_dir", tmp_path / "nothing", status=2)
    assert "holds no images" in capsys.readouterr().err
    run("sheet", "--base_samples", clean, "--type", "rain", "--out", tmp_path / "a.png", status=2)
    assert "--type rain is unknown" in capsys.readouterr().err
    run("sheet", "--base_samples", clean, "--type", "jpeg", "--out", tmp_path / "a.jpg", status=2)
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
                "degrade",
                "--base_samples",
                tmp_path / "photos",
                "--save_dir",
                tmp_path / target,
                "--type",
                "jpeg",
                "--workers",
                1,
            )
        run(
            "degrade",
            "--base_samples",
            tmp_path / "photos",
            "--save_dir",
            tmp_path / target,
            "--type",
            "blur",
            "--workers",
            1,
        )
    assert len(tree.list_images(tmp_path / "photos")[0]) == 3 + 2 * 6
    assert not (tmp_path / "photos/blur/jpeg").exists()


def test_an_image_that_a_recipe_refuses_is_a_failure_of_its_own(clean, tmp_path, capsys):
    Image.new("RGB", (4, 4)).save(clean / "clean/cifar_test/cat_00099.png")
    command = [
        "corrupt",
        "--base_samples",
        clean,
        "--split",
        "cifar_test",
        "--save_dir",
        tmp_path / "out",
        "--corruption",
        "fog",
    ]
    run(*command, "--severity", "1", "--workers", 1, status=1)
    said = capsys.readouterr().err
    assert "clean/cifar_test/cat_00099.png: fog wants" in said and "1 of 7 images failed" in said


def test_an_altered_file_stays_altered_after_the_next_run(clean, tmp_path, capsys):
    command = [
        "degrade",
        "--base_samples",
        clean,
        "--save_dir",
        tmp_path / "out",
        "--type",
        "noise",
        "--workers",
        1,
    ]
    run(*command)
    Image.new("RGB", (32, 32)).save(tmp_path / "out/noise/cifar_test/cat_00000.png")
    (tmp_path / "out/noise/cifar_test/dog_00001.png").unlink()
    run(*command)
    run("verify", "--save_dir", tmp_path / "out", status=1)
    assert "noise/cifar_test/cat_00000.png: altered" in capsys.readouterr().err


def test_verify_says_in_one_line_that_a_run_did_not_end(made, capsys):
    manifest = json.loads((made / "made.fog.3.json").read_text())
    (made / "made.fog.3.json").write_text(
        json.dumps({**manifest, "state": "running", "images": {}})
    )
    run("verify", "--save_dir", made, status=1)
    fault = "made.fog.3.json: the run that made this folder did not end; run it again"
    assert capsys.readouterr().err == f"make_data.py: {fault}\n"
    (made / "made.fog.3.json").write_text("{}")
    run("verify", "--save_dir", made, status=2)
    assert "is no manifest of this program" in capsys.readouterr().err


def test_classes_that_do_not_fit_are_refused(clean, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("cow\nbird\n")
    command = [
        "prepare",
        "--base_samples",
        clean / "clean" / "cifar_test",
        "--save_dir",
        tmp_path / "out",
        "--classes",
        tmp_path / "classes.txt",
    ]
    run(*command, status=2)
    assert (
        "has no class of cat_00000.png" in capsys.readouterr().err
        and not (tmp_path / "out").exists()
    )
    for content, words in ((b"", "is empty"), (b"\xff\xfe", "is no text file")):
        (tmp_path / "classes.txt").write_bytes(content)
        run(*command, status=2)
        assert words in capsys.readouterr().err
    (tmp_path / "bare").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "bare/1.png")
    run(
        "corrupt",
        "--base_samples",
        tmp_path / "bare",
        "--save_dir",
        tmp_path / "npy",
        "--format",
        "npy",
        status=2,
    )
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
    command = ["degrade", "--base_samples", clean, "--split", "cifar_test", "--workers", 1]
    run(*command, "--save_dir", tmp_path / "out", "--type", "invert", "--level", "test")
    for severity in range(1, 6):
        written = np.asarray(images.read_rgb(tmp_path / f"out/invert/{severity}/cat_00000.png"))
        np.testing.assert_array_equal(
            255 - written, images.read_rgb(clean / "clean/cifar_test/cat_00000.png")
        )
    run(
        "sheet",
        "--base_samples",
        clean,
        "--type",
        "invert",
        "--out",
        tmp_path / "sheet.png",
        "--num_samples",
        2,
    )
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
    command = [
        "degrade",
        "--base_samples",
        clean,
        "--split",
        "cifar_test",
        "--type",
        "noise",
        "--workers",
        1,
    ]
    run(*command, "--save_dir", tmp_path / "whole")
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
    run(*command, "--save_dir", tmp_path / "out")
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
    run(*command, "--save_dir", tmp_path / "out", status=2)
    assert "another source" in capsys.readouterr().err
    path.write_text(json.dumps(manifest | {"settings": manifest["settings"] | {"seed": 1}}))
    run(*command, "--save_dir", tmp_path / "out", status=2)
    assert "seed 1 there, 0 here" in capsys.readouterr().err


def test_fixed_levels_and_drawn_ones_do_not_share_a_folder(clean, tmp_path, capsys):
    command = [
        "degrade",
        "--base_samples",
        clean,
        "--save_dir",
        tmp_path / "out",
        "--type",
        "jpeg",
        "--workers",
        1,
    ]
    run(*command, "--split", "cifar_test", "--level", "test")
    run(*command, status=2)
    assert "were made in another way (made.jpeg.1.json)" in capsys.readouterr().err


def test_a_key_that_is_no_text_has_a_stream_too():
    one, two = (trees.generator(0, key).random() for key in ("jpeg/\udcff", "jpeg/\udcfe"))
    assert one != two
