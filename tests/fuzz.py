"""Fuzz the readers of files and command lines: each case must be read, or refused in words.

  python tests/fuzz.py --seconds 60 --seed 0       all targets in turn, in a process of their own
  python tests/fuzz.py --target npz --case 1234    one case again

A case is a function of the seed, the target and its number. Faults are

* an exception other than ValueError and OSError;
* a message of several lines, or with control characters;
* a case that takes more than HANG seconds;
* a file outside the folder of the case, or a marker that executed code would leave;
* the death of the process, whose memory is limited.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (1, 0)]

import fuzz_files
import fuzz_sources
import numpy as np

# seconds of the processor that a case may take; ten times as many of the clock, because the machine
# may be busy with other work
HANG = 5.0
MEMORY = 6 << 30  # bytes of address space
PIXELS = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(10)

# ------------------------------------------------------------------------------------- mutations


def mutated(data: bytes, rng: random.Random, tokens: tuple[bytes, ...]) -> bytes:
    """Return ``data`` with one to eight changes.

    They change bits, bytes and integers; remove, double and move slices; and put in tokens.
    """
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at = rng.randrange(len(out) + 1)
        until = min(len(out), at + rng.choice((1, 2, 4, 8, 40)))
        kind = rng.randrange(8)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 2:
            out[at:until] = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * (until - at)
        elif kind == 3:
            del out[at:until]
        elif kind == 4:
            out[at:at] = out[at:until]
        elif kind == 5:
            part = out[at:until]
            del out[at:until]
            place = rng.randrange(len(out) + 1)
            out[place:place] = part
        elif kind == 6:
            del out[at:]
        else:
            out[at : at if rng.random() < 0.5 else until] = rng.choice(tokens)
    return bytes(out)


def encoded(write: Callable[[Any], None]) -> bytes:
    """Return the bytes that ``write`` writes to a file."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


# -------------------------------------------------------------------------------------- targets


def look(source: Any) -> None:
    """Use a source as commands do: read its names, some images, their digests and its folders."""
    names = source.names
    for name in (*names[:2], *names[-1:]):
        source.digest(name)
        source.pixels(name)
    source.folders(".")


class Pickles:
    """Batches of CIFAR in every protocol of pickle."""

    tokens = (
        b"cnumpy\ndtype\n",
        b"cposix\nmkdir\n(X\x03\x00\x00\x00RANtR",
        b"\x8e\xff\xff\xff\xff\x7f\x00\x00\x00",
        b"r\xff\xff\xff\x7f",
        b"b",
        b"R",
        b"\x81",
        b"\x93",
        b".",
        b"t",
        b"}",
        b"O8",
        b"V8",
        b"i8",
        b"\x8a\xff",
        b"K\x00",
        b"N",
        b"h\x00",
        b"2",
        b"0",
    )

    def __init__(self) -> None:
        self.seeds = []
        batch = {
            b"data": PIXELS.reshape(10, -1)[:2, :96],
            b"labels": [1, 2],
            b"filenames": [b"a.png"],
            "x": LABELS[:3],
        }
        meta = {b"label_names": [b"cat", b"dog"], b"n": (np.int64(3), None, 1.5)}
        for protocol in (0, 2, 3, 4, 5):
            self.seeds += [pickle.dumps(content, protocol=protocol) for content in (batch, meta)]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        from DDA.sources import cifar

        for value in cifar.unpickle(data, "x").values():
            if isinstance(value, np.ndarray):
                assert value.dtype.kind in "iu" and value.size < 1 << 20
                value.sum()


class Npy:
    """Arrays of images, and of labels beside images."""

    tokens = (
        b"'|O'",
        b"'<f8'",
        b"'|u1'",
        b"True",
        b"(10, 8, 8, 3)",
        b"(99999999999, 8, 8, 3)",
        b"(-1,)",
        b"()",
        b"(",
        b"{",
        b"'descr'",
        b"[('a', '|O')]",
        b"__import__('os').mkdir('RAN')",
        b"\n",
        b" ",
        b"0",
        b"9" * 30,
    )

    def __init__(self) -> None:
        images = (PIXELS, PIXELS[..., 0], np.asfortranarray(PIXELS))
        arrays = (*images, LABELS, LABELS.astype("f4"), LABELS.astype("U3"))
        self.seeds = [encoded(lambda file, array=array: np.save(file, array)) for array in arrays]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        from DDA.sources import open_source

        (folder / "fog.npy").write_bytes(data if rng.random() < 0.7 else self.seeds[0])
        (folder / "labels.npy").write_bytes(data if rng.random() < 0.5 else self.seeds[3])
        path = folder if rng.random() < 0.5 else folder / "fog.npy"
        look(open_source(path, severity=rng.choice((None, 3))))


class Npz:
    """Archives of arrays. The bytes of the archive change, or its arrays under right checksums."""

    tokens = (
        *Npy.tokens,
        b"PK\x01\x02",
        b"PK\x03\x04",
        b"PK\x05\x06",
        b"../../x.npy",
        b"\x00\x00\x00\x00",
        b"\xff\xff\xff\xff",
    )

    def __init__(self) -> None:
        self._members = [
            {"train_x": PIXELS, "train_y": LABELS, "test_x": PIXELS[:2], "test_y": LABELS[:2]},
            {"fog": PIXELS.reshape(2, 5, 8, 8, 3), "labels": LABELS[:5], "clean": PIXELS[:5]},
            {
                "jpeg": np.arange(99, dtype=np.uint8),
                "offsets": np.array([0, 9, 99]),
                "labels": LABELS[:2],
                "classes": np.array(list("abcdefghij")),
            },
        ]
        self.seeds = [
            encoded(lambda file, members=members: np.savez(file, **members))
            for members in self._members
        ]
        self.seeds.append(encoded(lambda file: np.savez_compressed(file, **self._members[0])))

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        from DDA.sources import open_source

        path = folder / "x.npz"
        path.write_bytes(data)
        if rng.random() < 0.6:
            method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            with zipfile.ZipFile(path, "w", method) as archive:
                for name, array in rng.choice(self._members).items():
                    member = encoded(lambda file, array=array: np.save(file, array))
                    if rng.random() < 0.4:
                        member = mutated(member, rng, self.tokens)
                    archive.writestr(f"{name}.npy", member)
        look(open_source(path))


class Names:
    """Names wherever data files hold some; the trees that they ask for are written."""

    tokens = (
        b"..",
        b"/",
        b"\\",
        b"\x00",
        b"a",
        b".",
        b" ",
        b"\n",
        b"\xff",
        "ü".encode(),
        b"C:",
        b"~",
        b"-",
        b"%2e",
        b"a" * 300,
        b"|",
    )

    def __init__(self) -> None:
        self.seeds = [b"fog", b"a/b", b"../../esc/x", b"/esc", b"n01", b"\xe2\x80\xae"]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        from DDA import files, tree
        from DDA.progress import Show
        from DDA.sources import open_official
        from DistilledClassifier import recipes, trees

        name = data.decode("utf-8", rng.choice(("surrogateescape", "replace")))
        kind = rng.randrange(4)
        path, classes = folder / "x.npz", np.array([name.encode("utf-8", "replace").decode(), "b"])
        if kind == 0:
            with zipfile.ZipFile(path, "w") as archive:
                whole = encoded(lambda file: np.save(file, PIXELS[:2]))
                for member in (classes[0].partition("\0")[0] or "empty", "other"):
                    archive.writestr(f"{member}.npy", whole)
        elif kind == 1:
            np.savez(path, train_x=PIXELS[:2], train_y=LABELS[:2], classes=classes)
        elif kind == 2:
            path = folder / "tiny"
            (path / "val/images").mkdir(parents=True)
            (path / "val/images/a.png").write_bytes(b"x")
            (path / "wnids.txt").write_bytes(b"b\n" if rng.random() < 0.5 else data + b"\nb\n")
            line = b"a.png\t" + data if rng.random() < 0.5 else data + b"\tb"
            (path / "val/val_annotations.txt").write_bytes(line + b"\t0\t0\t9\t9\n")
        else:
            (folder / "keys.txt").write_bytes(b"fine\n" + data)
            for key in tree.read_keys(folder / "keys.txt"):
                assert not Path(key).is_absolute() and ".." not in key.split("/")
            return
        source = open_official(path)
        out = folder / "o/p/q"
        tasks = [
            trees.Task(recipes.Recipe("copy", "copy"), one, f"copy/{one}") for one in source.names
        ]
        failures = trees.write(
            source, (path,), tasks, out, seed=0, workers=1, show=Show(quiet=True)
        )
        impossible = [one for one in failures if len(one) > 200 or "\udcff" in one]
        assert kind == 2 or not failures or impossible, failures
        written = [file for file in folder.rglob("*.png") if "tiny" not in file.parts]
        assert all(file.is_relative_to(out) for file in written)
        files.read_json(out / "made.copy.json")


class Configs:
    """YAML and JSON of experiments, pipelines and evaluations."""

    tokens = (
        b"!!python/object/apply:os.mkdir ['RAN']",
        b"!!python/name:os.system",
        b"custom_imports: {imports: [evil]}\n",
        b"_base_: evil.py\n",
        b"_base_: x.yaml\n",
        b"base: x.yaml\n",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"[",
        b"{",
        b"- ",
        b": ",
        b"\n",
        b"  ",
        b"null",
        b".inf",
        b".nan",
        b"9" * 400,
        b"-1",
        b"true",
        b"../..",
        b"''",
        b"2001-01-01",
        b"!!binary aaaa",
        b"!!set {a}",
        b"? ",
        b"|",
        b"\t",
        b"1e999",
        b"0x",
        b"{a: 1}",
        b"[[jpeg]]",
        b"\xff",
        b"\x00",
        b"%YAML 9.9\n",
        b"---\n",
        b"jpeg",
        b"type",
        b"x" * 200,
    )

    def __init__(self) -> None:
        root = Path(__file__).resolve().parents[1]
        pipelines = sorted((root / "scripts/pipelines").glob("*.yaml"))
        experiment = (
            b"base: configs/ind/CIFAR10/ResNet20/clean.yaml\nknown: [clean]\n"
            b"train: {epochs: 2, batch_size: 8}\noptimizer: {type: SGD, lr: 0.1}\n"
            b"loss: {cross_entropy: 1}\ndata: {held_out: 0.1, train: cifar_train}\n"
        )
        evaluation = (
            b"data: {samples_per_gpu: 8, test: "
            b"{pipeline: [{type: LoadImageFromFile}], layout: cifar10c}}\n"
            b"evaluation: {ensemble: sum, metrics: [accuracy], corruption: [all], severity: [5]}\n"
            b"model: {type: ImageClassifier}\n"
        )
        others = (experiment, experiment, evaluation, evaluation)
        self.seeds = [*(path.read_bytes() for path in pipelines), *others]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        import yaml

        from DDA import files
        from DDA.model_adapt.config import read_config
        from DDA.studies import pipeline
        from DistilledClassifier.experiments import config

        path = folder / "x.yaml"
        if rng.random() < 0.5:  # JSON is YAML
            seed = yaml.safe_load(rng.choice(self.seeds))
            data = fuzz_files.as_json(fuzz_files.twisted(seed, rng))
        path.write_bytes(data)
        (folder / "evil.py").write_text("import os\nos.mkdir('RAN')\n")
        kind = rng.choice(("pipeline", "experiment", "evaluation"))
        if kind == "evaluation" and rng.random() < 0.5:
            content = files.read_yaml(path)
            path = path.with_suffix(".json")
            path.write_bytes(mutated(json.dumps(content).encode(), rng, self.tokens))
        if kind == "pipeline":
            pipeline.plan(pipeline.read_config(path, {}))
        elif kind == "experiment":
            config.load(path)
        else:
            read_config(path, [])


TARGETS: dict[str, Callable[[], Any]] = {
    **{"pickle": Pickles, "npy": Npy, "npz": Npz, "names": Names, "config": Configs},
    **{"tar": fuzz_files.Tars, "copies": fuzz_files.Copies},
    **{"zip": fuzz_sources.Zips, "shard": fuzz_sources.Shards, "list": fuzz_sources.Lists},
    **({"table": fuzz_sources.Tables} if find_spec("pyarrow") else {}),
    "checkpoint": fuzz_files.Checkpoints,
    "photo": fuzz_files.Photos,
    "state": fuzz_files.States,
    "summary": fuzz_files.Summaries,
    "command": fuzz_files.CommandLines,
}

# ----------------------------------------------------------------------------------------- cases


def run_case(target: Any, name: str, seed: int, case: int, folder: Path) -> str | None:
    """Return the fault of a case, or None.

    folder: an empty one. The case may change files in its sub-folder ``in`` only.
    """
    rng = random.Random(f"{seed} {name} {case}")
    data = mutated(rng.choice(target.seeds), rng, target.tokens)
    inside = folder / "in"
    inside.mkdir()
    begun, clock = time.process_time(), time.monotonic()
    fault = None
    try:
        target.feed(data, inside, rng)
    except (ValueError, OSError) as error:
        text = str(error)
        if "\n" in text or re.search(r"[\x00-\x1f\x7f-\x9f]", text) or not text:
            fault = f"a message that is empty or not one plain line: {text!r}"
    except BaseException:
        fault = traceback.format_exc()
    took, waited = time.process_time() - begun, time.monotonic() - clock
    if took > HANG or waited > 10 * HANG:
        fault = f"{fault or ''} it took {took:.1f} s of the processor, {waited:.1f} s in all"
    outside = [path.name for path in folder.iterdir() if path.name != "in"]
    if outside:
        fault = f"{fault or ''} outside: {outside}"
    return fault


def run(
    names: list[str], seed: int, seconds: float, first: int = 0, most: int | None = None
) -> int:
    """Run cases of each target in turn until the time is over, and return the number of faults.

    The numbers of cases are printed. first, most: the first case, and the number of cases to run
    instead of ``seconds``.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    counts = dict.fromkeys(names, 0)
    targets = {name: TARGETS[name]() for name in names}
    above = Path(tempfile.mkdtemp(prefix="fuzz-"))
    begun, faults, case = time.monotonic(), 0, first
    note = os.open(above / "case", os.O_CREAT | os.O_WRONLY)
    try:
        while (time.monotonic() - begun < seconds) if most is None else case < first + most:
            for name, target in targets.items():
                folder = above / "work"
                folder.mkdir()
                os.pwrite(note, f"{name} {case:<12}".encode(), 0)
                os.chdir(folder)
                with (
                    open(os.devnull, "w") as nowhere,
                    redirect_stdout(nowhere),
                    redirect_stderr(nowhere),
                ):
                    fault = run_case(target, name, seed, case, folder)
                os.chdir(above)
                shutil.rmtree(folder)
                counts[name] += 1
                if fault is not None:
                    faults += 1
                    print(f"FAULT --target {name} --seed {seed} --case {case}: {fault}", flush=True)
            case += 1
    finally:
        shutil.rmtree(above, ignore_errors=True)
    each = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    print(f"{sum(counts.values()):,} cases ({each}), {faults} faults, seed {seed}", flush=True)
    return faults


def main() -> int:
    """Run the cases in a process of their own, whose death is a fault too."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--seconds", type=float, default=60)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    p.add_argument("--case", type=int)
    p.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.case is not None:
        return min(1, run(args.target, args.seed, args.seconds, args.case, 1))
    if args.child:
        return min(1, run(args.target, args.seed, args.seconds))
    # in memory: on a disk, each case would have to wait for it
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="fuzz-", dir=memory)
    flags = ["--seconds", str(args.seconds), "--seed", str(args.seed), "--target", *args.target]
    command = [sys.executable, __file__, "--child", *flags]
    environment = {**os.environ, "TMPDIR": folder}
    status = subprocess.run(command, env=environment, check=False).returncode
    if status < 0:
        target, case = next(Path(folder).glob("*/case")).read_text().split()
        place = f"--seed {args.seed} --target {target} --case {case}"
        print(f"FAULT the process died of signal {-status} at: {place}")
    shutil.rmtree(folder)
    return abs(status)


if __name__ == "__main__":
    sys.exit(main())
