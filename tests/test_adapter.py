"""`Adapter` from Python: it reads like the documentation of it."""

import json
import pickle
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import Adapter, files, images
from DDA import tree as trees
from DDA.image_adapt.scripts import image_sample


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def test_an_array_is_adapted_in_three_lines(prior, pixels):
    from DDA import Adapter

    adapter = Adapter(prior, speed="one-shot")
    adapted = adapter(pixels)
    assert adapted.shape == (3, 16, 16, 3) and adapted.dtype == np.uint8
    assert (adapted != pixels).any()


def test_each_form_of_images_comes_back_in_its_own_form(prior, pixels):
    adapter = Adapter(prior, speed="one-shot")
    adapted = adapter(pixels)
    floats = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    assert torch.equal(
        (adapter(floats) * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(adapted)
    )
    assert np.array_equal(adapter(floats.numpy()), adapter(floats).numpy())
    assert torch.equal(adapter(torch.from_numpy(pixels)), torch.from_numpy(adapted))
    assert np.array_equal(adapter(Image.fromarray(pixels[0])), adapted[0])
    assert np.array_equal(adapter(pixels[1]), adapted[1])
    mixed = [Image.fromarray(pixels[0]), pixels[1], floats[2], Image.new("L", (40, 30))]
    copies = adapter(mixed)
    assert isinstance(copies[0], Image.Image) and copies[0].size == (16, 16)
    assert np.array_equal(copies[1], adapted[1]) and copies[2].shape == (3, 16, 16)
    assert copies[3].size == (16, 16)
    assert adapter(pixels[:0]).shape == (0, 16, 16, 3) and adapter([]) == []


def test_a_copy_depends_on_its_pixels_its_key_and_the_seed_alone(prior, pixels):
    adapter = Adapter(prior, speed="one-shot", batch_size=2)
    adapted = adapter(pixels)
    assert np.abs(adapter(pixels[::-1])[::-1].astype(int) - adapted).max() <= 1
    keys = ["a", "b", "c"]
    keyed = adapter(pixels, keys=keys)
    assert not np.array_equal(keyed, adapted)
    assert np.abs(adapter(pixels[1:], keys=keys[1:]).astype(int) - keyed[1:]).max() <= 1
    assert not np.array_equal(Adapter(prior, speed="one-shot", seed=1)(pixels, keys), keyed)


def test_memory_and_disk_give_the_same_copies(prior, tree, tmp_path):
    names = trees.list_images(tree, "fog/3")[0]
    adapter = Adapter(prior, speed="one-shot", batch_size=6)
    keys = [trees.key_of(name) for name in names]
    in_memory = adapter([images.read_rgb(tree / name) for name in names], keys=keys)
    flags = ["--model_path", prior, "--base_samples", tree, "--save_dir", tmp_path / "out"]
    flags += ["--speed", "one-shot", "--dataset", "imagenetc", "--corruption", "fog"]
    flags += ["--severity", "3", "--batch_size", "6"]
    assert image_sample.main([*map(str, flags)]) == 0
    for key, copy in zip(keys, in_memory, strict=True):
        on_disk = np.asarray(images.read_rgb(tmp_path / f"out/{key}.png"))
        assert np.array_equal(np.asarray(copy), on_disk)


def test_a_last_batch_is_filled_up_so_that_each_image_is_rounded_alike(prior, pixels):
    many = np.concatenate([pixels, 255 - pixels])
    adapter = Adapter(prior, speed="exact", N=3, batch_size=4)
    sizes = []
    adapter.network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    adapted = adapter(many)
    assert set(sizes) == {4}
    turned = adapter(np.roll(many, 3, axis=0))
    assert np.array_equal(np.roll(adapted, 3, axis=0), turned)
    sizes.clear()
    adapter(many[:1])
    assert set(sizes) == {1}  # a single image does not wait for three others


def test_a_folder_is_a_job_that_goes_on(prior, tree, tmp_path, capsys):
    adapter = Adapter(prior, speed="one-shot")
    (tree / "fog/3/cat/broken.png").write_bytes(b"")
    report = adapter.folder(tree, tmp_path / "out", gallery=tmp_path / "look.png", quiet=True)
    assert report.done == 24 and report.total == 25 and not report.complete
    assert report.failed == {"fog/3/cat/broken.png": "it is empty (0 bytes)"}
    assert report.gallery == tmp_path / "look.png" and report.gallery.is_file()
    assert capsys.readouterr() == ("", "")
    (tree / "fog/3/cat/broken.png").unlink()
    (tmp_path / "out/snow/5/cat/1.png").unlink()
    report = adapter.folder(tree, tmp_path / "out")
    said = capsys.readouterr()
    assert report.complete and report.done == 24 and "done        23" in said.out
    with pytest.raises(ValueError, match="`save_dir` .* holds images of other settings: seed 0"):
        Adapter(prior, speed="one-shot", seed=1).folder(tree, tmp_path / "out", quiet=True)


def test_a_manifest_tells_the_prior_and_how_many_copies_were_made_in_its_time(
    prior, tree, tmp_path
):
    adapter, out = Adapter(prior, speed="one-shot"), tmp_path / "out"
    selection = {"layout": "imagenetc", "corruption": "all", "severity": "all", "quiet": True}
    report = adapter.folder(tree, out, **selection)
    path = sorted(out.glob("manifest*.json"))[0]
    manifest = files.read_json(path)
    assert manifest["made"] == report.done == 24 and manifest["prior"] == str(prior)
    assert manifest["seconds"] > 0
    next(out.glob("*/*/**/*.png")).unlink()
    adapter.folder(tree, out, **selection)
    assert 1 in [files.read_json(one)["made"] for one in out.glob("manifest*.json")]


def test_only_some_images_of_some_cells(prior, tree, tmp_path):
    adapter = Adapter(prior, speed="one-shot")
    report = adapter.folder(
        tree,
        tmp_path / "out",
        layout="imagenetc",
        corruption="fog",
        severity=3,
        keys=["fog/3/cat/1", "fog/3/dog/1"],
        quiet=True,
    )
    assert report.done == 2 and report.complete


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"speed": "fastest"}, "`speed`: 'fastest' is unknown; use one of exact, balanced, fast"),
        ({"sped": "fast"}, "`sped` is unknown; did you mean speed?"),
        ({"batchsize": 3}, "`batchsize` is unknown; did you mean batch_size?"),
        ({"N": 0}, "`N` 0 is outside 1..100"),
        ({"N": "8"}, "`N` must be a whole number"),
        ({"D": 3}, "`D` 3 does not divide the image size 16"),
        ({"dtype": "int8"}, "`dtype`: 'int8' is unknown"),
        ({"batch_size": 0}, "`batch_size` 0 must be at least 1"),
        ({"batch_size": "4"}, "`batch_size` must be a whole number"),
        ({"use_fp16": "no"}, "`use_fp16` must be true or false, not 'no'"),
        ({"device": "tpu"}, "`device` tpu is unknown"),
        ({"prior": {"image_size": 32}}, "`image_size` 32, but the .json says 16"),
        ({"prior": {"image_size": "16"}}, "`image_size` must be a whole number, not '16'"),
        ({"prior": {"image_sise": 16}}, "`prior`: `image_sise` is unknown"),
        ({"prior": "x"}, "`prior` must be settings by their names, such as {"),
        ({"prior": [("image_size", 16)]}, "`prior` must be settings by their names"),
        ({"world": 2}, "`world` must be a World of DDA.ranks, not 2"),
        ({"scale": "6"}, "`scale` '6' must be a number"),
        ({"image_size": 32}, "`image_size` is unknown here; give it as `prior`, such as prior={"),
        ({"num_samples": 3}, "`num_samples` is unknown here; it belongs to `folder`"),
        ({"use_ddim": True}, "`use_ddim` is unknown here; give `sampler` ddim"),
        ({"use_fp16": True, "dtype": "float32"}, "`use_fp16` True contradicts `dtype` float32"),
        ({"timestep_respacing": "abc"}, "`timestep_respacing` 'abc' is not a form like"),
        ({"timestep_respacing": 5000}, "`timestep_respacing` '5000' wants 5000 timesteps"),
    ],
)
def test_a_wrong_setting_is_named(prior, settings, words):
    with pytest.raises(ValueError) as error:
        Adapter(prior, **settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "imagenetcc"}, "`layout`: 'imagenetcc' is unknown"),
        ({"num_samples": "3"}, "`num_samples` must be a whole number"),
        ({"num_samples": 0}, "`num_samples` 0 must be at least 1"),
        ({"train": "test"}, "`train` must be true or false or nothing, not 'test'"),
        ({"keys": ["none"]}, "`keys` names 1 images that"),
        ({"keys": ["fog/3/cat/1.JPEG"]}, "such as fog/3/cat/1.JPEG; a key has no suffix"),
        ({"keys": 7}, "`keys` must be a file or a list of keys, which are texts, not 7"),
        ({"keys": [1]}, "`keys` must be a file or a list of keys, which are texts, not [1]"),
        ({"severity": 5.5}, "`severity` must be a whole number or text, not 5.5"),
        ({"corruption": [3]}, "`corruption` must be text, not 3"),
        ({"gallery": True}, "`gallery` must be a path, not True"),
        ({"dry_run": "yes"}, "`dry_run` must be true or false, not 'yes'"),
        ({"quiet": None}, "`quiet` must be true or false, not None"),
        ({"world": 2}, "`world` must be a World of DDA.ranks, not 2"),
        ({"dataset": "folder"}, "`dataset` is unknown here; give `layout`"),
        ({"batch_size": 3}, "`batch_size` is unknown here; it belongs to `Adapter`"),
        ({"image_size": 3}, "`image_size` is unknown here; give it to `Adapter`, as an entry of"),
        ({"galery": "look.png"}, "`galery` is unknown; did you mean gallery?"),
    ],
)
def test_a_wrong_setting_of_a_folder_is_named_before_anything_is_written(
    prior, tree, tmp_path, settings, words
):
    with pytest.raises(ValueError) as error:
        Adapter(prior, speed="one-shot").folder(
            tree, tmp_path / "out", **{"quiet": True, **settings}
        )
    assert words in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [None, 3, b"x.pt", "", ["a.png"], np.zeros((2, 16, 16, 3))])
def test_what_is_no_path_is_named(prior, tree, tmp_path, value):
    with pytest.raises(ValueError, match="`model_path` must be a path, not "):
        Adapter(value)
    adapter = Adapter(prior)
    with pytest.raises(ValueError, match="`source` must be a path, not "):
        adapter.folder(value, tmp_path / "out")
    with pytest.raises(ValueError, match="`save_dir` must be a path, not .*$") as error:
        adapter.folder(tree, value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 130


def test_severities_and_keys_come_as_numpy_and_paths_have_them(prior, tree, tmp_path):
    job = {"layout": "imagenetc", "corruption": "fog", "quiet": True}
    adapter = Adapter(prior, speed="one-shot")
    for severity in (np.int64(3), np.array([3]), "3", range(3, 4)):
        report = adapter.folder(tree, tmp_path / "out", severity=severity, dry_run=True, **job)
        assert report.total == 6
    keys = [Path("fog/3/cat/1"), "fog/3/dog/1"]
    assert adapter.folder(tree, tmp_path / "out", severity=3, keys=keys, **job).done == 2


def test_a_setting_that_changes_nothing_is_a_warning(prior, tree, tmp_path):
    with pytest.warns(UserWarning, match="`scale` is ignored by `guidance` projection"):
        adapter = Adapter(prior, speed="one-shot", scale=3)
    with pytest.warns(UserWarning, match="`train` is ignored: `layout` folder has no splits"):
        adapter.folder(tree, tmp_path / "out", train=True, dry_run=True, quiet=True)


def test_an_adapter_says_in_one_line_what_it_is(prior):
    adapter = Adapter(prior, speed="one-shot", device="cpu")
    words = "16 pixels, one-shot (N 8, D 2, seed 0), cpu, float32"
    assert repr(adapter) == f"<Adapter {prior}: {words}>"


def test_an_adapter_that_was_used_can_be_sent_to_another_process(prior, pixels):
    adapter = Adapter(prior, speed="one-shot", N=4)
    expected = adapter(pixels)
    for copy in (pickle.loads(pickle.dumps(adapter)), deepcopy(adapter)):
        assert np.array_equal(copy(pixels), expected)


def test_a_whole_number_of_timesteps_is_its_text(prior):
    assert Adapter(prior, timestep_respacing=50, N=20).settings.timestep_respacing == "50"


def test_no_keys_are_no_images(prior, tree, tmp_path):
    report = Adapter(prior).folder(tree, tmp_path / "out", keys=[], quiet=True)
    assert report.total == report.done == 0 and report.complete


def test_each_image_needs_a_key_of_its_own(prior, pixels):
    adapter = Adapter(prior, speed="one-shot")
    for call in (adapter, adapter.pixels):
        with pytest.raises(ValueError, match="`keys` has 1 entries for 3 images"):
            call(pixels, ["a"])


def test_a_device_of_torch_is_a_device(prior):
    assert Adapter(prior, device=torch.device("cpu")).device == torch.device("cpu")


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_the_modes_of_torch_around_an_adapter_change_nothing(prior, tree, tmp_path, pixels, mode):
    expected = Adapter(prior, N=3)(pixels)  # the guidance of exact takes a gradient
    with mode():
        adapter = Adapter(prior, N=3)
        assert isinstance(adapter.network, torch.nn.Module)
        assert np.array_equal(adapter(pixels), expected)
        assert adapter.folder(tree, tmp_path / "in", quiet=True).complete
    assert np.array_equal(adapter(pixels), expected)
    Adapter(prior, N=3).folder(tree, tmp_path / "out", quiet=True)
    for name in trees.saved_images(tmp_path / "out", ["."]).values():
        assert (tmp_path / "in" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_default_type_of_torch_changes_nothing(prior, pixels):
    expected = Adapter(prior, N=3)(pixels)
    torch.set_default_dtype(torch.float64)
    try:
        assert np.array_equal(Adapter(prior, N=3)(pixels), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_missing_prior_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="`model_path` .*none.pt does not exist"):
        Adapter(tmp_path / "none.pt")


def test_a_copy_that_is_not_finite_is_an_error(prior, pixels):
    adapter = Adapter(prior, speed="one-shot")
    with torch.no_grad():
        next(adapter.network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the adapted copy of b has values that are not finite"):
        adapter(pixels[:1], keys=["b"])


def test_the_command_gives_its_result_as_json(prior, tree, tmp_path, capsys):
    flags = ["--model_path", prior, "--base_samples", tree, "--save_dir", tmp_path / "out"]
    flags += ["--speed", "one-shot"]
    assert image_sample.main([*map(str, flags), "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["done"] == result["total"] == 24 and result["failed"] == {}
    assert result["missing"] == [] and result["save_dir"] == str(tmp_path / "out")
    assert result["seconds"] > 0
    assert "to do       24" in said.err
    assert image_sample.main([*map(str, flags), "--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out == f"24 of 24 adapted images are in {tmp_path / 'out'}\n" and said.err == ""


def test_numbers_of_numpy_are_numbers(prior, tree, tmp_path):
    adapter = Adapter(
        prior, N=np.int64(3), D=np.int32(2), batch_size=np.int64(5), scale=np.float32(6)
    )
    report = adapter.folder(
        tree, tmp_path / "out", num_samples=np.int64(3), corruption=None, quiet=True
    )
    assert report.done == 3 and json.loads((tmp_path / "out/settings.json").read_text())["N"] == 3
