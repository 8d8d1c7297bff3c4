"""Kill commands again and again, and see whether the next run still ends with the same files.

  python tests/kills.py --kills 1000 --minutes 90        run it again to go on
  python tests/kills.py --work runs/kills --job train --series 12    one series again

A series runs one command on a tiny job, again and again from where it stopped, and sends it signals
at random moments between its start and its end: SIGKILL, SIGTERM or SIGINT, to the process that was
started, to one of its processes, or to all of them. Then the command runs to its end. Faults are

* a final tree that differs from that of a run that nobody disturbed, such as a stray file;
* a process, or a file for temporary use, that is left;
* a traceback after SIGINT or SIGTERM, or a run that fails without a signal.

A series is a function of the seed and its number. The folder ``--work`` keeps what is done, so that
a campaign that was stopped goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MARK = "DIFFAUD_KILLS"  # the variable of the environment by which a job's processes are known
LIMIT = 600.0  # seconds within which a job ends by itself
PATIENCE = 60.0  # seconds within which the processes of a killed job end
# entries of JSON files that tell of a run and not of its result
FACTS = {"started", "command", "source_sha256", "seconds", "waited", "batch_size", "ranks"}
ENV = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("PMI", "OMPI", "SLURM", "TORCHELASTIC"))
}
ENV |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{ENV['PATH']}", "OMP_NUM_THREADS": "1"}
ENV["PYTHONPATH"] = str(ROOT)


# ----------------------------------------------------------------------------------------- jobs


@dataclass(frozen=True)
class Job:
    """A command that is killed.

    words: its command line. weight: its share of the series. span: the share of the time of a whole
    run within which a kill comes; a long job of many steps has a small one. most: the most kills of
    a series.
    """

    words: tuple[str, ...]
    weight: float
    span: float = 1.0
    most: int = 8


def jobs(inputs: Path, out: Path) -> dict[str, Job]:
    """Return the jobs by their names. inputs: what `make_inputs` made. out: the folder to write."""
    python = sys.executable
    scripts = ROOT / "DDA/image_adapt/scripts"
    lists = {
        "image_sample": (
            *("mpiexec", "-n", "2", python, scripts / "image_sample.py"),
            *("--model_path", inputs / "prior.pt", "--base_samples", inputs / "degraded"),
            *("--dataset", "imagenetc", "--corruption", "all", "--severity", "all"),
            *("--save_dir", out / "adapted", "--N", "20", "--timestep_respacing", "40"),
        ),
        "image_train": (
            *(python, scripts / "image_train.py", "--base_samples", inputs / "clean"),
            *("--cell", "clean/train", "--save_dir", out / "prior", "--steps", "80"),
            *("--save_minutes", "0.002", "--num_channels", "32", "--channel_mult", "1"),
            *("--num_res_blocks", "1", "--attention_resolutions", "8", "--batch_size", "16"),
            *("--ema", "0.9", "--warmup", "5", "--no-bf16"),
        ),
        "train": (
            *(python, ROOT / "DistilledClassifier/train.py", "-c", inputs / "clean.yaml"),
            *("--save_dir", out / "saved", "--save_minutes", "0.002", "--workers", "1"),
        ),
        "make_data": (
            *(python, ROOT / "DistilledClassifier/make_data.py", "degrade"),
            *("--base_samples", inputs / "many.npy", "--save_dir", out / "made"),
            *("--type", "jpeg", "blur", "noise", "--workers", "2"),
        ),
        "test_ensemble": (
            *(python, ROOT / "DDA/model_adapt/test_ensemble.py", inputs / "evaluation.yaml"),
            *(inputs / "net.pth", "--data_prefix1", inputs / "degraded"),
            *("--data_prefix2", inputs / "copies", "--dataset", "imagenetc"),
            *("--corruption", "all", "--severity", "all", "--out", out / "eval"),
        ),
        "pipeline": (python, ROOT / "scripts/pipeline.py", inputs / "pipeline.yaml"),
    }
    weights = {"image_sample": 4, "image_train": 4, "train": 4, "make_data": 4, "test_ensemble": 3}
    made = {}
    for name, words in lists.items():
        how = {"weight": weights.get(name, 1)}
        how |= {"span": 0.15, "most": 16} if name == "pipeline" else {}
        made[name] = Job(tuple(map(str, words)), **how)
    return made


PIPELINE = """
out: {out}/whole
ranks: 2
data: {{base_samples: {inputs}/clean, experiment: digits, backbone: ResNet20,
  train: train, test: test, held_out: 0.3}}
prior: {{steps: 30, num_channels: 32, channel_mult: "1", num_res_blocks: 1,
  attention_resolutions: 8, ema: 0.9, batch_size: 8, save_minutes: 0.005, no-bf16: true}}
adaptation: {{speed: one-shot, N: 30, D: 4, batch_size: 16}}
known: [jpeg]
degraded: [{{command: degrade, type: blur, level: 1.5}}]
training:
  all: {{train.batch_size: 8, train.epochs: 2, train.amp: false, preprocess.size: 8}}
evaluation: {{ensemble: [sum, weighted_sum], metrics: [accuracy, flips]}}
report: {{images: 2}}
"""
EXPERIMENT = """
name: own_Tiny_clean
kind: ind
dataset: own
backbone: Tiny
stage: clean
data: {{root: {inputs}/clean, adapted: {inputs}/copies, train: train, val: test, classes: digits}}
classifier: {{type: CifarResNet, depth: 8, num_classes: 10}}
preprocess: {{size: 8, mean: [0.3, 0.3, 0.3], std: [0.2, 0.2, 0.2]}}
augment: {{crop: 1, flip: true}}
view: clean
made: fly
loss: {{cross_entropy: 1}}
train: {{epochs: 12, batch_size: 8, amp: false}}
optimizer: {{type: AdamW, lr: 0.01}}
schedule: {{type: cosine}}
"""
EVALUATION = """
data: {samples_per_gpu: 2, test: {pipeline: [{type: LoadImageFromFile}], layout: imagenetc}}
model: {type: ImageClassifier}
evaluation: {ensemble: sum, metrics: [accuracy, calibration]}
"""


def make_inputs(inputs: Path, out: Path) -> None:
    """Make images of 8 x 8, a prior, a classifier and configs."""
    import numpy as np
    import torch
    from helpers import TINY, TINY_PROCESS, tiny_unet
    from PIL import Image

    from DDA import tree
    from DistilledClassifier import classifiers

    classes = tree.class_list("digits")
    rng = np.random.default_rng(0)

    def write(name: str, count: int) -> None:
        (inputs / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(inputs / name / f"{classes[i % 10]}_{i:05}.png")
        tree.write_classes(inputs / name.split("/", maxsplit=1)[0], classes)

    for split, count in (("train", 60), ("test", 20)):
        write(f"clean/clean/{split}", count)
    for cell in ("fog/1", "fog/5", "snow/5"):
        write(f"degraded/{cell}", 20)
        write(f"copies/{cell}", 20)
    np.save(inputs / "many.npy", rng.integers(0, 256, (1500, 8, 8, 3), dtype=np.uint8))
    flags = {**TINY, "image_size": 8, "channel_mult": "1", "attention_resolutions": "8"}
    torch.save(tiny_unet(**flags).state_dict(), inputs / "prior.pt")
    (inputs / "prior.json").write_text(json.dumps({**flags, **TINY_PROCESS}))
    torch.manual_seed(0)
    model = {"type": "CifarResNet", "depth": 8, "num_classes": 10}
    network = classifiers.build(model)
    preprocess = {"size": 8, "mean": [0.4] * 3, "std": [0.2] * 3}
    config = {"classifier": model, "preprocess": preprocess}
    classifiers.save(inputs / "net.pth", network.eval(), config, classes)
    for name, text in (("pipeline", PIPELINE), ("clean", EXPERIMENT)):
        (inputs / f"{name}.yaml").write_text(text.format(inputs=inputs, out=out))
    (inputs / "evaluation.yaml").write_text(EVALUATION)


# ------------------------------------------------------------------------------------ what is left


def contents(out: Path) -> dict[str, str]:
    """Return a digest of each file below a folder, without what tells of a run and its time."""
    runs: dict[str, str] = {}
    digests = {}
    for path in sorted(path for path in out.rglob("*") if not path.is_dir()):
        name = path.relative_to(out).as_posix()
        if path.name == "machine.json" or path.name.startswith("events.out."):
            continue
        for stamp in re.findall(r"\d{8}_\d{6}_\d+", name):  # the folder of a run
            name = name.replace(stamp, runs.setdefault(str(path).split(stamp)[0], "run"))
            if stamp != runs.setdefault(f"{name.split('run')[0]}first", stamp):
                name = name.replace("run", stamp, 1)  # a second run
        digests[name] = _digest(path)
    return digests


def _digest(path: Path) -> str:
    import numpy as np
    import torch

    if path.suffix == ".json" or path.name == "finished":
        value: Any = _facts_left_out(json.loads(path.read_text()))
    elif path.suffix in (".pt", ".pth"):
        value = _facts_left_out(torch.load(path, map_location="cpu", weights_only=True))
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            # the digest of what decides the scores tells files by their times
            value = {name: arrays[name] for name in arrays.files if name != "digest"}
    else:
        text = re.sub(rb"\d{8}_\d{6}_\d+", b"run", path.read_bytes())
        return hashlib.sha256(text).hexdigest()
    return hashlib.sha256(_as_bytes(value)).hexdigest()


def _facts_left_out(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _facts_left_out(item) for name, item in value.items() if name not in FACTS}
    if isinstance(value, list | tuple):
        return [_facts_left_out(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"\d{8}_\d{6}_\d+", "run", value)
    return value


def _as_bytes(value: Any) -> bytes:
    """Return plain values, tensors and arrays as bytes that tell equal ones."""
    if isinstance(value, dict):
        return b"{" + b",".join(f"{k}:".encode() + _as_bytes(v) for k, v in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(_as_bytes, value)) + b"]"
    if hasattr(value, "numpy"):
        value = value.contiguous().numpy()
    if hasattr(value, "tobytes"):
        return f"{value.dtype}{value.shape}".encode() + value.tobytes()
    return repr(value).encode()


def processes(mark: str) -> list[int]:
    """Return the processes whose environment has a mark that begins so."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            entries = (folder / "environ").read_bytes().split(b"\0")
            if any(entry.startswith(wanted) for entry in entries):
                found.append(int(folder.name))
    return sorted(found)


def wait_until_gone(mark: str) -> str:
    """Return a fault if processes with that mark are left, after they were ended."""
    end = time.monotonic() + PATIENCE
    while left := processes(mark):
        if time.monotonic() > end:
            shown = "; ".join(_command_line(pid) for pid in left)
            end_processes(mark)
            return f"processes are left: {shown}"
        time.sleep(0.05)
    return ""


def end_processes(mark: str) -> None:
    """Kill the processes with a mark that begins so, and those that they start meanwhile."""
    while left := processes(mark):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join(words)[:120]
    return f"{pid}"


# ---------------------------------------------------------------------------------------- series


class Campaign:
    """A folder with inputs, the outputs of a job, and the state of what is done."""

    def __init__(self, work: Path, seed: int):
        self.work, self.seed = work, seed
        self.out, self._inputs, self._path = work / "out", work / "inputs", work / "state.json"
        self.state: dict[str, Any] = {"seed": seed, "whole": {}, "series": []}
        if self._path.is_file():
            self.state = json.loads(self._path.read_text())
        if self.state["seed"] != seed:
            raise SystemExit(f"{work} has a campaign of seed {self.state['seed']}")
        self.jobs = jobs(self._inputs, self.out)
        if not (self._inputs / "evaluation.yaml").is_file():
            shutil.rmtree(self._inputs, ignore_errors=True)
            make_inputs(self._inputs, self.out)

    def save(self) -> None:
        """Write the state."""
        unfinished = self._path.with_suffix(".new")
        unfinished.write_text(json.dumps(self.state, indent=1))
        unfinished.replace(self._path)

    def fresh(self) -> None:
        """Empty the folders that a job writes to."""
        for folder in (self.out, self.work / "tmp"):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def whole(self, name: str) -> dict[str, Any]:
        """Return the seconds and the files of a job that nobody disturbs.

        It runs twice, so that what differs by itself is found before it is taken for a fault.
        """
        if name not in self.state["whole"]:
            runs = []
            for _ in range(2):
                self.fresh()
                begun = time.monotonic()
                if fault := self.finish(self.start(self.jobs[name], f"{self.work}/whole/")):
                    raise SystemExit(f"{name}: {fault}")
                seconds = time.monotonic() - begun
                runs.append({"seconds": seconds, "files": self.files()})
            if differences := compare(*(run["files"] for run in runs)):
                raise SystemExit(f"{name}: two whole runs differ: {differences}")
            self.state["whole"][name] = min(runs, key=lambda run: run["seconds"])
            self.save()
        return self.state["whole"][name]

    def files(self) -> dict[str, str]:
        """Return the files that a job has left, with those for temporary use."""
        temporary = (f"temporary/{path.name}" for path in (self.work / "tmp").iterdir())
        return contents(self.out) | dict.fromkeys(temporary, "")

    def start(self, job: Job, mark: str) -> subprocess.Popen:
        """Start a job in a session of its own; its messages go to a file."""
        with open(self.work / "said", "wb") as said:
            return subprocess.Popen(
                job.words,
                env={**ENV, MARK: mark, "TMPDIR": str(self.work / "tmp")},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def said(self) -> str:
        """Return what a job has said."""
        return (self.work / "said").read_text(errors="replace")

    def finish(self, process: subprocess.Popen) -> str:
        """Wait for the end of a job that nobody disturbs, and return its fault."""
        try:
            status = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"it hangs: {self.said()[-600:]}"
        return f"status {status}: {self.said()[-1500:]}" if status else ""

    def run_series(self, number: int, name: str | None = None) -> dict[str, Any]:
        """Kill a job several times, let it end, and return what was done and its faults."""
        rng = random.Random(f"{self.seed} {number}")
        weights = [job.weight for job in self.jobs.values()]
        drawn = rng.choices(list(self.jobs), weights)[0]
        name = name or drawn
        job, mark = self.jobs[name], f"{self.work}/{number}/"
        whole = self.whole(name)
        self.fresh()
        kills, faults = [], []
        for _ in range(rng.randint(1, job.most)):
            begun, share = time.monotonic(), rng.random()
            process = self.start(job, mark)
            kill = self.kill(process, mark, share * job.span * whole["seconds"], rng)
            kills.append({"share": round(share, 3), **kill})
            if fault := self.fault_of(kill, mark):
                faults.append(f"kill {len(kills)} ({kill}): {fault}")
            if kill["status"] == 0:
                break
        if kills[0]["signal"] is None:  # the machine is less busy than it was
            whole["seconds"] = min(whole["seconds"], time.monotonic() - begun)
        if kills[-1]["status"] != 0 and (fault := self.finish(self.start(job, mark))):
            faults.append(f"the last run: {fault}")
        if fault := wait_until_gone(mark):
            faults.append(f"at the end {fault}")
        if differences := compare(whole["files"], self.files()):
            faults.append(f"differences: {differences}")
        return {"number": number, "job": name, "kills": kills, "faults": faults}

    def kill(
        self, process: subprocess.Popen, mark: str, delay: float, rng: random.Random
    ) -> dict[str, Any]:
        """Send a signal after a delay and wait for the end; return what was sent, and the status.

        A job that ends before is not killed.
        """
        number, target = rng.choice(SIGNALS), rng.choice(("launcher", "one", "all"))
        choice = rng.random()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return {"signal": None, "target": None, "status": process.wait(delay)}
        pid = process.pid
        if target == "one":
            running = processes(mark) or [pid]
            pid = running[int(choice * len(running))]
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if target == "all" else os.kill)(pid, number)
        sent = {"signal": signal.Signals(number).name, "target": target}
        try:
            return {**sent, "status": process.wait(LIMIT)}
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {**sent, "status": "hangs"}

    def fault_of(self, kill: dict[str, Any], mark: str) -> str:
        """Return the fault of a run that was killed, or nothing."""
        said = self.said()
        gone = wait_until_gone(mark)
        if gone or kill["status"] == "hangs":
            return f"{gone or 'it hangs'}: {said[-600:]}"
        if kill["signal"] is None:
            return f"status {kill['status']}: {said[-1500:]}" if kill["status"] else ""
        # before any file of this project is reached, nobody can tell Python to be short
        if kill["signal"] != "SIGKILL" and "Traceback" in said and str(ROOT) in said:
            return f"a traceback: {said[-3000:]}"
        return ""


def compare(whole: dict[str, str], tree: dict[str, str]) -> list[str]:
    """Return the names of the files that are missing, that are too many, and that differ."""
    missing = [f"missing {name}" for name in whole if name not in tree]
    strays = [f"stray {name}" for name in tree if name not in whole]
    other = [f"other {name}" for name in whole if name in tree and whole[name] != tree[name]]
    return (missing + strays + other)[:20]


def summary(state: dict[str, Any]) -> dict[str, Any]:
    """Return the counts of a campaign, as docs/kills.json holds them."""
    kills: dict[str, Counter] = {}
    faults = []
    for series in state["series"]:
        counts = kills.setdefault(series["job"], Counter())
        counts["series"] += 1
        counts.update(kill["signal"] for kill in series["kills"] if kill["signal"])
        faults += [f"series {series['number']}: {fault}" for fault in series["faults"]]
    return {
        "seed": state["seed"],
        "kills": sum(count_of(counts) for counts in kills.values()),
        "series": len(state["series"]),
        "faults": len(faults),
        "commands": {name: dict(sorted(counts.items())) for name, counts in sorted(kills.items())},
    }


def count_of(counts: Counter) -> int:
    """Return the number of kills among some counts."""
    return sum(counts[number.name] for number in SIGNALS)


def main() -> int:
    """Run series until there are enough kills, or the time is over; return 1 for faults."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--kills", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--minutes", type=float, default=90)
    p.add_argument("--work", type=Path, default=Path("/tmp/diffaud-kills"))
    p.add_argument("--job", help="this command alone")
    p.add_argument("--series", type=int, help="this series alone, which is not recorded")
    p.add_argument("--json", type=Path, help="the file for the counts")
    args = p.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    campaign, begun = Campaign(args.work.resolve(), args.seed), time.monotonic()
    end_processes(f"{campaign.work}/")  # of a campaign that was stopped
    if args.series is not None:
        series = campaign.run_series(args.series, args.job)
        print(json.dumps(series, indent=1))
        return min(1, len(series["faults"]))
    series = campaign.state["series"]
    while summary(campaign.state)["kills"] < args.kills:
        if time.monotonic() - begun > 60 * args.minutes:
            break
        series.append(campaign.run_series(len(series), args.job))
        campaign.save()
        for fault in series[-1]["faults"]:
            print(f"FAULT series {series[-1]['number']}, {series[-1]['job']}: {fault}", flush=True)
    counts = summary(campaign.state)
    if args.json:
        args.json.write_text(json.dumps(counts, indent=2) + "\n")
    print(json.dumps(counts))
    return min(1, counts["faults"])


if __name__ == "__main__":
    sys.exit(main())
