import dataclasses
import hashlib
import os
import queue
import shutil
import struct
import threading
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from DDA import files, images, ledger
from DDA import tree as trees
from DDA.fitting import Fit
from DDA.image_adapt import job
from DDA.progress import Show
from DDA.ranks import World
from DDA.sources import Folder


class Ranks(World):
    """One of several ranks that live in threads and share a list of messages."""

    def __init__(self, rank, size, board):
        super().__init__()
        self.rank, self.size, self.board = rank, size, board

    def report(self, value):
        self.board["reports"].put(value)

    def reports(self):
        queue, news = self.board["reports"], []
        while not queue.empty():
            news.append(queue.get())
        return news

    def gather(self, value):
        self.board["values"][self.rank] = value
        self.board["barrier"].wait(60)
        return list(self.board["values"])


def invert(keys, pixels):
    return -images.to_model(pixels)


SQUARE = Fit(16)


def run(plan, size=1, adapt_batch=invert, batch_size=4, fit=SQUARE):
    """Run all ranks of a job; return the failures and the batches that each rank saw."""
    plan.save_dir.mkdir(parents=True, exist_ok=True)
    board = {"reports": queue.Queue(), "values": [None] * size, "barrier": threading.Barrier(size)}
    seen = [[] for _ in range(size)]

    def rank(i):
        def adapt(keys, pixels):
            seen[i].append(list(keys))
            return adapt_batch(keys, pixels)

        return job.run(
            Ranks(i, size, board),
            plan,
            adapt,
            batch_size=batch_size,
            fit=fit,
            threads=2,
            show=Show(),
        )

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(rank, range(size)))[0], seen


def whole_job(tree, out, cells, settings=None, **how):
    """Do all that the command does with a plan, and return the plan."""
    plan = job.make_plan(Folder(tree), out, cells, **how)
    job.check_settings(plan, settings or {})
    job.check_source(plan)
    job.begin(plan, settings or {}, {})
    assert job.end_manifests(plan, run(plan)[0] if plan.todo else {}, {}) == []
    return plan


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_every_image_is_adapted_once_by_full_batches(tree, tmp_path, size, batch_size):
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3", "fog/5", "snow/5"])
    failures, seen = run(plan, size, batch_size=batch_size)
    assert failures == {} and plan.total == plan.todo == 18
    batches = [batch for rank in seen for batch in rank]
    keys = [key for batch in batches for key in batch]
    assert (
        len(keys) == len(set(keys)) == 18
        and set(keys) == trees.saved_images(tmp_path / "out", plan.cells).keys()
    )
    for rank in seen:
        assert all(len(batch) == batch_size for batch in rank[:-1])
    assert sum(len(batch) for batch in seen[0]) - 18 / size < 1
    again = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3", "fog/5", "snow/5"])
    assert again.todo == 0 and run(again, size)[1] == [[]] * size


def test_images_lie_under_their_keys_as_png_or_in_the_source_format(tree, tmp_path):
    run(job.make_plan(Folder(tree), tmp_path / "png", ["fog/3"]))
    assert sorted(path.name for path in (tmp_path / "png").rglob("*.*")) == sorted(
        ["1.png", "a b.png", "ü.png", "1.png", "2.png", "3.png"]
    )
    written = np.asarray(images.read_rgb(tmp_path / "png/fog/3/cat/a b.png"))
    np.testing.assert_array_equal(
        written, 255 - images.fit_square(images.read_rgb(tree / "fog/3/cat/a b.png"), 16)
    )
    run(job.make_plan(Folder(tree), tmp_path / "same", ["fog/3"], same_format=True))
    assert trees.saved_images(tmp_path / "same", ["fog/3"])["fog/3/dog/1"] == "fog/3/dog/1.JPEG"
    assert images.read_rgb(tmp_path / "same/fog/3/dog/3.bmp").size == (16, 16)


def test_bad_files_are_counted_and_named_and_the_batches_stay_full(tree, tmp_path):
    cat = tree / "fog/3/cat"
    (cat / "1.JPEG").write_bytes((cat / "1.JPEG").read_bytes()[:200])
    (cat / "ü.png").write_bytes(b"")
    (cat / "text.png").write_text("no image")
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), b"IDAT"]
    packed = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ]
    (cat / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"])
    (tmp_path / "out").mkdir()
    job.begin_manifests(plan, {"note": 1})
    assert files.read_json(tmp_path / "out/manifest.fog.3.json")["state"] == "running"
    failures, seen = run(plan, batch_size=4)
    assert failures.keys() == {
        "fog/3/cat/1.JPEG",
        "fog/3/cat/ü.png",
        "fog/3/cat/text.png",
        "fog/3/cat/huge.png",
    }
    assert "more than 178,956,970 pixels" in failures["fog/3/cat/huge.png"]
    assert "empty" in failures["fog/3/cat/ü.png"] and "runcated" in failures["fog/3/cat/1.JPEG"]
    assert "it is no image file" in failures["fog/3/cat/text.png"]
    assert [len(batch) for batch in seen[0]] == [4]
    assert job.end_manifests(plan, failures, {"note": 2}) == []
    manifest = files.read_json(tmp_path / "out/manifest.fog.3.json")
    assert (manifest["planned"], manifest["images"], manifest["failed"], manifest["note"]) == (
        8,
        4,
        4,
        2,
    )
    assert manifest["failures"] == failures and manifest["state"] == "failures"
    assert (
        job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"]).todo == 4
    )  # failures are tried again


def test_a_result_that_is_not_finite_is_a_failure_and_never_written(tree, tmp_path):
    def poison(keys, pixels):
        result = invert(keys, pixels)
        result[[key.endswith("dog/2") for key in keys], 0, 0, 0] = np.nan
        return result

    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"])
    failures, _ = run(plan, adapt_batch=poison)
    assert list(failures) == ["fog/3/dog/2.PNG"] and "not finite" in failures["fog/3/dog/2.PNG"]
    assert len(trees.saved_images(tmp_path / "out", ["fog/3"])) == 5


def test_a_key_that_is_neither_written_nor_failed_is_reported_as_lost(tree, tmp_path):
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"])
    run(plan)
    (tmp_path / "out/fog/3/dog/1.png").unlink()
    assert job.end_manifests(plan, {}, {}) == ["fog/3/dog/1.JPEG"]


def test_failures_that_a_later_run_does_not_try_again_stay_in_the_manifest(tree, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("cat/1.JPEG", "dog/3.bmp"):
        (tree / "fog/3" / name).write_bytes(b"")

    def once(**settings):
        plan = job.make_plan(Folder(tree), out, ["fog/3", "fog/5"], **settings)
        job.begin_manifests(plan, {})
        job.end_manifests(plan, run(plan)[0], {})
        return files.read_json(out / "manifest.fog.3.json")

    assert once()["failures"].keys() == {"fog/3/cat/1.JPEG", "fog/3/dog/3.bmp"}
    shutil.copy(tree / "snow/3/cat/1.JPEG", tree / "fog/3/cat/1.JPEG")
    later = once(num_samples=1)
    assert later["failures"].keys() == {"fog/3/dog/3.bmp"} and later["images"] == 5
    for path in out.glob("manifest*"):
        path.unlink()
    (out / "fog/3/cat/1.png").unlink()
    once(num_samples=1)
    assert [path.name for path in out.glob("manifest*")] == [
        "manifest.fog.3.json"
    ]  # no manifest where nothing was planned


def test_copies_of_other_pixels_under_the_same_keys_are_not_taken_for_done(tree, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    plan = job.make_plan(Folder(tree), out, ["fog/3"])
    job.begin_manifests(plan, {})
    run(plan)
    job.check_source(job.make_plan(Folder(tree), out, ["fog/3"]))
    shutil.copytree(tree / "snow/3", tree / "fog/3", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"is not the image that its copy in .*out was made from"):
        job.check_source(job.make_plan(Folder(tree), out, ["fog/3"]))


def test_what_is_made_anew_is_known_by_its_new_source_only(tree, tmp_path):
    out = tmp_path / "out"
    for name in "abcdefghij":
        shutil.copy(tree / "fog/3/dog/2.PNG", tree / f"fog/3/dog/{name}.png")
    for count in (3, None):  # two runs, so that samples of both are in the manifest
        whole_job(tree, out, ["fog/3"], num_samples=count)
    for path in (tree / "fog/3").rglob("*.*"):
        images.write_image(path, np.full((20, 20, 3), 7, np.uint8))
    whole_job(tree, out, ["fog/3"], anew=True)
    job.check_source(job.make_plan(Folder(tree), out, ["fog/3"]))


def test_copies_never_lie_among_their_sources(tree, tmp_path):
    (tmp_path / "out").mkdir()
    os.symlink(tree / "fog", tmp_path / "out" / "fog")
    with pytest.raises(ValueError, match="which is the same folder"):
        job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"])


def test_published_batches_do_not_depend_on_num_samples(tree, tmp_path):
    part = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"], num_samples=5, fixed_batch=4)
    _, seen = run(part)
    assert [len(batch) for batch in seen[0]] == [4, 2] and part.todo == 5
    assert len(trees.saved_images(tmp_path / "out", ["fog/3"])) == 5


@pytest.mark.parametrize("size", [1, 2])
def test_published_batches_never_change_their_members(tree, tmp_path, size):
    cells = ["fog/3", "snow/3"]
    whole = job.make_plan(Folder(tree), tmp_path / "out", cells, fixed_batch=4)
    _, seen = run(whole, size)
    batches = sorted(batch for rank in seen for batch in rank)
    assert [len(batch) for batch in batches] == [4, 2, 4, 2]  # cells are not mixed
    missing = tmp_path / "out/fog/3/cat/a b.png"
    kept = tmp_path / "out/fog/3/cat/1.png"
    missing.unlink()
    before = kept.stat().st_mtime_ns
    plan = job.make_plan(Folder(tree), tmp_path / "out", cells, fixed_batch=4)
    assert plan.todo == 1
    _, seen = run(plan, size)
    assert [batch for rank in seen for batch in rank] == [
        batches[0]
    ] and "fog/3/cat/a b" in batches[0]
    assert missing.exists() and kept.stat().st_mtime_ns == before


def test_num_samples_takes_the_first_by_key_whatever_is_done(tree, tmp_path):
    first = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3", "fog/5"], num_samples=8)
    assert [trees.key_of(path) for path in first.groups[0]][-3:] == [
        "fog/3/dog/3",
        "fog/5/cat/1",
        "fog/5/cat/a b",
    ]
    run(first)
    assert job.make_plan(
        Folder(tree), tmp_path / "out", ["fog/3", "fog/5"], num_samples=9
    ).groups == [["fog/5/cat/ü.png"]]
    assert [len(paths) for paths in first.planned] == [6, 2]


def test_an_empty_source_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*empty.*\.png"):
        job.make_plan(Folder(tmp_path / "empty"), tmp_path / "out", ["."])


def test_settings_are_claimed_once_and_conflicts_name_what_differs(tree, tmp_path):
    out = tmp_path / "out"

    def check(settings, save_dir=out, **how):
        job.check_settings(job.make_plan(Folder(tree), save_dir, ["fog/3"], **how), settings)

    whole_job(tree, out, ["fog/3"], {"N": 5, "seed": 0})
    check({"N": 5, "seed": 0})
    with pytest.raises(
        ValueError, match=r"N 5 there, 6 here. .*`save_dir`, or make them anew with `overwrite`"
    ):
        check({"N": 6, "seed": 0})
    with pytest.raises(
        ValueError, match=r"seed 0 there, absent here; .*|.*eta absent there, 1 here"
    ):
        check({"N": 5, "eta": 1})
    (out / trees.SETTINGS).unlink()
    for anew in (False, True):
        with pytest.raises(
            ValueError, match="holds images but no settings.*not made by this program"
        ):
            check({"N": 5, "seed": 0}, anew=anew)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        check({}, tmp_path / "file")
    assert (
        ledger.claim(tmp_path / "new", {"N": 5}) == ledger.claim(tmp_path / "new", {"N": 5}) == []
    )
    with pytest.raises(ValueError, match="was begun with other settings"):
        check({"N": 6}, tmp_path / "new")
    check({"N": 6}, tmp_path / "new", anew=True)  # nothing is lost


@pytest.mark.parametrize("where", ["fog/5/cat", "elsewhere", "."])
def test_images_that_nobody_claimed_are_noticed_wherever_they_lie(tree, tmp_path, where):
    (tmp_path / "out" / where).mkdir(parents=True)
    shutil.copy(tree / "fog/3/dog/2.PNG", tmp_path / "out" / where / "x.png")
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"])
    with pytest.raises(ValueError, match="not made by this program"):
        job.check_settings(plan, {})


def test_a_job_whose_folder_another_one_claims_meanwhile_is_refused(tree, tmp_path):
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3"], anew=True)
    job.check_settings(plan, {"N": 5})
    ledger.claim(tmp_path / "out", {"N": 6})
    plan = dataclasses.replace(plan, anew=False)
    with pytest.raises(ValueError, match="N 6 there, 5 here"):
        job.begin(plan, {"N": 5}, {})


def test_overwrite_removes_the_planned_images_and_never_leaves_two_kinds(tree, tmp_path):
    out = tmp_path / "out"
    whole_job(tree, out, ["fog/3", "snow/3"], {"N": 5})
    for cells, how in ((["fog/3"], {}), (["fog/3", "snow/3"], {"num_samples": 6})):
        fog = job.make_plan(Folder(tree), out, cells, anew=True, **how)
        with pytest.raises(ValueError, match="leaves 6, such as snow/3/cat/1"):
            job.check_settings(fog, {"N": 6})
    assert len(trees.saved_images(out, ["."])) == 12
    fog = job.make_plan(Folder(tree), out, ["fog/3"], anew=True)
    assert (fog.todo, len(fog.replaced), fog.done) == (6, 6, {})
    job.check_settings(fog, {"N": 5})
    job.begin(fog, {"N": 5}, {})
    assert not (tree / "fog").is_symlink() and len(trees.list_images(tree)[0]) == 24
    assert trees.saved_images(out, ["."]).keys() == trees.saved_images(out, ["snow/3"]).keys()
    assert ledger.read_settings(out) == {"N": 5}
    whole_job(tree, out, ["fog/3", "snow/3"], {"N": 6}, anew=True)
    assert len(trees.saved_images(out, ["."])) == 12 and ledger.read_settings(out) == {"N": 6}


@pytest.mark.parametrize("cells", [["."], ["fog/3", "fog/5", "snow/5"]])
def test_no_folder_is_listed_twice_by_a_finished_job_nor_thrice_by_a_working_one(
    tree, tmp_path, monkeypatch, cells
):
    out, scandir, listed = tmp_path / "out", os.scandir, Counter()

    def counting(path):
        listed[os.path.relpath(path, tmp_path)] += 1
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counting)

    def most(top):
        counts = {path: count for path, count in listed.items() if path.split("/")[0] == top}
        return max(counts.values(), default=0), len(counts)

    out.mkdir()
    for how, times in (({}, 2), ({}, 1), ({"anew": True}, 2), ({}, 1)):
        listed.clear()
        plan = whole_job(tree, out, cells, {"N": 5}, **how)
        job.gallery(plan, set(), Fit(16))
        assert most("out")[0] == times and most("source")[0] == 1
        assert most("out")[1] >= 2 * len(cells)
    for path in [path for path in out.rglob("*.png") if "dog" in path.parts]:
        path.unlink()
    listed.clear()
    whole_job(tree, out, cells, {"N": 5})
    assert most("out")[0] == 2


def test_a_folder_of_the_last_release_goes_on_where_it_stopped(tree, tmp_path):
    """The files are those that the code wrote before the ledger was a module."""
    out = tmp_path / "out"
    (out / "fog/3/cat").mkdir(parents=True)
    shutil.copy(tree / "fog/3/cat/a b.png", out / "fog/3/cat/a b.png")
    digest = hashlib.sha256((tree / "fog/3/cat/a b.png").read_bytes()).hexdigest()
    (out / "settings.json").write_text('{\n  "N": 5,\n  "s_y": null,\n  "eta": 0.0\n}\n')
    (out / "manifest.fog.3.json").write_text(
        '{"cell": "fog/3", "state": "running", "planned": 6, "failures": {"fog/3/cat/1.JPEG": '
        '"it is empty (0 bytes)"}, '
        f'"source": "/x", "source_sha256": {{"fog/3/cat/a b.png": "{digest}"}}, "versions": '
        f'{{}}, "ranks": 2}}'
    )
    plan = whole_job(tree, out, ["fog/3"], {"N": 5, "s_y": None, "eta": 0.0})
    assert (len(plan.done), plan.todo) == (1, 5)
    manifest = files.read_json(out / "manifest.fog.3.json")
    assert (manifest["state"], manifest["images"], manifest["failed"], manifest["failures"]) == (
        "complete",
        6,
        0,
        {},
    )
    assert manifest["source_sha256"]["fog/3/cat/a b.png"] == digest
    with pytest.raises(ValueError, match=r"N 5 there, 4 here; eta 0.0 there, absent here"):
        job.check_settings(job.make_plan(Folder(tree), out, ["fog/3"]), {"N": 4, "s_y": None})
    images.write_image(tree / "fog/3/cat/a b.png", np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="is not the image that its copy in"):
        job.check_source(job.make_plan(Folder(tree), out, ["fog/3"]))


def test_a_writer_that_cannot_write_stops_the_job_and_keeps_what_is_written(tree, tmp_path):
    plan = job.make_plan(Folder(tree), tmp_path / "out", ["fog/3", "fog/5"])
    (tmp_path / "out/fog").mkdir(parents=True)
    (tmp_path / "out/fog/5").write_text("a file where a folder should be")
    with pytest.raises(
        OSError,
        match=r"cannot write .*fog/5: File exists; write elsewhere, or remove that file",
    ):
        run(plan, batch_size=1)
    assert len(trees.saved_images(tmp_path / "out", ["fog/3"])) == 6
    assert not any(path.name.endswith(files.TEMPORARY) for path in (tmp_path / "out").rglob("*"))


def test_only_the_images_that_are_asked_for_are_planned(tree, tmp_path):
    cells = ["fog/3", "fog/5"]
    everything = [
        path
        for group in job.make_plan(Folder(tree), tmp_path / "out", cells).groups
        for path in group
    ]
    keys = frozenset(trees.key_of(path) for path in everything[1::3])
    plan = job.make_plan(Folder(tree), tmp_path / "out", cells, keys=keys)
    assert plan.groups == [everything[1::3]] and plan.total == len(keys)
    assert job.make_plan(
        Folder(tree), tmp_path / "out", cells, keys=keys, num_samples=2
    ).groups == [everything[1::3][:2]]
    published = job.make_plan(Folder(tree), tmp_path / "out", cells, keys=keys, fixed_batch=4)
    assert {trees.key_of(path) for path in published.work()} == keys
    with pytest.raises(
        ValueError, match=r"`keys` names 1 images that .* does not have, such as fog/3/nobody"
    ):
        job.make_plan(Folder(tree), tmp_path / "out", cells, keys=keys | {"fog/3/nobody"})


def test_a_save_folder_that_vanishes_ends_the_job_and_is_not_made_again(tree, tmp_path):
    out, seen = tmp_path / "out", []

    def remove_folder_after_a_batch(keys, pixels):
        seen.append(keys)
        if len(seen) == 2:
            out.rename(tmp_path / "elsewhere")
        return invert(keys, pixels)

    plan = job.make_plan(Folder(tree), out, ["fog/3", "fog/5", "snow/5"])
    with pytest.raises(FileNotFoundError, match=f"the folder {out}[^ ]* is gone: somebody has"):
        run(plan, adapt_batch=remove_folder_after_a_batch)
    assert not out.exists()
