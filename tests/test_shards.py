"""Copies in tar shards: written, gone on with, verified, and read back."""

import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT
from test_image_sample import ENV
from test_job import SQUARE, invert, run

from DDA import files, images, ledger, shards, sources
from DDA import tree as trees
from DDA.fitting import Fit
from DDA.image_adapt import job
from DDA.image_adapt.scripts.image_sample import main
from DDA.sources import Folder

CELLS = ["fog/3", "fog/5", "snow/5"]
SETTINGS = {"format": shards.FORMAT, "shard_size": 4}


def whole_job(tree, out, size=1, adapt_batch=invert, batch_size=4, cells=CELLS, fit=SQUARE, **how):
    """Do all that the command does, in shards of 4 images; return the plan and the failures."""
    plan = job.make_plan(Folder(tree), out, cells, shard_size=4, **how)
    job.check_settings(plan, SETTINGS)
    job.check_source(plan)
    job.begin(plan, SETTINGS, {})
    failures = run(plan, size, adapt_batch, batch_size, fit)[0] if plan.todo else {}
    assert job.end_manifests(plan, failures, {}) == []
    return plan, failures


def content(out):
    """Return the bytes of every shard and index below a folder."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("shard-*"))
        if path.is_file()
    }


def decoded(data):
    return images.read_rgb(Path("in memory"), data=data)


def members(path):
    with tarfile.open(path) as file:
        return {member.name: file.extractfile(member).read() for member in file}


def test_shards_are_equal_byte_by_byte_whatever_the_ranks_and_the_batches(tree, tmp_path):
    for number, (size, batch_size) in enumerate([(1, 4), (2, 1), (3, 64)]):
        whole_job(tree, tmp_path / f"{number}", size, batch_size=batch_size)
    one, two, three = (content(tmp_path / f"{number}") for number in range(3))
    assert one == two == three and len(one) == 2 * 2 * len(CELLS)
    assert not list(tmp_path.rglob(f"0/**/*{files.TEMPORARY}"))


def test_members_are_keys_with_pixels_and_labels_for_any_reader_of_tar_files(tree, tmp_path):
    whole_job(tree, tmp_path / "out")
    first = members(tmp_path / "out/fog/3/shard-000000.tar")
    keys = ["fog/3/cat/1", "fog/3/cat/a b", "fog/3/cat/ü", "fog/3/dog/1"]
    assert list(first) == [f"{key}.{kind}" for key in keys for kind in ("png", "cls")]
    assert [first[f"{key}.cls"] for key in keys] == [b"0", b"0", b"0", b"1"]
    with tarfile.open(tmp_path / "out/fog/3/shard-000000.tar") as file:
        assert {(item.mtime, item.uid, item.gid, item.uname) for item in file} == {(0, 0, 0, "")}
    pixels = np.asarray(decoded(first["fog/3/cat/ü.png"]))
    expected = 255 - images.fit_square(images.read_rgb(tree / "fog/3/cat/ü.png"), 16)
    np.testing.assert_array_equal(pixels, expected)
    manifest = files.read_json(tmp_path / "out/manifest.fog.3.json")
    assert manifest["images"] == 6 and manifest["state"] == "complete"
    assert manifest["shards_sha256"] == {
        f"fog/3/{name}": files.sha256(tmp_path / "out/fog/3" / name)
        for name in ("shard-000000.tar", "shard-000001.tar")
    }


def test_a_second_run_does_nothing_and_a_failed_image_is_added_to_its_shard(tree, tmp_path):
    broken, whole = tree / "fog/3/cat/1.JPEG", (tree / "fog/3/cat/1.JPEG").read_bytes()
    whole_job(tree, tmp_path / "expected")
    broken.write_bytes(b"no image")
    _, failures = whole_job(tree, tmp_path / "out")
    assert list(failures) == ["fog/3/cat/1.JPEG"]
    broken.write_bytes(whole)
    plan, _ = whole_job(tree, tmp_path / "out")
    assert list(plan.work()) == ["fog/3/cat/1.JPEG"]
    assert content(tmp_path / "out") == content(tmp_path / "expected")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    plan, _ = whole_job(tree, tmp_path / "out")
    assert plan.todo == 0 and before == {path: path.stat().st_mtime_ns for path in before}


def test_images_of_several_shapes_come_in_any_order_and_lie_in_that_of_their_keys(tmp_path):
    source, keys = tmp_path / "source", [f"{i}" for i in range(8)]
    source.mkdir()
    for i, key in enumerate(keys):
        shape = (20, 20 + 12 * (i % 3), 3)
        images.write_image(source / f"{key}.png", np.full(shape, 10 * i, np.uint8))
    for batch_size in (1, 2, 4):
        out = tmp_path / f"{batch_size}"
        whole_job(source, out, batch_size=batch_size, cells=["."], fit=Fit(16, "whole", 4))
        for number in (0, 1):
            first = members(out / f"shard-{number:06}.tar")
            assert list(first) == [f"{key}.png" for key in keys[4 * number : 4 * number + 4]]
    assert content(tmp_path / "1") == content(tmp_path / "2") == content(tmp_path / "4")


def cut(path):
    path.write_bytes(path.read_bytes()[:-600])


def flip(path):
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def no_index(path):
    path.with_suffix(".json").unlink()


def wrong_index(path):
    index = json.loads(path.with_suffix(".json").read_text())
    index["places"]["fog/3/dog/2"] = [5, index["bytes"]]
    path.with_suffix(".json").write_text(json.dumps(index))


@pytest.mark.parametrize("damage", [cut, flip, no_index, wrong_index, Path.unlink])
def test_a_damaged_shard_is_found_and_it_alone_is_made_again(tree, tmp_path, damage):
    whole_job(tree, tmp_path / "out")
    expected = content(tmp_path / "out")
    damage(tmp_path / "out/fog/3/shard-000001.tar")
    plan, _ = whole_job(tree, tmp_path / "out", verify=damage is flip)
    assert list(plan.work()) == ["fog/3/dog/2.PNG", "fog/3/dog/3.bmp"]
    if damage is not Path.unlink:
        assert any("fog/3/shard-000001.tar" in line for line in job.describe(plan, None))
    assert content(tmp_path / "out") == expected
    assert job.make_plan(Folder(tree), tmp_path / "out", CELLS, shard_size=4, verify=True).todo == 0


def test_verify_finds_damaged_files_too(tree, tmp_path):
    how = {"cells": ["fog/3"], "source": Folder(tree), "save_dir": tmp_path / "out"}
    run(job.make_plan(**how))
    flip_at = tmp_path / "out/fog/3/cat/ü.png"
    flip_at.write_bytes(flip_at.read_bytes()[:100])
    assert job.make_plan(**how).todo == 0
    plan = job.make_plan(**how, verify=True)
    assert list(plan.work()) == ["fog/3/cat/ü.png"] and list(plan.damaged) == ["fog/3/cat/ü.png"]
    job.begin(plan, {}, {})
    assert not flip_at.exists()  # also if its source is broken by now


def test_what_a_killed_writer_leaves_is_removed_by_the_next_run(tree, tmp_path):
    whole_job(tree, tmp_path / "out", num_samples=4)
    left = tmp_path / f"out/fog/3/{files.host()}-999999999--0123456789ab{files.TEMPORARY}"
    left.write_bytes(b"half a shard")
    whole_job(tree, tmp_path / "out")
    assert not left.exists() and len(content(tmp_path / "out")) == 12


def test_what_is_made_of_a_shard_before_an_error_is_kept(tree, tmp_path):
    calls = []

    def stops(keys, pixels):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(keys)
        return invert(keys, pixels)

    plan = job.make_plan(Folder(tree), tmp_path / "out", CELLS, shard_size=4)
    job.begin(plan, SETTINGS, {})
    with pytest.raises(KeyboardInterrupt):
        run(plan, 1, stops, batch_size=1)
    assert list(members(tmp_path / "out/fog/3/shard-000000.tar"))[::2] == [
        f"{keys[0]}.png" for keys in calls
    ]
    plan, _ = whole_job(tree, tmp_path / "out")
    assert plan.todo == 15
    whole_job(tree, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_fewer_images_first_and_more_later_make_the_same_shards(tree, tmp_path):
    whole_job(tree, tmp_path / "whole")
    whole_job(tree, tmp_path / "out", num_samples=5)
    assert len(members(tmp_path / "out/fog/3/shard-000001.tar")) == 2
    whole_job(tree, tmp_path / "out", keys=frozenset({"fog/5/dog/3"}))
    whole_job(tree, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_images_made_anew_leave_the_others_of_their_shard(tree, tmp_path):
    whole_job(tree, tmp_path / "out")
    before = content(tmp_path / "out")

    def white(keys, pixels):
        return np.ones((len(pixels), 3, 16, 16), np.float32)

    keys = frozenset({"fog/3/cat/ü"})
    whole_job(tree, tmp_path / "out", adapt_batch=white, keys=keys, anew=True)
    after = content(tmp_path / "out")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"fog/3/shard-000000.tar", "fog/3/shard-000000.json"}
    one = members(tmp_path / "out/fog/3/shard-000000.tar")
    assert len(one) == 8 and decoded(one["fog/3/cat/ü.png"]).getpixel((3, 3)) == (255,) * 3


def test_a_source_with_another_image_in_the_middle_is_refused(tree, tmp_path):
    whole_job(tree, tmp_path / "out")
    (tree / "fog/3/cat/2.JPEG").write_bytes((tree / "fog/3/cat/1.JPEG").read_bytes())
    with pytest.raises(ValueError, match=r"fog/3/dog/1.* got or lost images;.*`save_dir`"):
        whole_job(tree, tmp_path / "out")
    whole_job(tree, tmp_path / "out", anew=True)
    whole_job(tree, tmp_path / "whole")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_tree_in_shards_is_a_source_with_the_same_keys_labels_and_pixels(tree, tmp_path):
    whole_job(tree, tmp_path / "out")
    plain = job.make_plan(Folder(tree), tmp_path / "plain", CELLS)
    run(plain)
    source, expected = sources.open_source(tmp_path / "out"), Folder(tmp_path / "plain")
    assert source.names == expected.names and source.classes == ("cat", "dog")
    assert source.list("fog/5")[0] == expected.list("fog/5")[0]
    assert source.folders(".") == ["fog", "snow"] and source.folders("fog") == ["3", "5"]
    for name in source.names:
        np.testing.assert_array_equal(source.pixels(name), expected.pixels(name))
        assert source.digest(name) == expected.digest(name)


def test_a_tree_with_a_damaged_shard_is_not_read(tree, tmp_path):
    whole_job(tree, tmp_path / "out")
    cut(tmp_path / "out/fog/3/shard-000001.tar")
    with pytest.raises(files.BadFile, match=r"shard-000001.tar is damaged .* makes it again"):
        sources.open_source(tmp_path / "out")


def test_names_that_are_no_text_and_very_long_ones_come_back(tmp_path):
    keys = sorted([os.fsdecode(b"caf\xe9"), "long/" + "x" * 240, "x" * 120 + "/" + "ü" * 100])
    with shards.Shard(tmp_path, "shard-000000.tar", lambda key: None) as shard:
        for key in keys:
            shard.add(key, key.encode("utf-8", "surrogateescape"))
    index = shards.read_index(tmp_path / "shard-000000.tar")
    assert list(index.places) == keys
    for key in keys:
        data = shards.read_image(tmp_path / "shard-000000.tar", key)
        assert data == key.encode("utf-8", "surrogateescape")
    assert list(members(tmp_path / "shard-000000.tar")) == [f"{key}.png" for key in keys]


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/.b", "a\\b"])
def test_an_index_cannot_lead_out_of_the_tree(tmp_path, key):
    with shards.Shard(tmp_path, "shard-000000.tar", lambda key: None) as shard:
        shard.add(key, b"1")
    with pytest.raises(files.BadFile, match="no path below a folder"):
        shards.read_index(tmp_path / "shard-000000.tar")


def test_images_that_lie_on_each_other_are_a_damaged_index(tmp_path):
    with shards.Shard(tmp_path, "shard-000000.tar", lambda key: None) as shard:
        shard.add("a", b"1")
    beside = tmp_path / "shard-000000.json"
    index = json.loads(beside.read_text())
    index["places"] = {f"{i}": [0, index["bytes"]] for i in range(2)}  # each is all of it
    beside.write_text(json.dumps(index))
    assert list(shards.listed(tmp_path, ["."]).damaged) == ["shard-000000.tar"]


class Listing(Folder):
    """A source of synthetic names, which lie on no disk."""

    def __init__(self, path, names):
        super().__init__(path)
        self._known = names

    def list(self, cell=".", *, leave_out=None):
        return self._known[cell], []


def planned(root, count, each=1000):
    """Return how long making names takes, and how long planning them with shards on the disk."""
    cells = [f"corruption_{c:02}/5" for c in range(10)]
    begun = time.process_time()
    names = {}
    for cell in cells:
        paths = (f"{cell}/n{i % 100:08}/val_{i:08}.JPEG" for i in range(count // 10))
        names[cell] = sorted(paths)
    middle = time.process_time()
    for cell in cells:
        (root / cell).mkdir(parents=True)
        # every shard but the last of each cell is done
        for number, first in enumerate(range(0, len(names[cell]) - each, each)):
            part = enumerate(names[cell][first : first + each])
            places = {trees.key_of(name): [place, 1] for place, name in part}
            path = root / shards.name_of(cell, number)
            path.write_bytes(bytes(each))
            index = {"bytes": each, "sha256": "", "places": places}
            path.with_suffix(".json").write_text(json.dumps(index))
    start = time.process_time()
    plan = job.make_plan(Listing(root / "none", names), root, cells, shard_size=each)
    share = plan.share(0, 4)
    end = time.process_time()
    assert plan.total == count and plan.todo == 10 * each and sum(map(len, share)) == 3 * each
    return middle - begun, end - start


def test_many_images_in_shards_are_planned_in_a_few_times_the_making_of_their_names(tmp_path):
    names, plan = planned(tmp_path, 100_000)
    assert plan < 2 + 10 * names, (names, plan)


@pytest.mark.slow
def test_a_million_images_in_shards_are_planned_in_seconds(tmp_path):
    names, plan = planned(tmp_path, 1_000_000)
    print(f"names {names:.1f} s, plan {plan:.1f} s")
    assert plan < 30, (names, plan)


@pytest.mark.slow
def test_two_processes_write_the_shards_of_one(prior, tree, tmp_path):
    script = str(ROOT / "DDA/image_adapt/scripts/image_sample.py")
    paths = ["--model_path", prior, "--base_samples", tree, "--shard_size", "3"]
    for launcher, out in (([], "one"), (["mpiexec", "-n", "2"], "two")):
        words = [*map(str, paths), *FLAGS, "--save_dir", str(tmp_path / out), "--batch_size", "2"]
        subprocess.run([*launcher, sys.executable, script, *words], check=True, env=ENV)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one == two and len(one) == 16


FLAGS = ["--timestep_respacing", "10", "--N", "2", "--D", "4", "--format", "webdataset"]


def test_the_command_writes_shards_and_refuses_others_of_other_settings(
    prior, tree, tmp_path, capsys
):
    paths = ["--model_path", prior, "--base_samples", tree, "--save_dir", tmp_path / "out"]
    words = [*map(str, paths), *FLAGS, "--dataset", "imagenetc", "--corruption", "fog"]
    assert main([*words, "--shard_size", "4", "--gallery", str(tmp_path / "look.png")]) == 0
    assert "6 of 6 adapted images" in capsys.readouterr().out
    assert (tmp_path / "look.png").is_file()
    settings = ledger.read_settings(tmp_path / "out")
    assert settings["format"] == "webdataset" and settings["shard_size"] == 4
    for other, words_of in (
        (["--shard_size", "5"], "shard_size 4 there, 5 here"),
        (["--format", "png"], "format webdataset there, png here"),
        (["--format", "png", "--shard_size", "5"], "--shard_size is for --format webdataset"),
        (["--format", "png", "--overwrite"], "format webdataset there, png here"),
        (["--behavior", "published"], "--format webdataset is not there"),
    ):
        assert main([*words, *other]) != 0
        assert words_of in capsys.readouterr().err
