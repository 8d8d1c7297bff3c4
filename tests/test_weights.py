"""Files of weights as people have them: found, named, or refused in words. Two doors read them."""

import contextlib
import io
import json
import os
import pickle
import re
import sys
import tarfile
import time
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_PROCESS, tiny_unet

from DDA import Adapter, Ensemble, files, weights
from DDA.image_adapt import checkpoints
from DDA.image_adapt import prior as priors
from DistilledClassifier import classifiers

DOORS = ("prior", "classifier")
SMALL = {"type": "CifarResNet", "depth": 8, "num_classes": 3}
CONFIG = {"classifier": SMALL, "preprocess": {"size": 8}}
torch.manual_seed(0)
STATES = {
    "prior": tiny_unet().state_dict(),
    "classifier": classifiers.build(SMALL).model.state_dict(),
}


class ConfigParser:
    """An object as the original repositories have it in their checkpoints."""


ConfigParser.__module__ = "parse_config"


@pytest.fixture
def parse_config(monkeypatch):
    module = types.ModuleType("parse_config")
    module.ConfigParser = ConfigParser
    monkeypatch.setitem(sys.modules, "parse_config", module)


def put(path, content, **more):
    """Write a file of torch, or of bytes, and the .json of the tiny prior beside it."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path, **more)
    path.with_suffix(".json").write_text(json.dumps({**TINY, **TINY_PROCESS}))
    return path


def opened(door, path):
    """Open a file by one of the doors, and return what it gives."""
    return priors.load(path) if door == "prior" else classifiers.load(path)


def fault(door, path):
    """Return the message with which a door refuses a file: one line in words that name it."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        opened(door, path)
    text = f"{error.value}"
    assert text.isprintable() and path.name in text
    for words in ("torch.nn.modules.module", "state_dict for", "size mismatch", "Errno", "_C."):
        assert words not in text
    return text


def as_bytes(content, **more):
    buffer = io.BytesIO()
    torch.save(content, buffer, **more)
    return buffer.getvalue()


# ----------------------------------------------------------------- checkpoints as people have them


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("container", ["", *weights.CONTAINERS, "model.state_dict"])
def test_weights_are_found_where_programs_put_them(tmp_path, door, container):
    content = STATES[door]
    for name in reversed(container.split(".") if container else []):
        content = {name: content, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}}
    opened(door, put(tmp_path / "x.pt", content))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.module.", "model._orig_mod.model.module."]
)
def test_prefixes_of_wrappers_are_taken_off_in_any_order(tmp_path, door, prefix):
    state = {prefix + name: value for name, value in STATES[door].items()}
    state["criterion.weight"] = torch.zeros(3)
    opened(door, put(tmp_path / "x.pt", {"state_dict": state}))


def test_the_averaged_weights_are_taken_where_there_are_others_too():
    one, two = {"w": torch.zeros(1)}, {"w": torch.ones(1)}
    content = {"state_dict": one, "state_dict_ema": two}
    assert weights.state_of(content, "x.pt") == two


def test_a_network_with_a_part_called_model_keeps_its_names():
    network = torch.nn.ModuleDict({"model": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    state = network.state_dict()
    assert weights.named_for(state, state).keys() == state.keys()
    wrapped = {f"module.{name}": value for name, value in state.items()}
    assert weights.named_for(wrapped, state).keys() == state.keys()


@pytest.mark.parametrize("door", DOORS)
def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path, door):
    numbers = {"acc": np.float64(91.5), "epoch": np.int64(3), "ok": np.bool_(True)}
    numbers |= {"loss": np.float32(2), "name": np.str_("a"), "big": np.float64(1).astype(">f8")}
    path = put(tmp_path / "x.pt", {"state_dict": STATES[door], **numbers})
    content = weights.read(path, "checkpoint")
    assert {name: content[name] for name in numbers} == numbers
    assert type(content["acc"]) is float and type(content["epoch"]) is int
    opened(door, path)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_class_in_a_checkpoint_is_named_with_the_lines_that_convert_it(
    tmp_path, monkeypatch, parse_config, door, zipped
):
    content = {"arch": "R", "state_dict": STATES[door], "config": ConfigParser()}
    path = put(tmp_path / "old.pth", content, _use_new_zipfile_serialization=zipped)
    text = fault(door, path)
    assert "class parse_config.ConfigParser" in text and "would execute code" in text
    monkeypatch.chdir(tmp_path)
    lines = re.search(r"in Python: (x = .*\)); (torch\.save\(.*\))$", text)
    exec(f"{lines[1]}\n{lines[2]}", {"torch": torch})  # as a user who trusts the file does
    put(tmp_path / "weights.pth", (tmp_path / "weights.pth").read_bytes())
    opened(door, tmp_path / "weights.pth")


def test_a_whole_module_and_an_array_are_named_with_what_takes_their_weights(tmp_path):
    path = put(tmp_path / "x.pt", torch.nn.Linear(2, 2))
    assert "torch.save(x.state_dict()," in fault("classifier", path)
    path = put(tmp_path / "x.pt", {**STATES["classifier"], "mean": np.zeros(3)})
    text = fault("classifier", path)
    assert "_reconstruct" in text and "{name: x[name] for name in x" in text


@pytest.mark.parametrize("door", DOORS)
def test_states_of_optimisers_and_of_runs_and_folders_of_diffusers_are_named(tmp_path, door):
    state = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    assert "state of an optimiser" in fault(door, put(tmp_path / "opt.pt", state))
    state = {"task": STATES[door], "optimizer": state, "step": 3}
    assert "state of a run" in fault(door, put(tmp_path / "resume.pt", state))
    assert "is a folder; give the file of weights, such as 'opt.pt'" in fault(door, tmp_path)
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text("{}")
    assert "folder of diffusers (it holds unet/config.json)" in fault(door, tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    assert "folder of diffusers (it holds model_index.json)" in fault(door, tmp_path)


def test_a_network_of_diffusers_is_named(tmp_path):
    state = {"time_embedding.linear_1.weight": torch.zeros(2, 2), "conv_in.weight": torch.zeros(2)}
    assert "U-Net of diffusers" in fault("prior", put(tmp_path / "x.pt", state))


# ----------------------------------------------------------------------------------- safetensors


@pytest.mark.parametrize("door", DOORS)
def test_safetensors_are_read_and_damaged_ones_named(tmp_path, door):
    save = pytest.importorskip("safetensors.torch").save
    data = save({name: value.contiguous() for name, value in STATES[door].items()})
    opened(door, put(tmp_path / "x.safetensors", data))
    for broken in (data[:-9], data[:300], (1 << 31).to_bytes(8, "little") + data[8:]):
        text = fault(door, put(tmp_path / "y.safetensors", broken))
        assert "y.safetensors is damaged, or no" in text


def test_our_checkpoints_are_written_as_safetensors_too(tmp_path):
    pytest.importorskip("safetensors")
    network = classifiers.build(SMALL)
    for name in ("a.pth", "a.safetensors"):
        more = {"adapted": {"steps": 2}, "epoch": np.int64(3), "metrics": {"top1": np.float32(0.1)}}
        classifiers.save(tmp_path / name, network, CONFIG, ("x", "y", "z"), **more)
    one, two = (classifiers.load(tmp_path / name) for name in ("a.pth", "a.safetensors"))
    assert (one.classes, one.config, one.adapted) == (two.classes, two.config, two.adapted)
    image = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    assert torch.equal(one.scores(image), two.scores(image))
    checkpoints.save(tmp_path / "p.safetensors", STATES["prior"], {**TINY, **TINY_PROCESS})
    opened("prior", tmp_path / "p.safetensors")


def test_safetensors_without_their_library_say_what_to_install(tmp_path, monkeypatch):
    path = put(tmp_path / "x.safetensors", (2).to_bytes(8, "little") + b"{}")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert "pip install safetensors" in fault("classifier", path)


# ---------------------------------------------------------------------------------------- digests


def flipped(path, data):
    """Write a file whose data have one other bit, and return how it is called."""
    content = bytearray(path.read_bytes())
    content[content.index(data) + 5] ^= 64
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_flipped_bit_in_our_classifier_is_found(tmp_path, name):
    network = classifiers.build(SMALL)
    classifiers.save(tmp_path / name, network, CONFIG, ("x", "y", "z"))
    classifiers.load(tmp_path / name)
    data = network.model.conv1.weight.detach().numpy().tobytes()
    text = fault("classifier", flipped(tmp_path / name, data))
    assert "was changed or damaged since it was written" in text


def test_other_classes_in_our_classifier_are_found_and_older_ones_have_no_digest(tmp_path):
    classifiers.save(tmp_path / "a.pth", classifiers.build(SMALL), CONFIG, ("x", "y", "z"))
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    torch.save({**content, "classes": ["x", "z", "y"]}, tmp_path / "a.pth")
    assert "was changed" in fault("classifier", tmp_path / "a.pth")
    content.pop("sha256")
    torch.save(content, tmp_path / "a.pth")
    assert classifiers.load(tmp_path / "a.pth").classes == ("x", "y", "z")


def test_a_flipped_bit_in_our_prior_is_found(tmp_path, monkeypatch):
    path = tmp_path / "ema.pt"
    checkpoints.save(path, STATES["prior"], {**TINY, **TINY_PROCESS})
    opened("prior", path)
    kept = path.read_bytes()
    data = STATES["prior"]["time_embed.0.weight"].numpy().tobytes()
    text = fault("prior", flipped(path, data))
    assert "was changed or damaged since it was written" in text and "ema.json" in text
    path.write_bytes(kept)
    write, written = files.write_bytes, []

    def kill_after(moment):
        """Save another prior, and be killed before the write of that number."""

        def write_or_end(*args, **settings):
            if len(written) == moment:
                raise KeyboardInterrupt
            written.append(write(*args, **settings))

        written.clear()
        monkeypatch.setattr(files, "write_bytes", write_or_end)
        with contextlib.suppress(KeyboardInterrupt):
            other = {**STATES["prior"], "out.2.bias": torch.full((6,), float(moment))}
            checkpoints.save(path, other, TINY | TINY_PROCESS)
        opened("prior", path)  # whenever it was killed, the prior that is there loads

    for moment in range(4):
        kill_after(moment)
    assert "previous_sha256" not in files.read_json(path.with_suffix(".json"))


def test_a_prior_with_a_digest_is_hashed_once(tmp_path, monkeypatch):
    checkpoints.save(tmp_path / "ema.pt", STATES["prior"], {**TINY, **TINY_PROCESS})
    hashed, sha256 = [], files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (hashed.append(path), sha256(path))[1])
    prior = priors.load(tmp_path / "ema.pt")
    assert prior.sha256 == files.read_json(tmp_path / "ema.json")["sha256"]
    assert hashed == [tmp_path / "ema.pt"]


# ----------------------------------------------------------------------------- what a file holds


def changed(door, change):
    """Return the state of a door with its first tensor changed."""
    name = next(iter(STATES[door]))
    return {**STATES[door], name: change(STATES[door][name])}


def quantised(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


ODD = {
    "None": (lambda door: {"state_dict": None}, "holds no weights (it holds state_dict)"),
    "empty": (lambda door: {}, "holds no weights (it holds nothing)"),
    "int keys": (
        lambda door: dict(enumerate(STATES[door].values())),
        "holds no weights (it holds 0",
    ),
    "scalars": (lambda door: dict.fromkeys(STATES[door], torch.tensor(1.0)), "is damaged, or no"),
    "shapes": (lambda door: dict.fromkeys(STATES[door], torch.zeros(32, 3, 1, 1)), "do"),
    "a tensor": (lambda door: torch.zeros(3), "it holds a Tensor"),
    "quantised": (lambda door: changed(door, quantised), "is quantised; convert it"),
    "sparse": (lambda door: changed(door, torch.Tensor.to_sparse), "is sparse; convert it"),
    "meta": (lambda door: changed(door, lambda value: value.to("meta")), "no numbers"),
    "complex": (lambda door: changed(door, torch.Tensor.cfloat), "complex numbers"),
    "whole": (lambda door: changed(door, torch.Tensor.int), "whole numbers (int32) there"),
    "NaN": (lambda door: changed(door, lambda value: value / 0 * 0), "are NaN, no numbers"),
    "one NaN": (
        lambda door: changed(door, lambda value: value.where(value != value.max(), torch.nan)),
        "are NaN, no numbers",
    ),
    "expanded": (
        lambda door: changed(door, lambda value: torch.zeros(1).expand(value.shape)),
        "but the file holds only 4 bytes",
    ),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("odd", ODD)
def test_odd_weights_are_refused_in_words(tmp_path, door, odd):
    make, words = ODD[odd]
    assert words in fault(door, put(tmp_path / "x.pt", make(door)))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read(tmp_path, door, kind):
    state = {
        name: value.to(kind) if value.is_floating_point() else value
        for name, value in STATES[door].items()
    }
    found = opened(door, put(tmp_path / "x.pt", state))
    network = found.network(torch.device("cpu")) if door == "prior" else found.network
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_the_first_weights_that_do_not_fit_are_named(tmp_path):
    state = {**STATES["classifier"], "conv1.weight": torch.zeros(16, 3, 5, 5)}
    state["more"] = state.pop("linear.bias")
    text = fault("classifier", put(tmp_path / "x.pt", state))
    assert "2 of its weights differ" not in text  # one is of another shape, one absent, one more
    assert (
        "3 of its weights differ: conv1.weight is (16, 3, 5, 5) there, (16, 3, 3, 3) here" in text
    )
    assert "linear.bias is missing" in text and "more is too many" in text


def test_a_classifier_is_no_prior_and_a_prior_no_classifier(tmp_path):
    wrapped = {"state_dict": STATES["classifier"], "best_prec1": 91.2}
    path = put(tmp_path / "resnet.th", wrapped)
    with pytest.raises(ValueError, match="resnet.th looks like a classifier, and is not a guided"):
        Adapter(path)
    text = fault("classifier", put(tmp_path / "prior.pt", STATES["prior"]))
    assert "looks like a prior (the U-Net of a diffusion model)" in text
    with pytest.raises(ValueError, match=r"does not fit .*looks like a prior"):
        classifiers.initialise(classifiers.build(SMALL), tmp_path / "prior.pt")


# ------------------------------------------------------------------------------ what a file is


def tar_of(*names):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def packed_anew(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return buffer.getvalue()


WHOLE = as_bytes(STATES["classifier"])
OTHERS = {
    "empty": (b"", "is empty (0 bytes)"),
    "JSON": (b'{"a": 1}', "is JSON, which holds no weights"),
    "HTML": (b"<!DOCTYPE html><html></html>", "is a web page (HTML): the download failed"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run: git lfs pull"),
    "text": (b"hello\x1b[31m".replace(b"\x1b", b"^"), "is a text file ('hello^[31m')"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "gzip": (b"\x1f\x8b" + bytes(99), "is packed by gzip; unpack it"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(99), "is a picture"),
    "NumPy": (b"\x93NUMPY" + bytes(99), "is an array of NumPy"),
    "zeros": (bytes(999), "is damaged, or no"),
    "noise": (np.random.default_rng(0).bytes(999), "is damaged, or no"),
    "tar of torch 0.1": (tar_of("sys_info", "pickle"), "is in the tar format of torch 0.1"),
    "tar": (tar_of("a.pth"), "is a tar archive; unpack it"),
    "cut off": (WHOLE[:-100], "is cut off"),
    "packed anew": (packed_anew(WHOLE), "is a zip archive that was packed anew"),
    "old and cut off": (
        as_bytes(STATES["classifier"], _use_new_zipfile_serialization=False)[:-100],
        "is damaged, or no",
    ),
    # intact as an archive: never called cut off
    "overwritten": (WHOLE.replace(b"ctorch._utils\n", b"\xff" * 14, 1), "is damaged, or no"),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_another_kind_is_called_by_its_kind(tmp_path, door, kind):
    data, words = OTHERS[kind]
    text = fault(door, put(tmp_path / "x.pt", data))
    assert words in text and ("cut off" in text) == (kind == "cut off")


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_are_read_or_named(tmp_path, protocol):
    for content in (STATES["classifier"], {"a": np.zeros(3)}):
        text = fault("classifier", put(tmp_path / "x.pt", pickle.dumps(dict(content), protocol)))
        assert "is a pickle of Python, not a file of torch" in text and "pickle.load(open(" in text
    for zipped in (True, False):
        more = {"pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
        path = put(tmp_path / "y.pt", STATES["classifier"], **more)
        if protocol in (2, 3):
            opened("classifier", path)
        else:
            assert "holds a pickle of protocol" in fault("classifier", path)


def test_a_json_beside_the_weights_leads_to_them(tmp_path):
    path = put(tmp_path / "p.pt", STATES["prior"])
    with pytest.raises(
        ValueError, match=r"p\.json is no prior.*JSON, .*give the file beside it, p.pt"
    ):
        Adapter(path.with_suffix(".json"))


@pytest.mark.parametrize("door", DOORS)
def test_what_is_no_regular_file_is_not_opened(tmp_path, door):
    os.mkfifo(tmp_path / "fifo.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    (tmp_path / "gone.pt").symlink_to(tmp_path / "nowhere.pt")
    assert "fifo.pt is a named pipe, not a file" in fault(door, tmp_path / "fifo.pt")
    assert "loop.pt is a link that leads back to itself" in fault(door, tmp_path / "loop.pt")
    assert "is a link to a file that does not exist" in fault(door, tmp_path / "gone.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    assert "zero.pt is a device, not a file" in fault(door, tmp_path / "zero.pt")
    assert "does not exist" in fault(door, tmp_path / "absent.pt")


# ----------------------------------------------------------------------------- our own checkpoints


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"preprocess": {}}, "`preprocess`"),
        ({"preprocess": None}, "no `preprocess`"),
        ({"preprocess": {"size": -3}}, "`preprocess`"),
        ({"preprocess": {"size": "8"}}, "`preprocess`"),
        ({"preprocess": {"size": 8, "mean": 3}}, "`preprocess`"),
        ({"state_dict": None}, "holds no weights"),
        ({"config": {}}, "is damaged, or no classifier's checkpoint"),
        ({"config": None}, "is damaged, or no classifier's checkpoint"),
        ({"config": {"classifier": None}}, "has no model dict"),
        ({"config": {"classifier": {"type": ["x"]}}}, "classifier type"),
        ({"config": {"classifier": {**SMALL, "depth": "x"}}}, "depth 'x'"),
        ({"config": {"classifier": {**SMALL, "depth": 6 * 10**3 + 8}}}, "depth 6008"),
        ({"config": {"classifier": {**SMALL, "num_classes": 10**9}}}, "at most 100,000 is meant"),
        ({"config": {"classifier": {**SMALL, "num_classes": float("nan")}}}, "has nan in its"),
        ({"config": {"classifier": {**SMALL, "num_classes": 99_999}}}, "does not fit"),
        ({"config": {"classifier": {**SMALL, "num_classes": -3}}}, "`num_classes` -3"),
        ({"config": {"classifier": {**SMALL, "depth": torch.ones(9, 9)}}}, "has a tensor among"),
        ({"config": {"classifier": {**SMALL, "\x1b[31m": 1}}}, r"argument '\x1b[31m'"),
        ({"preprocess": {"size": 8.5}}, "`size` must be a whole number, not 8.5"),
        ({"preprocess": {"size": 8, "squash": 3}}, "`squash` must be true or false, not 3"),
        ({"classes": 5}, "is damaged, or no classifier's checkpoint"),
    ],
)
def test_a_part_of_our_checkpoint_that_cannot_be_meant_is_refused(tmp_path, change, words):
    content = {"state_dict": STATES["classifier"], "config": CONFIG, "classes": ["x", "y", "z"]}
    path = put(tmp_path / "x.pth", {**content, "preprocess": {"size": 8}, **change})
    begun = time.perf_counter()
    assert words in fault("classifier", path)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("name", ["hf-hub:a/b", "local-dir:a", "hf_hub:a/b"])
def test_a_name_with_a_colon_is_not_followed(tmp_path, name):
    config = {"classifier": {"type": "timm", "name": name}}
    content = {"state_dict": STATES["classifier"], "config": config, "classes": ["x"]}
    path = put(tmp_path / "x.pth", {**content, "preprocess": {"size": 8}})
    assert "outside the checkpoint and is not followed" in fault("classifier", path)


def test_a_state_of_a_run_holds_no_mapped_file(tmp_path):
    path = put(tmp_path / "resume.pt", {"w": torch.zeros(9999)})

    def maps():
        return path.name in Path("/proc/self/maps").read_text()

    state = weights.read(path, "state of a run", is_mapped=False)
    assert state["w"].sum() == 0 and not maps()
    state = weights.read(path, "state of a run")
    assert state["w"].sum() == 0 and maps()


# -------------------------------------------------------------------------------- declared sizes


@pytest.mark.parametrize("door", DOORS)
def test_a_network_that_is_wider_than_its_file_is_refused(tmp_path, door):
    # each tensor is 64 times as long in its first axis, over the same few bytes
    wide = {
        name: value[:1].expand(64 * len(value), *value.shape[1:]) if value.ndim else value
        for name, value in STATES[door].items()
    }
    assert "but the file holds only" in fault(door, put(tmp_path / "x.pt", wide))
    # and all of them over one storage that is large enough for each
    largest = max(value.numel() for value in STATES[door].values())
    shared = torch.zeros(4 * largest)
    views = {f"layer{i}.weight": shared[: 4 * largest].view(2, -1) for i in range(99)}
    assert "but its tensors declare" in fault(door, put(tmp_path / "y.pt", views))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"diffusion_steps": 1e9}, "`diffusion_steps` must be a whole number"),
        ({"diffusion_steps": 10**9}, "`diffusion_steps` 1000000000 is not a number from 1 to"),
        ({"diffusion_steps": 10**30}, "`diffusion_steps` must be a whole number"),
        ({"diffusion_steps": True}, "`diffusion_steps` must be a whole number"),
        ({"image_size": -32}, "`image_size` -32 is not a number from 1 to"),
        ({"image_size": 0}, "`image_size` 0 is not"),
        ({"image_size": "16"}, "`image_size` must be a whole number"),
        ({"image_size": None}, "`image_size` must be a whole number"),
        ({"num_heads": 0}, "`num_heads` 0 is not"),
        ({"num_heads": -1}, "`num_heads` -1 is not"),
        ({"num_heads": 7}, "`num_heads`"),
        ({"num_head_channels": 0}, "`num_head_channels` 0 is not"),
        ({"num_channels": 10**9}, "`num_channels` 1000000000 is not"),
        ({"noise_schedule": "x\x1b[31m"}, "`noise_schedule`"),
        ({"noise_schedule": ["linear"]}, "`noise_schedule` must be text"),
        ({"use_new_attention_order": 1}, "`use_new_attention_order` must be true or false"),
        ({"channel_mult": {"a": 1}}, "`channel_mult` must be"),
    ],
)
def test_the_entries_beside_a_prior_must_be_meant(tmp_path, entry, words):
    path = put(tmp_path / "x.pt", STATES["prior"])
    path.with_suffix(".json").write_text(json.dumps({**TINY, **TINY_PROCESS, **entry}))
    begun = time.perf_counter()
    with pytest.raises(ValueError) as error:
        priors.load(path)
    assert words in f"{error.value}" and f"{error.value}".isprintable()
    assert time.perf_counter() - begun < 1
    path.with_suffix(".json").write_text("[1]")
    with pytest.raises(files.BadFile, match="x.json holds no JSON object"):
        priors.load(path)


def test_a_network_of_a_million_blocks_is_refused_at_once(tmp_path):
    state = {**STATES["prior"], "output_blocks.1000000.0.in_layers.0.weight": torch.zeros(1)}
    begun = time.perf_counter()
    assert "1,000,001 output blocks" in fault("prior", put(tmp_path / "x.pt", state))
    assert time.perf_counter() - begun < 1


# ------------------------------------------------------------------------------- words of settings


def test_a_prior_alone_says_what_to_give_and_where(tmp_path):
    torch.save(STATES["prior"], tmp_path / "alone.pt")
    with pytest.raises(ValueError) as error:
        Adapter(tmp_path / "alone.pt")
    for words in ("`image_size` 64", "`noise_schedule` linear", "in Python as prior={'image_size'"):
        assert words in f"{error.value}"


def test_the_two_classifiers_of_an_ensemble_are_named_by_their_settings(tmp_path):
    os.mkfifo(tmp_path / "a.pth")
    put(tmp_path / "b.pth", b"<html>")
    ours = put(tmp_path / "c.pth", STATES["classifier"])
    for first, second, words in (
        (tmp_path / "first.pth", None, "`first` .*first.pth does not exist; give"),
        (tmp_path, None, "`first` .* is a folder; give the file"),
        (tmp_path / "a.pth", None, "`first` .*a.pth is a named pipe"),
        (ours, tmp_path / "b.pth", "`second` .*b.pth is no classifier's checkpoint; it is a web"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            Ensemble(first, second)


def test_messages_name_the_setting_and_what_takes_a_name_of_timm(tmp_path):
    with pytest.raises(ValueError, match="names a model of timm, not a file. Ensemble"):
        classifiers.load("timm/resnet18")
    with pytest.raises(FileNotFoundError, match="`first` .*first.pth does not exist"):
        classifiers.open_classifier(tmp_path / "first.pth", setting="first")
    put(tmp_path / "first.pth", b"<html>")
    with pytest.raises(
        ValueError, match="`first` .*first.pth is no classifier's checkpoint; it is a web"
    ):
        classifiers.open_classifier(tmp_path / "first.pth", setting="first")
