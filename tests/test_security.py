"""Attacks by data files: code, paths outside, crashes, and labels that are silently wrong."""

import json
import os
import pickle
import re
import shlex
import subprocess
import sys
import textwrap
import time
import zipfile

import numpy as np
import pytest
import torch
from helpers import ROOT
from PIL import Image

from DDA import files, sources
from DDA import tree as trees
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import test_ensemble
from DDA.model_adapt.config import read_config
from DDA.sources import arrays, cifar
from DistilledClassifier import classifiers, make_data
from DistilledClassifier.experiments import config

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
CIFAR10 = trees.class_list("cifar10")

# ------------------------------------------------------------------------------------ 1. no code


PIPELINE = "data: {test: {pipeline: [{type: LoadImageFromFile}], layout: cifar10c}}\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "e.yaml",
            "model: !!python/object/apply:os.system ['touch RAN']\n",
            "line 1, asks for more than plain values",
        ),
        (
            "e.yml",
            "a: 1\nmodel: !!python/name:os.system\n",
            "line 2, asks for more than plain values",
        ),
        (
            "e.json",
            '{"custom_imports": {"imports": ["evil"]}}',
            "custom_imports, which execute code",
        ),
        (
            "e.yaml",
            "custom_imports: {imports: [evil], allow_failed_imports: true}\n",
            "custom_imports, which execute code",
        ),
        (
            "e.yaml",
            "_base_: evil.py\n",
            "inherits from .*evil.py: a config of values inherits from .yaml, .yml, .json only",
        ),
        ("e.json", '{"_base_": ["below.yaml"]}', "below.yaml asks for custom_imports"),
        ("e.yaml", "_base_: e.yaml\n", "inherits from itself"),
        ("e.yaml", "a: &a [*a]\n", "holds more than 100,000 values"),
        (
            "e.yaml",
            PIPELINE + "evaluation: {ensemble: bogus}\n",
            "evaluation.ensemble 'bogus' is unknown",
        ),
        ("e.yaml", "data: 5\n", "`data` must be a group of entries, not 5"),
    ],
)
def test_a_config_of_values_executes_nothing(tmp_path, monkeypatch, capsys, name, text, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("import os\nos.mkdir('RAN')\n")
    (tmp_path / "below.yaml").write_text("custom_imports: {imports: [evil]}\n")
    (tmp_path / name).write_text(text)
    assert test_ensemble.main([name, "x.pth", "--data_prefix1", "a", "--data_prefix2", "b"]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error) and error.count("\n") == 1, error
    assert not (tmp_path / "RAN").exists()


def test_configs_of_values_inherit_and_read_as_those_of_python(tmp_path):
    base = {"data": {"test": {"pipeline": [], "layout": "cifar10c"}, "a": 1}}
    (tmp_path / "base.json").write_text(json.dumps(base))
    (tmp_path / "e.yaml").write_text(
        "_base_: base.json\ndata: {samples_per_gpu: 8, test: {layout: imagenetc}}\n"
    )
    (tmp_path / "e.py").write_text(
        "_base_ = 'base.json'\ndata = dict(samples_per_gpu=8, test=dict(layout='imagenetc'))\n"
    )
    ours = read_config(tmp_path / "e.yaml", ["data.a=2"])
    assert ours == read_config(tmp_path / "e.py", ["data.a=2"])
    expected = {"test": {"pipeline": [], "layout": "imagenetc"}, "a": 2, "samples_per_gpu": 8}
    assert ours["data"] == expected


@pytest.mark.parametrize(
    "model",
    [
        {"type": "timm", "name": "resnet18", "num_classes": 2, "checkpoint_path": "evil.pth"},
        {"type": "timm", "name": "hf-hub:somebody/evil", "num_classes": 2},
        {
            "type": "ImageClassifier",
            "backbone": {"type": "TIMMBackbone", "model_name": "local-dir:evil"},
        },
    ],
)
def test_a_checkpoint_leads_to_no_other_file_and_to_no_hub(tmp_path, model):
    content = {
        "state_dict": {},
        "config": {"classifier": model},
        "classes": ["a", "b"],
        "preprocess": {"size": 32},
    }
    torch.save(content, tmp_path / "x.pth")
    words = r"x.pth asks for .*, which is outside the checkpoint and is not followed"
    with pytest.raises(ValueError, match=words):
        classifiers.load(tmp_path / "x.pth")


# --------------------------------------------------------------------------- 2. no path outside

OUTSIDE = ["../esc/x", "../../esc/x", "/tmp/esc", "a/../../esc", "a\\..\\b"]
OUTSIDE += ["a//b", "", ".hidden", "a\0b", "a/.", "a/"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_is_a_path_below_its_folder_or_refused(name):
    with pytest.raises(files.BadFile, match="is no path below a folder"):
        trees.check_name(name, "x.npz")


@pytest.mark.parametrize("name", ["a", "a/b.c", "a b/ü/c..", "n0123/x_1.JPEG", "-", "a\nb"])
def test_ordinary_names_pass(name):
    assert trees.check_name(name, "x.npz") == name


def _tiny_imagenet(folder, label="n1", file="val_0.JPEG", wnids="n1\n"):
    for path in (folder / "train/n1/images/n1_0.JPEG", folder / "val/images/val_0.JPEG"):
        path.parent.mkdir(parents=True)
        Image.fromarray(PIXELS[0]).save(path)
    (folder / "wnids.txt").write_text(wnids)
    (folder / "val/val_annotations.txt").write_text(f"{file}\t{label}\t0\t0\t1\t1\n")


def _npz(**members):
    return lambda folder: np.savez(folder / "m.npz", **members)


def _cifar(folder, names=CIFAR10):
    from test_sources import write_cifar10

    write_cifar10(folder / "cifar")
    content = {b"label_names": [name.encode() for name in names]}
    (folder / "cifar/batches.meta").write_bytes(pickle.dumps(content, protocol=2))


ESCAPES = {
    "npz member": (_npz(**{"../../esc/PWN": PIXELS}), "m.npz"),
    "npz member of severities": (
        _npz(**{"../../esc/PWN": PIXELS[None], "labels": np.zeros(20, int)}),
        "m.npz",
    ),
    "npz member, absolute": (_npz(**{"/esc/PWN": PIXELS, "fog": PIXELS}), "m.npz"),
    "npz classes": (
        _npz(
            train_x=PIXELS, train_y=np.arange(20) % 2, classes=np.array(["../../../../esc/a", "b"])
        ),
        "m.npz",
    ),
    "npz classes, backslash": (
        _npz(train_x=PIXELS, train_y=np.arange(20) % 2, classes=np.array(["a\\b", "b"])),
        "m.npz",
    ),
    "CIFAR label_names": (lambda folder: _cifar(folder, ["../../esc", *CIFAR10[1:]]), "cifar"),
    "CIFAR label_names, NUL": (lambda folder: _cifar(folder, ["a\0b", *CIFAR10[1:]]), "cifar"),
    "val_annotations label": (
        lambda folder: _tiny_imagenet(folder / "tiny", label="../../../esc"),
        "tiny",
    ),
    "val_annotations file": (
        lambda folder: _tiny_imagenet(folder / "tiny", file="../../../secret.JPEG"),
        "tiny",
    ),
    "wnids": (lambda folder: _tiny_imagenet(folder / "tiny", wnids="n1\n../../esc\n"), "tiny"),
}


@pytest.mark.parametrize("case", ESCAPES)
def test_names_in_data_files_lead_nowhere(case, tmp_path, prior, capsys):
    make, name = ESCAPES[case]
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    folders = ["--base_samples", f"{tmp_path / 'in' / name}", "--save_dir", f"{tmp_path / 'o/p/q'}"]
    assert make_data.main(["prepare", *folders, "--workers", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("make_data.py: error: ") and error.count("\n") == 1
    if not name.startswith("tiny"):
        assert image_sample.main(["--model_path", f"{prior}", *folders, "--N", "1"]) == 2
        assert "Traceback" not in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before and not os.path.exists("/esc")


def test_keys_files_and_class_lists_lead_nowhere(tmp_path):
    for text in ("a/b\n../x\n", "/etc/passwd\n", "a//b\n"):
        (tmp_path / "keys.txt").write_text(text)
        with pytest.raises(files.BadFile, match=r"keys.txt holds the name"):
            trees.read_keys(tmp_path / "keys.txt")
    for text, words in (
        ("cat\ncat\n", "'cat' twice"),
        ("cat\na/b\n", "'a/b', which cannot"),
        ("..\n", "no path below"),
    ):
        (tmp_path / "classes.txt").write_text(text)
        for read in (trees.read_classes, lambda folder: trees.class_list(folder / "classes.txt")):
            with pytest.raises(files.BadFile, match=words):
                read(tmp_path)


def test_the_sinks_prove_names_once_more(tmp_path):
    from DDA.image_adapt import job
    from DistilledClassifier.recipes import Recipe
    from DistilledClassifier.trees import Task, _make, _open

    np.save(tmp_path / "x.npy", PIXELS)
    source = sources.open_source(tmp_path / "x.npy")
    plan = job.make_plan(source, tmp_path / "out", ["."])
    for name in ("../x.png", "/x.png", "a\\b.png"):
        with pytest.raises(files.BadFile):
            plan.target(name)
        _open((tmp_path / "x.npy",), tmp_path / "out", 0)
        assert "is no path below a folder" in _make(Task(Recipe("a", "copy"), "00000.png", name))[2]
    assert not (tmp_path / "out").exists() and not (tmp_path / "x.png").exists()


def test_a_file_whose_name_cannot_be_a_copy_is_a_failure_of_its_own(tmp_path, prior, capsys):
    (tmp_path / "photos").mkdir()
    for name in ("good.png", "a\\b.png"):
        Image.fromarray(PIXELS[0]).save(tmp_path / "photos" / name)
    folders = ["--base_samples", f"{tmp_path / 'photos'}", "--save_dir", f"{tmp_path / 'out'}"]
    assert image_sample.main(["--model_path", f"{prior}", *folders, "--N", "1", "--D", "2"]) == 1
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["good.png"]
    assert "is no path below a folder" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["name", "data.train", "data.val"])
def test_folders_that_an_experiment_names_lead_nowhere(entry):
    path = ROOT / "DistilledClassifier/configs/ind/CIFAR10/ResNet20/clean.yaml"
    with pytest.raises(ValueError, match=f"`{entry}`: holds the name '../../esc'"):
        config.load(path, {entry: "../../esc"})


# ------------------------------------------------------------------------------------ 3. memory


def test_arrays_in_pickles_are_read_as_numpy_wrote_them():
    values = {
        "rows": PIXELS.reshape(20, -1),
        "columns": np.asfortranarray(PIXELS[:, :, 0, 0]),
        "labels": np.arange(5),
        "swapped": np.arange(5, dtype=">i4"),
        "scalars": [np.int64(3), np.uint8(4)],
        "list": [1, 2],
        "text": b"x",
    }
    for protocol in range(2, 6):
        content = cifar.unpickle(pickle.dumps(values, protocol=protocol), "x")
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(content[name], value)
                assert content[name].dtype == value.dtype
        assert content["scalars"] == [3, 4] and content["list"] == [1, 2]


class Calls:
    """An object that is pickled as the call of a function, with or without a state."""

    def __init__(self, *reduced):
        self._reduced = reduced

    def __reduce__(self):
        return self._reduced


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([{}], object), "an array in it holds 'O8', which is no type of whole numbers"),
        (np.array(["a"]), "holds 'U1', which is no type of whole numbers"),
        (np.zeros(2), "holds 'f8', which is no type of whole numbers"),
        (np.zeros(1, [("a", "O")]), "holds 'V8', which is no type of whole numbers"),
        (Calls(os.mkdir, ("RAN",)), "asks for posix.mkdir, which is refused"),
        (Calls(np.load, ("x.npy",)), "asks for numpy.load, which is refused"),
        (Calls(np.dtype, ("u1",), (None, {"dtype": 3})), "holds parts, which is no type"),
        (Calls(np.ndarray, ((1 << 40,),)), "is damaged, or no CIFAR file"),
    ],
)
def test_pickles_that_ask_for_more_are_refused_in_words(value, words):
    for protocol in (2, 4, 5):
        with pytest.raises(files.BadFile, match=words):
            cifar.unpickle(pickle.dumps({"data": value}, protocol=protocol), "x")


@pytest.mark.parametrize(
    "data",
    [
        # an array of another shape than its bytes; a dtype of objects; the state of a class; a
        # memo of 2^32 places
        pickle.dumps({"a": np.arange(4, dtype="u1")}, 2).replace(b"K\x04\x85", b"K\x05\x85"),
        pickle.dumps({"a": np.arange(4, dtype="u1")}, 2).replace(b"u1", b"O8"),
        b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00abc.",
        b"\x80\x02" + b"]" * 50 + b"." * 3,
    ],
)
def test_hostile_pickles_are_refused_or_plain(data):
    try:
        assert isinstance(cifar.unpickle(data, "x"), dict)
    except files.BadFile as error:
        assert str(error).startswith("x")


def test_numpys_own_pickles_and_objects_are_refused_in_words(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(PIXELS))
    np.savez(tmp_path / "objects.npz", train_x=np.array([{}], object))
    for name, words in (
        ("objects.npy", "holds Python objects"),
        ("pickle.npy", "no npy file"),
        ("objects.npz", "holds Python objects"),
    ):
        with pytest.raises(files.BadFile, match=words):
            sources.open_source(tmp_path / name)


@pytest.mark.parametrize(
    "shape",
    ["(1000000000000, 32, 32, 3)", "(100000000, 0, 0)", "(-5, 32, 32, 3)", "(2, 2, 1000000000, 3)"],
)
def test_declared_sizes_are_compared_with_the_file_first(tmp_path, shape):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(100)
    (tmp_path / "x.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("fog.npy", data)
    for name in ("x.npy", "x.npz"):
        begun = time.monotonic()
        with pytest.raises(files.BadFile, match=name):
            sources.open_source(tmp_path / name)
        assert time.monotonic() - begun < 1


# ---------------------------------------------------------------------- 4. a stop is remembered

STARTER = """
    import sys
    sys.path[:0] = [{root!r}, {root!r} + "/scripts"]
    from DDA import commands
    child = [sys.executable, "-c", '''
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
    print("ready", flush=True)
    time.sleep(float(sys.argv[1]))
    sys.exit(int(sys.argv[2]))
    '''.replace("\\n    ", "\\n")]
    def work(values, output):
        commands.call([*child, "1.5", sys.argv[1]])
        print("next stage", flush=True)
        return 0
    sys.exit(commands.run(commands.Parser("starter"), [], work))
"""


@pytest.mark.parametrize(("number", "status"), [(15, 143), (2, 130)])
@pytest.mark.parametrize("child_says", ["0", "1", "130"])
def test_a_stop_is_remembered_whatever_the_child_says(tmp_path, number, status, child_says):
    (tmp_path / "starter.py").write_text(textwrap.dedent(STARTER).format(root=str(ROOT)))
    process = subprocess.Popen(
        [sys.executable, tmp_path / "starter.py", child_says],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, error = process.communicate(timeout=30)
    assert "next stage" not in output and process.returncode == status and "interrupted" in error
    assert ("told" in output) == (number == 15)  # a terminal tells the child of Ctrl-C itself


# ------------------------------------------------------------------------------------ 5. labels


def corruption(folder, labels, rows=20, name="fog"):
    folder.mkdir(exist_ok=True)
    np.save(folder / f"{name}.npy", PIXELS[:rows])
    np.save(folder / "labels.npy", labels)
    return folder / f"{name}.npy"


LABELS = np.random.default_rng(1).permutation(np.arange(20) % 10)


def test_a_file_of_one_severity_is_not_taken_for_five(tmp_path):
    path = corruption(tmp_path / "c", LABELS)
    for source in (path, path.parent):
        words = r"seems to hold one severity. Tell which, `severity` 5"
        with pytest.raises(files.BadFile, match=words):
            sources.open_source(source)
        opened = sources.open_source(source, severity=3)
        assert opened.folders("fog") == ["3"] and len(opened.names) == 20
        for row, label in enumerate(LABELS):
            pixels = opened.pixels(f"fog/3/{CIFAR10[label]}_{row:05}.png")
            np.testing.assert_array_equal(pixels, PIXELS[row])
        assert pickle.loads(pickle.dumps(opened)).names == opened.names


def test_prepare_adapt_and_evaluate_take_the_severity_of_a_file_alike(tmp_path, prior, capsys):
    path = corruption(tmp_path / "c", LABELS)
    tree, network = tmp_path / "tree", tmp_path / "net.pth"
    prepare = shlex.split(f"prepare --base_samples {path} --save_dir {tree} --workers 1")
    adapt = shlex.split(
        f"--model_path {prior} --base_samples {path} --dataset cifar10c --corruption fog --N 1 "
        f"--D 2 --save_dir {tmp_path / 'adapted'} --dry_run"
    )
    model = {"type": "CifarResNet", "depth": 8, "num_classes": 10}
    entries = {"classifier": model, "preprocess": {"size": 16}}
    classifiers.save(network, classifiers.build(model), entries, CIFAR10)
    evaluate = shlex.split(
        f"configs/ensemble/resnet18_ensemble_b64_cifar10c.py {network} --data_prefix1 {path} "
        f"--data_prefix2 {tree} --corruption fog --out {tmp_path / 'eval'}"
    )
    for main, command in (
        (make_data.main, prepare),
        (image_sample.main, adapt),
        (test_ensemble.main, evaluate),
    ):
        assert main(command) == 2
        assert "seems to hold one severity" in capsys.readouterr().err
        assert main([*command, "--severity", "4"]) == 0
        capsys.readouterr()
    assert {path.parent.name for path in tree.rglob("*.png")} == {"4"}
    with np.load(tmp_path / "eval/4/fog.npz") as scores:
        own = {f"fog/4/{CIFAR10[label]}_{row:05}": label for row, label in enumerate(LABELS)}
        pairs = zip(scores["keys"], scores["labels"], strict=True)
        assert {str(key): label for key, label in pairs} == own


@pytest.mark.parametrize(
    ("labels", "severity", "parts"),
    [
        (np.tile(LABELS[:4], 5), None, 5),  # as published
        (LABELS[:4], None, 5),  # one label for each row of a severity
        (np.tile(LABELS[:4], 5)[:, None], None, 5),  # (N,1)
        (np.tile(LABELS[:4], 5), 2, 5),  # the severity chooses one of five
        (LABELS.astype(float), 2, 1),
        (np.tile(LABELS, 5), 2, 1),  # the published labels beside a part of the images
    ],
)
def test_labels_in_every_honest_form(tmp_path, labels, severity, parts):
    opened = sources.open_source(corruption(tmp_path / "c", labels), CIFAR10, severity)
    assert len(opened.folders("fog")) == parts and len(opened.names) == 20
    row = 7 if parts == 1 else 2
    label = LABELS[row]
    assert any(name.endswith(f"{CIFAR10[label]}_{row:05}.png") for name in opened.names)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(10)[LABELS], r"shape \(20, 10\), one-hot rows or scores"),
        (np.array([CIFAR10[label] for label in LABELS]), "labels that are no numbers"),
        (LABELS - 5, r"has the label -\d; expected one class index"),
        (LABELS + 0.5, r"has the label \d.5; expected"),
        (np.where(LABELS == 3, np.nan, LABELS), "has the label nan"),
        (LABELS == 3, "labels that are no numbers"),
        (LABELS[:19], "20 images and labels.npy 19 labels"),
        (LABELS[:, None, None], r"shape \(20, 1, 1\)"),
    ],
)
def test_wrong_labels_are_refused_in_words(tmp_path, labels, words):
    with pytest.raises(files.BadFile, match=words):
        sources.open_source(corruption(tmp_path / "c", labels), CIFAR10, 5)
    np.savez(tmp_path / "x.npz", train_x=PIXELS, train_y=labels, classes=np.array(CIFAR10))
    with pytest.raises(files.BadFile, match="x.npz"):
        sources.open_source(tmp_path / "x.npz")


def test_class_names_that_occur_twice_are_refused(tmp_path):
    classes = np.array(["cat", "dog", "cat"])
    np.savez(tmp_path / "x.npz", train_x=PIXELS, train_y=LABELS % 3, classes=classes)
    with pytest.raises(files.BadFile, match="has the class 'cat' twice"):
        sources.open_source(tmp_path / "x.npz")
    with pytest.raises(files.BadFile, match="twice"):
        sources.open_source(corruption(tmp_path / "c", LABELS), ["a"] * 10, 5)
    with pytest.raises(files.BadFile, match="twice"):
        arrays.Arrays(tmp_path, ["a", "b", "a "])
