"""The pipeline: its commands, the stages that it skips, and the place where it stops."""

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
import yaml
from helpers import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "scripts"))
import pipeline as command

from DDA import files, tree
from DDA.progress import Show
from DDA.studies import pipeline
from DDA.studies import stages as running
from DistilledClassifier import classifiers

DIGITS = ROOT / "scripts/pipelines/digits.yaml"
WHOLE = """
out: x
data: {base_samples: digits, experiment: digits, backbone: ResNet20, train: train, test: test}
prior:
adaptation:
known: [jpeg]
degraded: [{command: degrade, type: blur}]
"""


def plan(**changes):
    return pipeline.plan(pipeline.read_config(DIGITS, changes))


def commands_of(stages, program):
    """Return the commands whose program's name begins so."""
    commands = itertools.chain.from_iterable(stage.commands for stage in stages)
    return [command for command in commands if command[0].startswith(program)]


@pytest.mark.parametrize("path", sorted((ROOT / "scripts/pipelines").glob("*.yaml")))
def test_every_pipeline_has_commands_that_are_accepted(path, tmp_path, capsys, monkeypatch):
    for name in ("check_inputs", "check_source", "check_data"):  # not every checkout has them
        monkeypatch.setattr(pipeline, name, lambda *_: None)
    entries = files.read_yaml(path)
    if "experiment" not in entries["data"]:  # one's own images, and the source that is trained on
        monkeypatch.chdir(tmp_path)
        images = SimpleNamespace(source=SimpleNamespace(classes=("cat", "dog")))
        monkeypatch.setattr(pipeline, "own_images", lambda *_: images)
        network = {"type": "CifarResNet", "depth": 8, "num_classes": 2}
        config = {"classifier": network, "preprocess": {"size": 8}}
        Path(entries["source"]).parent.mkdir(parents=True)
        built = classifiers.build(network)
        classifiers.save(Path(entries["source"]), built, config, ("cat", "dog"))
    assert command.main([str(path), "--dry_run"]) == 0
    assert "# the report\nreport.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "adaptation.sped=fast",
            "their adapted copies: image_sample.py: error: unrecognized arguments: --sped fast",
        ),
        ("adaptation.speed=oneshot", "argument --speed: invalid choice: 'oneshot'"),
        ("data.backbone=ResNet21", "a classifier of clean images: train.py: "),
        (
            "training.students.train.epochz=1",
            "two students, for degraded and for adapted images: train_all_deg.py: ",
        ),
        (
            "evaluation.ensemble=summ",
            "the classifiers on both views: test_ensemble.py: error: argument --ensemble: invalid",
        ),
        ("report.imagez=3", "the report: report.py: error: unrecognized arguments: --imagez 3"),
        ("report.images=-1", "the report: report.py: --images -1 must be at least 0"),
        ("prior.steps=-5", "a prior of clean images: image_train.py: --steps -5 must be above 0"),
        ("prior.batch_size=15", "cannot be shared by 2 ranks"),
        ("adaptation.N=0", "their adapted copies: image_sample.py: --N 0 must be at least 1"),
        ("adaptation.severity=5", "`adaptation.severity` is that of `degraded`; leave it out"),
        ("degraded=[{command: degrade, type: fog}]", "argument --type: invalid choice: 'fog'"),
        ("degraded=[{command: degrade, type: jpeg, level: x}]", "make_data.py: --level x: "),
        ("degraded=[{command: corrupt, severity: 6}]", "make_data.py: --severity 6 must be 1..5"),
        ("evaluation.batch_size=0", "test_ensemble.py: "),
        ("training.clean.train.epochs=1.0e+308", "--epochs 1e+308 is not a number from 0 to"),
        ("data.base_samples=''", "`data.base_samples` is empty; name a file or a folder"),
        ("data.base_samples=nowhere", "`data.base_samples` is nowhere, which does not exist"),
        ("data.train=x", "`data.train` x is no folder of digits; there are test, train"),
        ("data.test=0", "`data.test` must be text or nothing, not 0"),
        ("data.train=../..", "`data.train`: "),
        (
            "training.all.data.classes=cifar10",
            "classes (zero, one, two, …), but the config has 10 (airplane",
        ),
        ("data.known_samples=0", "`data.known_samples` 0 must be at least 1"),
        ("ranks=0", "`ranks` 0 must be at least 1"),
        ("ranks=true", "`ranks` must be a whole number, not True"),
        ("threads=x", "`threads` must be a whole number or nothing, not 'x'"),
        ("seed=-1", "`seed` -1 must be at least 0"),
        ("out=", "`out`"),
        ("out=5", "`out` must be text, not 5"),
        ("known=[[jpeg]]", "`known` is [['jpeg']], but it is a list of some of clean, jpeg"),
        ("known=5", "`known` is 5, but it is a list of some of clean, jpeg"),
        ("degraded.command=5", "`degraded"),
        ("degraded=[{command: 5}]", "`degraded` is {base_samples: TREE, …}"),
        ("degraded=[{command: []}]", "`degraded` is {base_samples: TREE, …}"),
        ("prior=5", "`prior` is 5, but it holds entries"),
        ("prior.lr={a: 1}", "`prior.lr` is {'a': 1}, but a flag takes a value"),
        ("training.all=[1]", "`training.all` is [1], but it holds entries"),
        ("prior.timesteps=0-70", "--N 30 needs 293 too. It can do no rung of --speed"),
        ("prior.timesteps=5", "--timesteps '5' must be 0 and the last timestep to train"),
        ("training.clean.train.epochs=[1]", "`train.epochs` must be a number or nothing"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--dry_run"]], ids=["run", "dry"])
def test_what_a_later_command_would_refuse_is_said_before_the_first(
    change, words, more, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(pipeline, "run_stages", lambda *_: pytest.fail("it began"))
    out = [] if change.startswith("out=") else [f"out={tmp_path / 'out'}"]
    assert command.main([str(DIGITS), *more, "--set", *out, change]) == 2
    errors = capsys.readouterr().err
    assert words in errors and errors.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_file_that_is_missing_is_named_with_its_entry(tmp_path, capsys):
    assert command.main([str(DIGITS), "--set", f"out={tmp_path / 'out'}", "source=nowhere.th"]) == 2
    assert "`source` is nowhere.th, which does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stages_of_the_method_are_there_in_order():
    titles = [stage.title for stage in plan()]
    assert titles == [
        "the images, as a tree",
        "a classifier of clean images",
        "a prior of clean images",
        "held-out images, degraded",
        "their adapted copies",
        "known degradations of training images",
        "their adapted copies, to learn from",
        "teachers, one for each known degradation and view",
        "two students, for degraded and for adapted images",
        "the control, trained as long without teachers and without adaptation",
        "weights and gate, fitted on known degradations of held-out images",
        "the classifiers on both views",
        "the report",
    ]
    given = {"source": "net.th", "degraded": {"base_samples": "c.npz"}}
    shorter = [stage.title for stage in plan(**given, prior={"model_path": "prior.pt"})]
    assert shorter == [title for i, title in enumerate(titles) if i not in (1, 2, 3)]


def test_what_learns_and_what_is_tested_is_adapted_alike():
    jobs = commands_of(plan(), "image_sample.py")
    assert len(jobs) == 2
    settings = [command[: command.index("--base_samples")] for command in jobs]
    assert settings[0] == settings[1]


def notes(*words):
    """Return a stage for each word, which notes it and needs the one before."""
    stages = []
    for i, word in enumerate(words):
        below = (f"stage {i - 1}",) if i else ()
        stages.append(pipeline.Stage(f"stage {i}", (("note.py", word),), needs=below))
    return stages


ESTIMATE = """
import json, sys
assert sys.argv[2:] == ["--dry_run", "--json", "--quiet"]
if sys.argv[1] == "absent":
    sys.exit(2)
print(json.dumps({"estimate": {"seconds": 90.0} if sys.argv[1] == "todo" else None}))
"""


def test_a_plan_tells_how_long_the_commands_take_that_can_be_measured(
    tmp_path, monkeypatch, capsys
):
    script = tmp_path / "adapt.py"
    script.write_text(ESTIMATE)
    monkeypatch.setitem(running.SCRIPTS, "image_sample.py", str(script))
    shown, minutes = [], ("image_train.py", "--minutes", "2.5")
    adapt = tuple(("image_sample.py", word) for word in ("todo", "done", "absent"))
    stages = [
        pipeline.Stage("images", (("make_data.py", "prepare"),)),
        pipeline.Stage("prior", (minutes, (*minutes, "--steps", "9")), needs=("images",)),
        pipeline.Stage("copies", adapt, needs=("images",)),
        pipeline.Stage("later", adapt, needs=("prior",)),
    ]

    def look() -> dict:
        outcome = running.outlook(stages, tmp_path / "out", None, Show())
        shown.append(str(outcome).splitlines())
        return {title: stage["estimates"] for title, stage in outcome.stages.items()}

    fresh = {"images": [None], "prior": [150.0, None], "copies": [None] * 3, "later": [None] * 3}
    assert look() == fresh and not (tmp_path / "out").exists()
    assert "# prior, about 2 min 30 s" in shown[0] and "2 min 30 s for 1 of 9" in shown[0][-1]
    files.make_folder(tmp_path / "out")
    digest = running._digests(stages)["images"]
    files.write_json(tmp_path / "out/pipeline.json", {"finished": {"images": digest}})
    assert look() == {**fresh, "images": [], "copies": [90.0, 0.0, None]}
    assert "# images, done before" in shown[1] and "# copies, about 1 min 30 s" in shown[1]
    assert "measured: copies" in capsys.readouterr().err


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """Three stages of a script that notes its argument.

    It fails for an argument that the file ``fail`` names.
    """
    script = tmp_path / "note.py"
    script.write_text(
        "import sys, pathlib\nhere = pathlib.Path(__file__).parent\nword = sys.argv[1]\n"
        "with open(here / 'log', 'a') as file: file.write(word + '\\n')\n"
        "fail = here / 'fail'\nsys.exit(3 if fail.exists() and fail.read_text() == word else 0)\n"
    )
    monkeypatch.setitem(running.SCRIPTS, "note.py", str(script))

    def run(*words: str) -> tuple[int, list[str]]:
        (tmp_path / "log").write_text("")
        status = pipeline.run_stages(notes(*words), tmp_path / "out", None, Show()).status
        return status, (tmp_path / "log").read_text().split()

    return run


def test_it_stops_at_a_failure_goes_on_there_and_skips_what_is_finished(steps, tmp_path, capsys):
    (tmp_path / "fail").write_text("b")
    assert steps("a", "b", "c") == (3, ["a", "b"])
    message = " ".join(capsys.readouterr().err.split())
    assert "stage 2 of 3: stage 1 ended with status 3" in message
    assert "run the same pipeline again" in message
    (tmp_path / "fail").unlink()
    assert steps("a", "b", "c") == (0, ["b", "c"])
    assert steps("a", "b", "c") == (0, [])
    # a stage that changed runs again, and so do those after it
    assert steps("a", "other", "c") == (0, ["other", "c"])
    (tmp_path / "fail").write_text("b")
    assert steps("a", "b", "c") == (3, ["b"])
    (tmp_path / "fail").unlink()
    # the files that b left are not taken for those of the other
    assert steps("a", "other", "c") == (0, ["other", "c"])


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """Return a function that runs plans and returns the titles of the stages that ran."""
    monkeypatch.setattr(running, "_run", lambda *_: 0)

    def run(**changes) -> list[str]:
        outcome = pipeline.run_stages(
            plan(out=str(tmp_path / "out"), **changes), tmp_path / "out", None, Show()
        )
        return [title for title, stage in outcome.stages.items() if stage["status"] == 0]

    return run


def test_an_added_corruption_runs_only_what_needs_it(ran):
    assert len(ran()) == 13 and ran() == []
    more = [
        *files.read_yaml(DIGITS)["degraded"],
        {"command": "corrupt", "corruption": "fog", "severity": 5},
    ]
    tested = [pipeline.DEGRADED, pipeline.ADAPTED, pipeline.EVALUATION, pipeline.REPORT]
    assert ran(degraded=more) == tested
    assert ran(degraded=more, **{"report.images": 2}) == [pipeline.REPORT]
    longer = {"training.students.train.epochs": 9}
    learned = [pipeline.STUDENTS, pipeline.CONTROL, pipeline.FIT]
    assert ran(degraded=more, **longer)[:3] == learned
    assert pipeline.PRIOR in ran(degraded=more, **longer, **{"prior.minutes": 3})


def test_what_builds_on_a_stage_that_ran_in_vain_runs_again(ran, monkeypatch):
    ran()
    monkeypatch.setattr(running, "_run", lambda *_: 3)
    assert ran(**{"prior.minutes": 3}) == []  # it failed
    monkeypatch.setattr(running, "_run", lambda *_: 0)
    titles = ran()
    assert titles[0] == pipeline.PRIOR and pipeline.STUDENTS in titles
    assert pipeline.CONTROL not in titles and pipeline.DEGRADED not in titles


def test_every_stage_that_is_needed_comes_before():
    for changes in ({}, {"source": "net.th"}, {"control": False}):
        stages = plan(**changes)
        titles = [stage.title for stage in stages]
        for place, stage in enumerate(stages):
            assert set(stage.needs) & set(titles) <= set(titles[:place])
        assert all(stage.needs for stage in stages[1:])


def test_the_control_trains_as_the_student_does_without_teachers():
    changes = {"training.students.optimizer": {"type": "AdamW", "lr": 0.002}}
    changes |= {"training.students.loss": {"cross_entropy": 1, "cosine_inheritance": 10}}
    stages = plan(**changes)
    control = commands_of(stages, "train_all_deg.py")[-1]
    assert control[2].endswith("deg_all.yaml") and not any("loss" in word for word in control)
    configs = pipeline.check(stages)
    configs = {config.stage: config for config in configs}
    one, two = configs["degDistill"], configs["deg_all"]
    assert two.teachers is None and two.loss == {"cross_entropy": 1}
    assert (one.train, one.optimizer, one.schedule) == (two.train, two.optimizer, two.schedule)
    assert (one.view, one.known, one.init) == (two.view, two.known, two.init)
    (compared,) = [
        words for words in commands_of(stages, "test_ensemble.py") if "--source" in words
    ]
    assert "digits_ResNet20_deg_all" in compared[compared.index("--control") + 1]
    without = plan(control=False)
    assert pipeline.CONTROL not in [stage.title for stage in without]
    assert not any("--control" in words for words in commands_of(without, "test_ensemble.py"))


def test_json_tells_the_stages_of_a_run_that_failed_and_of_one_that_did_not(
    steps, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(pipeline, "plan", lambda config: notes("a", "b"))
    monkeypatch.setattr(pipeline, "check", lambda *_: [])
    words = [str(DIGITS), "--json", "--set", f"out={tmp_path / 'out'}"]
    (tmp_path / "log").write_text("")
    (tmp_path / "fail").write_text("b")
    assert command.main(words) == 3
    failed = json.loads(capfd.readouterr().out)
    assert [stage["status"] for stage in failed["stages"].values()] == [0, 3]
    assert failed["status"] == 3 and failed["report"] is None
    (tmp_path / "fail").unlink()
    assert command.main(words) == 0
    finished = json.loads(capfd.readouterr().out)
    assert [stage["status"] for stage in finished["stages"].values()] == ["done before", 0]
    assert finished["report"] == str(tmp_path / "out/eval/report.html")
    assert finished["out"] == str(tmp_path / "out")


def test_entries_that_python_holds_are_planned_like_those_of_a_yaml(tmp_path, capsys):
    entries = files.read_yaml(DIGITS)
    changes = {"data.backbone": "ResNet56"}
    held = pipeline.run(entries, changes=changes, dry_run=True)
    assert held == pipeline.run(str(DIGITS), changes=changes, dry_run=True) and held.status == 0
    assert entries == files.read_yaml(DIGITS)  # the caller's entries stay as they are
    with pytest.raises(ValueError, match="^config: `rank` is unknown; did you mean ranks?"):
        pipeline.run({**entries, "rank": 2}, dry_run=True)
    with pytest.raises(FileNotFoundError, match="^config: `source` is nowhere.th"):
        pipeline.run({**entries, "source": "nowhere.th", "out": str(tmp_path / "out")})
    assert capsys.readouterr() == ("", "") and not (tmp_path / "out").exists()


def test_images_of_another_yaml_are_not_taken_for_its_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "note.py").write_text("")
    monkeypatch.setitem(running.SCRIPTS, "make_data.py", str(tmp_path / "note.py"))

    def run(out, *levels: str) -> None:
        words = [("--level", level, "--save_dir", f"{out}/degraded") for level in levels]
        made = tuple(("make_data.py", "degrade", *flags) for flags in words)
        stage = pipeline.Stage("degraded", made)
        assert pipeline.run_stages([stage], out, None, Show()).status == 0

    run(tmp_path / "out", "1")
    run(tmp_path / "out", "1", "2")
    words = "images of another YAML, made by: make_data.py degrade --level 1 .* give another out"
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "out", "2")
    (tmp_path / "out").rename(tmp_path / "moved")
    run(tmp_path / "moved", "1", "2")


def test_settings_of_a_training_replace_no_others(tmp_path):
    changes = {"training.students.train.epochs": 1, "training.students.train.clip_norm": 2}
    student = commands_of(plan(**changes), "train_all_deg.py")[0]
    assert {"train.epochs=1", "train.clip_norm=2", "train.batch_size=64"} <= set(student)
    assert not any(word.startswith("train=") for word in student)


def test_what_learns_from_adapted_copies_may_begin_elsewhere():
    inits = {"adapted_teachers": "deg", "adapted_student": "degDistill"}
    changes = {f"training.{name}": {"init": stage} for name, stage in inits.items()}
    begins = {}
    for words in commands_of(plan(**changes, control=False), "train"):
        begins[Path(words[2]).stem] = [word for word in words if word.startswith("init=")]
    assert begins == {
        "clean": [],
        "deg": [],
        "adapt": ["init=deg"],
        "degDistill": [],
        "adaptDistill": ["init=degDistill"],
    }


def test_one_known_degradation_is_looked_for_where_it_is_trained(tmp_path):
    from DistilledClassifier.experiments.stages import of_known

    commands = [command for stage in plan(known=["noise"]) for command in stage.commands]
    evaluated = [command for command in commands if command[0] == "test_ensemble.py"]
    assert all(f"/saved/{of_known(['noise'])}/deg_all/" in command[2] for command in evaluated)
    assert not any("combined_deg" in word for command in commands for word in command)


CHILD = """
import pathlib, sys, time
here = pathlib.Path(sys.argv[0]).parent
(here / "begun").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1.5)
    (here / "saved").touch()
    sys.exit(130)
"""
PARENT = """
import sys
sys.path.insert(0, "{root}")
from DDA import commands
def work(values, output):
    return commands.call([sys.executable, "{child}"])
sys.exit(commands.run(commands.Parser("parent.py"), [], work))
"""


def test_an_interruption_waits_for_the_command_to_save(tmp_path):
    (tmp_path / "child.py").write_text(CHILD)
    (tmp_path / "parent.py").write_text(PARENT.format(root=ROOT, child=tmp_path / "child.py"))
    for kill, status, saved in ((signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)):
        process = subprocess.Popen([sys.executable, tmp_path / "parent.py"], start_new_session=True)
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        if kill == signal.SIGINT:
            os.killpg(process.pid, kill)  # as a terminal does
        else:
            process.send_signal(kill)
        assert process.wait(30) == status
        assert (tmp_path / "saved").exists() == saved
        for name in ("begun", "saved"):
            (tmp_path / name).unlink(missing_ok=True)


OWN = """
out: {out}
data: {{base_samples: {photos}, size: 16}}
prior: {{steps: 1, batch_size: 4}}
adaptation: {{speed: one-shot}}
known: [jpeg]
degraded: [{{command: degrade, type: blur}}]
training: {{all: {{train.batch_size: 4}}}}
"""


@pytest.fixture
def photos(tmp_path):
    """Thirty images of two classes, of two shapes, in a folder for each class."""
    for i in range(30):
        path = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (20, 24) if i % 3 else (24, 18)
        pixels = np.random.default_rng(i).integers(0, 256, (*shape, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def own(photos, **changes):
    """Return the outcome of a dry run on photographs."""
    text = OWN.format(out=photos.parent / "out", photos=photos)
    return pipeline.run(yaml.safe_load(text), changes=changes, dry_run=True)


def test_a_folder_and_a_size_are_enough(photos):
    planned = own(photos).stages
    (prepare,) = planned[pipeline.IMAGES]["commands"]
    assert prepare.endswith("clean --classes folders --test_share 0.1")
    (prior,) = planned[pipeline.PRIOR]["commands"]
    assert "--cell clean/train" in prior and "--image_size 16" in prior
    (clean,) = planned[pipeline.CLASSIFIER]["commands"]
    assert "configs/ind/own/ResNet18/clean.yaml" in clean and "preprocess.size=16" in clean
    (degraded,) = planned[pipeline.DEGRADED]["commands"]
    assert "--split test" in degraded
    (known,) = planned[pipeline.KNOWN_ADAPTED]["commands"]
    assert "--dataset digits --train True" in known
    assert "--fit whole" in known and "--fit whole" in planned[pipeline.ADAPTED]["commands"][0]
    padded = own(photos, **{"adaptation.fit": "pad"}).stages[pipeline.ADAPTED]["commands"][0]
    assert "--fit pad" in padded and "whole" not in padded
    large = own(photos, **{"data.size": 128, "training.all.augment": {"crop": 0}})
    assert "own/ResNet50/clean.yaml" in large.stages[pipeline.CLASSIFIER]["commands"][0]
    named = own(photos, **{"data.mean": [0.5, 0.4, 0.3], "data.backbone": "ResNet20"})
    assert "preprocess.mean=[0.5," in named.stages[pipeline.CLASSIFIER]["commands"][0]


def test_the_size_is_that_of_a_source_and_a_prior_that_are_given(photos):
    entries = yaml.safe_load(OWN.format(out=photos.parent / "out", photos=photos))
    del entries["data"]["size"]
    given = {"source": "mine.pth", "prior": {"model_path": "prior.pt"}}
    assert pipeline.read_config({**entries, **given}, {})["data"]["size"] is None
    for name, value in given.items():
        with pytest.raises(ValueError, match="`data.size` is missing"):
            pipeline.read_config({**entries, name: value}, {})


def test_flat_images_in_a_zip_with_a_list_of_labels_will_do(photos):
    lines = ["file,label"]
    with ZipFile(photos.parent / "flat.zip", "w") as archive:
        for path in sorted(photos.rglob("*.png")):
            archive.write(path, path.name)
            lines.append(f"{path.name},{path.parent.name}")
    (photos.parent / "said.csv").write_text("\n".join(lines))
    changes = {"data.base_samples": f"{photos.parent / 'flat.zip'}"}
    changes |= {"data.labels": f"{photos.parent / 'said.csv'}", "adaptation.fit": "whole"}
    (prepare,) = own(photos, **changes).stages[pipeline.IMAGES]["commands"]
    program, *words = shlex.split(prepare)
    assert pipeline._module(program).main(words) == 0
    made = photos.parent / "out"
    assert tree.read_classes(made / "clean") == ("cat", "dog")
    assert len(tree.list_images(made / "clean", "clean/test")[0]) == 3


def test_what_a_published_set_needs_is_known_by_its_name():
    short = pipeline.read_config(
        DIGITS, {"data": {"base_samples": "digits", "experiment": "digits"}}
    )
    assert (short["data"]["train"], short["data"]["test"]) == ("train", "test")
    assert short["data"]["backbone"] == "ResNet18"
    with pytest.raises(FileNotFoundError, match="configs/data has no mnist; there are CIFAR10"):
        pipeline.read_config(DIGITS, {"data.experiment": "mnist"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.size": None}, "`data.size` is missing: the side in pixels"),
        ({"data.size": 0}, "`data.size` 0 must be at least 8"),
        ({"data.train": "fit"}, "config: `data`: `train` fit is no folder of "),
        ({"data.classes": "nowhere.txt"}, "`classes` nowhere.txt is neither a file nor one of"),
        ({"data.held_out": 1.5}, "`data.held_out` 1.5 is no share between 0 and 1"),
        ({"data.mean": [0.5]}, "preprocess: `mean` "),
        ({"training.all.train.batch_size": 128}, "images, fewer than its `train.batch_size` 128"),
        ({"data.known_samples": 4}, "the stage adapt trains on "),
        ({"data.held_out": 0.001}, "`data.held_out` 0.001 leaves none of the 28 training images"),
    ],
)
def test_own_images_that_will_not_do_are_refused_before_the_first_command(photos, changes, words):
    with pytest.raises(ValueError) as error:
        own(photos, **changes)
    assert words in str(error.value) and not (photos.parent / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("outt: x", "`outt` is unknown; did you mean out?"),
        ("out: x\ndata: {rot: y}", "`data.rot` is unknown; there are base_samples"),
        ("out: x", "`data` is missing"),
        (WHOLE.replace("base_samples: digits, ", ""), "`data.base_samples` is missing"),
        ("out: x\nprior: net.pt", "`prior` is 'net.pt', but it holds entries"),
        (WHOLE + "known: jpeg", "`known` is 'jpeg', but it is a list of some of clean, jpeg"),
        (
            WHOLE.replace("[{command: degrade, type: blur}]", "[{type: blur}]"),
            "or a list of {command: degrade or corrupt",
        ),
        (WHOLE + "training: {students: 3}", "`training.students` is 3, but it holds entries"),
        ("- 1", "holds no entries"),
    ],
)
def test_a_wrong_yaml_is_named(tmp_path, capsys, text, words):
    (tmp_path / "x.yaml").write_text(text)
    assert command.main([str(tmp_path / "x.yaml")]) == 2
    assert words in capsys.readouterr().err
    assert command.main([str(tmp_path / "nowhere.yaml")]) == 2
    assert "scripts/pipelines/ has examples" in capsys.readouterr().err


def test_the_newest_run_of_a_stage_is_taken(tmp_path):
    for name in ("20250101", "20260101", "20270101"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_best.pth").write_bytes(b"")
        if name != "20270101":
            (tmp_path / name / "finished").write_bytes(b"")
    newest = tmp_path / "20260101/model_best.pth"
    assert running._latest(f"{tmp_path}/*/model_best.pth") == str(newest)
    with pytest.raises(FileNotFoundError, match="was the stage before removed"):
        running._latest(f"{Path(tmp_path)}/*/model_last.pth")


def test_a_small_number_of_a_training_stays_a_number():
    assert yaml.safe_load(pipeline._yaml(1e-05)) == 1e-05
    assert yaml.safe_load(pipeline._yaml(1.5e30)) == 1.5e30
