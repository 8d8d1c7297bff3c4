"""What tests/fuzz.py changes inside of valid files: entries of another kind, and missing ones."""

from __future__ import annotations

import copy
import importlib
import io
import json
import math
import os
import pickle
import random
import re
import struct
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
NUMBERS = (True, 0, -1, 3, 1 << 31, 10**30, 0.5, math.nan, math.inf, -1e308)
TEXTS = ("", "a", "jpeg", "../..", "/esc/x", "x" * 300, "a\nb", "\x1b[31m", "\udcff", "\0", "1e9")
ODD = (None, *NUMBERS, *TEXTS, [], [None], [[1]], {}, {"a": 1}, {"type": "Linear"})


def twisted(value: Any, rng: random.Random, odd: Sequence[Any] = ODD) -> Any:
    """Return nested dicts and lists with one to three entries that are lost or of another kind."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places or rng.random() < 0.03:
            return rng.choice(odd)
        box, name = rng.choice(places)
        kind = rng.randrange(6)
        if kind == 0 and isinstance(box, dict):
            del box[name]
        elif kind == 1 and isinstance(box, dict):
            box[rng.choice(TEXTS)] = box.pop(name)
        elif kind == 2:
            box[name] = [box[name]]
        elif kind == 3:
            other, its = rng.choice(places)
            with suppress(KeyError, IndexError):  # it was lost with what holds it
                box[name] = copy.deepcopy(other[its])
        else:
            box[name] = copy.deepcopy(rng.choice(odd))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container in a value with the name of each of its entries."""
    items = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, item in items:
        yield value, name
        yield from _places(item)


def told(text: str) -> None:
    """Raise AssertionError for a message that is empty or not one plain line."""
    assert text and not re.search(r"[\x00-\x1f\x7f-\x9f]", text), f"no plain line: {text!r}"


def as_json(value: Any) -> bytes:
    """Return JSON with the numbers and the texts that JSON does not have."""
    return json.dumps(value).encode()


class Tars:
    """CIFAR's archive: its bytes change, or its members, inside of a valid archive."""

    tokens = (b"\x00" * 512, b"../../esc", b"77777777777", b"ustar", b"L", b"x", b"5", b"2")

    def __init__(self) -> None:
        rows = np.zeros((2, 3072), np.uint8)
        batch = {b"data": rows, b"labels": [0, 1], b"filenames": [b"a.png", b"b.png"]}
        names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
        meta = {b"label_names": [b"%d" % i for i in range(10)], b"num_cases_per_batch": 2}
        self._members = dict.fromkeys(names, batch) | {"batches.meta": meta}
        self.seeds = [self._packed(self._members, mode) for mode in ("w", "w:gz")]

    def _packed(self, members: dict[str, Any], mode: str) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as archive:
            for name, content in members.items():
                data = pickle.dumps(content, protocol=2)
                entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return file.getvalue()

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Open the archive, and read images of it."""
        from DDA.sources import open_source

        odd = (*ODD, b"x", np.zeros((2, 3072)), np.zeros((2, 3), np.uint8), np.uint8(1))
        if rng.random() < 0.6:
            members = dict(self._members)
            name = rng.choice(list(members))
            members[name] = twisted(members[name], rng, odd)
            data = self._packed(members, rng.choice(("w", "w:gz")))
        path = folder / rng.choice(("x.tar", "x.tar.gz"))
        path.write_bytes(data)
        source = open_source(path)
        for name in source.names[:2]:
            source.pixels(name)
            source.digest(name)


class Copies:
    """Adapted copies in shards: bytes of a shard and of its index, or the entries of an index."""

    tokens = (b"[0,-1]", b"[9,1e99]", b"../../esc", b'"places"', b"\\udc80", b'"bytes":0', b"\\n")

    def __init__(self) -> None:
        from DDA import shards
        from DDA.images import encode

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard-000000.tar"
            with shards.Shard(Path(folder), path.name, lambda key: 1) as shard:
                for i, pixels in enumerate(PIXELS[:3]):
                    shard.add(f"{i}", encode(pixels, "PNG"))
            self._shard, self._index = path.read_bytes(), path.with_suffix(".json").read_bytes()
        self.seeds = [self._index]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Open the copies, read some, and add one to the shard."""
        from DDA import shards
        from DDA.sources import open_source

        shard = bytearray(self._shard)
        kind = rng.random()
        if kind < 0.5:
            data = as_json(twisted(json.loads(self._index), rng))
        elif kind < 0.7:
            data = self._index
            shard[rng.randrange(len(shard))] ^= 1 << rng.randrange(8)
        (folder / "settings.json").write_text(json.dumps({"format": "webdataset"}))
        (folder / "shard-000000.tar").write_bytes(shard)
        (folder / "shard-000000.json").write_bytes(data)
        try:
            source = open_source(folder)
            for name in source.names[:3]:
                source.digest(name)
                source.pixels(name)
        finally:
            shards.listed(folder, ["."], verify=True)
            with shards.Shard(folder, "shard-000000.tar", lambda key: None) as written:
                written.add("new", b"1")


class Checkpoints:
    """Checkpoints of classifiers and of priors, and the settings beside a prior."""

    tokens = (
        b"PK\x01\x02",
        b"cposix\nmkdir\n",
        b"torch\nFloatStorage",
        b"q\x00",
        b"\x80\x02",
        b".",
    )

    def __init__(self) -> None:
        import torch
        from helpers import TINY, TINY_PROCESS, tiny_unet

        from DistilledClassifier import classifiers

        self._torch = torch
        model = {"type": "CifarResNet", "depth": 8, "num_classes": 3}
        network, preprocess = classifiers.build(model), {"size": 8, "mean": [0.4] * 3}
        preprocess["std"] = [0.2] * 3
        self._classifier = {
            "state_dict": dict(network.model.state_dict()),
            "config": {"classifier": model, "preprocess": preprocess},
            "classes": ["a", "b", "c"],
            "preprocess": preprocess,
        }
        self._prior = dict(tiny_unet(num_channels=32).state_dict())
        self._settings = {**TINY, **TINY_PROCESS}
        self.seeds = [self._packed(self._classifier), self._packed(self._prior)]
        weight = torch.ones(4, 4)
        tensors = (
            torch.tensor(1.0),
            torch.zeros(0),
            weight,
            weight.bool(),
            weight.to(torch.cfloat),
        )
        others = (
            *(torch.full((4,), math.nan), torch.ones(1).expand(64, 64), weight.to_sparse()),
            *(self._quantised(weight), weight.to("meta"), weight.bfloat16()),
            *(np.float64(1), np.ones(2), torch.float32, torch.Size([1])),
        )
        self._odd = (*ODD, {1: weight}, *tensors, *others)

    def _quantised(self, weight: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to drop it, and files that have it remain
            return self._torch.quantize_per_tensor(weight, 0.1, 0, self._torch.qint8)

    def _packed(self, content: Any) -> bytes:
        file = io.BytesIO()
        self._torch.save(content, file)
        return file.getvalue()

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Load a classifier or a prior; what is loaded has a network that runs."""
        from DDA.image_adapt import prior
        from DistilledClassifier import classifiers

        path, is_prior = folder / "x.pth", rng.random() < 0.5
        if rng.random() < 0.7:
            content = self._prior if is_prior else self._classifier
            if rng.random() < 0.2:
                content = {rng.choice(("state_dict", "model", "ema", "net")): content}
            data = self._packed(twisted(content, rng, self._odd))
        path.write_bytes(data)
        if not is_prior:
            classifiers.load(path).scores(PIXELS[:1])
            return
        settings = self._settings
        if rng.random() < 0.4:
            settings = twisted(settings, rng)
        path.with_suffix(".json").write_bytes(as_json(settings))
        prior.load(path).network(self._torch.device("cpu"))


class Photos:
    """Image files. Chunks of a PNG and entries of a TIFF change under right checksums."""

    tokens = (b"IHDR", b"IDAT", b"acTL", b"\xff\xd8", b"\xff\xc0", b"II*\x00", b"\x7f\xff\xff\xff")
    kinds = ("png", "jpg", "tiff", "bmp", "gif", "webp", "ppm")

    def __init__(self) -> None:
        from PIL import Image, features

        kinds = [kind for kind in self.kinds if kind != "webp" or features.check("webp")]
        modes = ("RGB", "L", "P", "1", "RGBA", "I;16", "CMYK")
        self.seeds = []
        for kind in kinds:
            for mode in modes:
                image = Image.fromarray(PIXELS[0])
                made = Image.new(mode, (20, 30)) if mode == "I;16" else image.convert(mode)
                file = io.BytesIO()
                with suppress(OSError, ValueError, KeyError):  # a format without that mode
                    made.save(file, format=Image.registered_extensions()[f".{kind}"])
                    self.seeds.append(file.getvalue())

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Read an image as the adaptation and as a classifier do."""
        from DDA.image_adapt import job
        from DDA.sources import Folder

        if data[:4] == b"\x89PNG" and rng.random() < 0.7:
            data = _with_checksums(data, rng)
        name = f"x.{rng.choice(self.kinds)}"
        (folder / name).write_bytes(data)
        outcome = job._decode(Folder(folder), 16, name)
        if isinstance(outcome, str):
            told(outcome)
        else:
            assert outcome.shape == (16, 16, 3) and outcome.dtype == np.uint8


def _with_checksums(data: bytes, rng: random.Random) -> bytes:
    """Return a PNG with other numbers in its header, and with right checksums."""
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        chunk = bytearray(data[at + 4 : at + 8 + size])
        if chunk[:4] == b"IHDR" and len(chunk) > 12 and rng.random() < 0.5:
            place = rng.choice((4, 8))
            side = rng.choice((0, 1, 2, 30_000, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF))
            chunk[place : place + 4] = struct.pack(">I", side)
        elif len(chunk) > 4 and rng.random() < 0.3:
            chunk[rng.randrange(4, len(chunk))] = rng.randrange(256)
        out += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        at += 12 + size
        if rng.random() < 0.05:
            break
    return bytes(out)


class States:
    """Manifests and settings that earlier runs left; the same work is asked for again."""

    tokens = (b"{", b"}", b"null", b"[]", b"1e999", b'"state"', b"\xff", b"running", b"NaN")

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="states-"))
        np.save(self._folder / "few.npy", PIXELS[:3])
        self._work("made", self._folder, self._folder)
        self._work("adapted", self._folder, self._folder)
        self._texts = {
            path.relative_to(self._folder).as_posix(): path.read_bytes()
            for path in self._folder.rglob("*")
            if path.is_file()
        }
        self._states = [name for name in self._texts if name.endswith(".json")]
        self.seeds = [self._texts[name] for name in self._states]

    def _work(self, kind: str, inputs: Path, folder: Path) -> None:
        from DDA import images
        from DDA.fitting import Fit
        from DDA.image_adapt import job
        from DDA.progress import Show
        from DDA.ranks import World
        from DDA.sources import open_source
        from DistilledClassifier import making

        path = inputs / "few.npy"
        if kind == "made":
            target = making.Target(folder / "made", workers=1)
            making.degrade(path, target, type="jpeg", quiet=True)
            return
        plan = job.make_plan(open_source(path), folder / "adapted", ["."])
        settings = {"seed": 0, "method": {"N": 50}}
        job.check_settings(plan, settings)
        job.check_source(plan)
        job.begin(plan, settings, {"ranks": 1})
        how = {"batch_size": 2, "fit": Fit(8, "whole"), "threads": 1, "show": Show(quiet=True)}
        failures = job.run(World(), plan, lambda _, pixels: images.to_model(pixels), **how)
        job.end_manifests(plan, failures, {})

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Change a state, and ask for the same work again."""
        from DistilledClassifier import making

        for name, content in self._texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".json") or rng.random() < 0.7:
                path.write_bytes(content)
        name = rng.choice(self._states)
        if rng.random() < 0.7:
            data = as_json(twisted(json.loads(self._texts[name]), rng))
        (folder / name).write_bytes(data)
        kind = name.split("/")[0]
        if kind == "made" and rng.random() < 0.5:
            making.verify(folder / "made")
        else:
            self._work(kind, folder, folder)


class Summaries:
    """The summary of an evaluation, of which a report is made, and the state of a pipeline."""

    tokens = (b"{", b"}", b"null", b"[]", b"1e999", b"<script>", b"\xff", b"|", b"NaN")

    def __init__(self) -> None:
        self._eval = Path(tempfile.mkdtemp(prefix="summaries-"))
        self._summary = self._evaluated()
        self._pipeline = {"finished": {"the report": "0" * 64}, "made": ["make_data.py prepare"]}
        self.seeds = [as_json(self._summary), as_json(self._pipeline)]

    def _evaluated(self) -> dict[str, Any]:
        """Write an evaluation of random scores, and return its summary."""
        from DDA import files, tree
        from DDA.model_adapt import results, tables
        from DDA.model_adapt.paired import Cell
        from DDA.model_adapt.settings import Facts

        rng, cells = np.random.default_rng(0), ("fog/1", "fog/3")
        names = ("first", "second", "source", "source_adapted")
        for name in cells:
            keys = tuple(f"{name}/{letter}" for letter in "abcd")
            columns = {column: rng.normal(size=(4, 10)).astype(np.float32) for column in names}
            results.write(self._eval, Cell(name, keys, np.arange(4), (), ()), columns)
        facts = {"first": "a.pth", "second": "b.pth", "source": "c.pth", "beside": ["entropy"]}
        facts |= {"metrics": ["accuracy", "calibration"], "degraded": str(self._eval)}
        facts |= {"classes": list(tree.class_list("cifar10")), "cells": list(cells)}
        tables.summarise(self._eval, Facts(**facts, adapted=str(self._eval), layout="cifar10c"))
        return files.read_json(self._eval / "summary.json")

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Make the report of an evaluation, or plan on with a pipeline."""
        from DDA.model_adapt import page
        from DDA.studies import stages as running

        is_summary = rng.random() < 0.7
        if rng.random() < 0.8:
            data = as_json(twisted(self._summary if is_summary else self._pipeline, rng))
        if not is_summary:
            (folder / "pipeline.json").write_bytes(data)
            running._State(folder).check([])
            return
        for path in self._eval.rglob("*.npz"):
            copy_to = folder / "eval" / path.relative_to(self._eval)
            copy_to.parent.mkdir(parents=True, exist_ok=True)
            copy_to.write_bytes(path.read_bytes())
        (folder / "eval/summary.json").write_bytes(data)
        page.write(folder / "eval", 0, "a title")


class CommandLines:
    """Command lines, which end in words and with a status; what they name is missing or small."""

    tokens = (b"--", b"=", b"-1", b"nan", b"1e308", b"9" * 40, b"\n", b"\x1b[31m", b",", b"")
    modules = (
        *("DDA.image_adapt.scripts.image_sample", "DDA.image_adapt.scripts.image_train"),
        *("DDA.model_adapt.test_ensemble", "DDA.model_adapt.gate", "DDA.model_adapt.report"),
        *("DDA.model_adapt.predict", "DistilledClassifier.train", "DistilledClassifier.make_data"),
        "DistilledClassifier.test_corrupt",
    )
    values = ("0", "-1", "2", "nan", "1e308", "true", "x", "", "all", "5", "a,b", "[1]")

    def __init__(self) -> None:
        self._commands = [importlib.import_module(name) for name in self.modules]
        self.seeds = [b"few.npy", b"out", b"1", b"0.5", b"all"]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Run a command with some of its flags, on data that is missing."""
        os.chdir(folder)
        command = rng.choice(self._commands)
        words, parser = [], command.parser()
        boxes = [action for action in parser._actions if hasattr(action.choices, "values")]
        if boxes:
            name = rng.choice(sorted(boxes[0].choices))
            words, parser = [name], boxes[0].choices[name]
        actions = [action for action in parser._actions if action.dest not in ("help", "workers")]
        word = data.decode("utf-8", "surrogateescape")
        for part in ("\0", "/", ".."):  # what it writes stays in the folder
            word = word.replace(part, "")
        for action in actions:
            if not action.option_strings or action.required or rng.random() < 0.15:
                flag = action.option_strings[-1:]
                value = rng.choice((word, *self.values, "missing.npy", *(action.choices or ())))
                words += [*flag, *([] if action.nargs == 0 else [str(value)])]
        if rng.random() < 0.2 and words:
            words.pop(rng.randrange(len(words)))
        said = io.StringIO()
        try:
            with redirect_stderr(said), redirect_stdout(io.StringIO()):
                status = command.main(words)
        except SystemExit as stop:
            status = stop.code
        text = said.getvalue()
        assert status in (0, 1, 2, 130), (status, words)
        assert "Traceback" not in text, (words, text)
        assert not status or text, (status, words)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text), (words, text)
