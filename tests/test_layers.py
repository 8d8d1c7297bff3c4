"""Who may import whom (the README's map)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE = {"torch", "numpy"}
STANDARD = set(sys.stdlib_module_names) | {"__future__"}
GROUND = {
    "DDA",
    "DDA.ahead",
    "DDA.commands",
    "DDA.devices",
    "DDA.fetching",
    "DDA.files",
    "DDA.fitting",
    "DDA.images",
    "DDA.interrupts",
    "DDA.ledger",
    "DDA.progress",
    "DDA.published",
    "DDA.ranks",
    "DDA.settings",
    "DDA.shapes",
    "DDA.shards",
    "DDA.tree",
}
SOURCES = sorted(path.stem for path in (ROOT / "DDA/sources").glob("*.py"))
SOURCES_OF = {"DDA.sources", *(f"DDA.sources.{module}" for module in SOURCES)}
# module: what it may import beside the standard library
MAY_IMPORT = {
    "DDA/files.py": {"numpy", "yaml", "DDA", "DDA.progress", "DDA.published"},
    "DDA/fetching.py": {"DDA", "DDA.files", "DDA.progress", "DDA.published"},
    "DDA/published.py": set(),
    "DDA/tree.py": {"numpy", "DDA", "DDA.files"},
    "DDA/images.py": {"numpy", "PIL", "DDA", "DDA.files"},
    "DDA/fitting.py": {"numpy", "PIL", "DDA", "DDA.images", "DDA.settings"},
    "DDA/ledger.py": {"DDA", "DDA.files", "DDA.progress", "DDA.shapes", "DDA.tree"},
    "DDA/file_kinds.py": {"DDA", "DDA.files", "DDA.tree"},
    "DDA/weights.py": PURE
    | {"safetensors.torch", "DDA", "DDA.fetching", "DDA.file_kinds", "DDA.files", "DDA.tree"},
    "DDA/inputs.py": {"numpy", "PIL", "DDA", "DDA.images", "DDA.tree"},
    "DDA/commands.py": {"DDA", "DDA.files", "DDA.interrupts", "DDA.ranks", "DDA.progress"},
    "DDA/interrupts.py": set(),
    "DDA/metrics.py": {"numpy"},
    "DDA/progress.py": set(),
    "DDA/ranks.py": {"mpi4py", "torch", "DDA", "DDA.interrupts", "DDA.progress"},
    **{
        f"DDA/sources/{module}.py": {
            "numpy",
            "PIL",
            "scipy",
            "sklearn.datasets",
            "pyarrow.ipc",
            "pyarrow.parquet",
            *GROUND,
            *SOURCES_OF,
        }
        for module in SOURCES
    },
    "DDA/image_adapt/diffusion.py": PURE | {"DDA.image_adapt.choices"},
    "DDA/image_adapt/low_pass.py": PURE,
    "DDA/image_adapt/noise.py": PURE,
    "DDA/image_adapt/unet.py": PURE,
    "DDA/image_adapt/guidance.py": PURE | {"DDA.image_adapt.diffusion", "DDA.image_adapt.low_pass"},
    "DDA/image_adapt/prior_task.py": PURE
    | {"DDA.image_adapt.diffusion", "DDA.ahead", "DDA.training.loop", "DDA.training.task"},
    "DDA/training/task.py": PURE | {"DDA.ranks"},
    "DDA/training/loop.py": PURE | {"DDA.progress", "DDA.ranks", "DDA.training.task"},
    "DDA/training/run.py": PURE
    | GROUND
    | {"DDA.weights", "DDA.training.loop", "DDA.training.task"},
    "DDA/ahead.py": set(),
    "DDA/devices.py": {"torch"},
    "DDA/settings.py": {"DDA", "DDA.progress", "DDA.tree"},
    "DDA/shapes.py": {"DDA", "DDA.files", "DDA.settings", "DDA.tree"},
    "DDA/shards.py": {"DDA", "DDA.files", "DDA.tree"},
    "DDA/image_adapt/sampler.py": PURE
    | {"DDA.image_adapt.choices", "DDA.image_adapt.diffusion", "DDA.image_adapt.guidance"},
    "DDA/image_adapt/choices.py": set(),
    "DDA/image_adapt/prior_settings.py": {
        "DDA",
        "DDA.settings",
        "DDA.tree",
        "DDA.image_adapt.choices",
    },
    "DDA/model_adapt/choices.py": set(),
    "DDA/model_adapt/settings.py": {
        "DDA",
        "DDA.fitting",
        "DDA.settings",
        "DDA.sources.cells",
        "DDA.image_adapt.choices",
        "DDA.model_adapt.choices",
        "DistilledClassifier.degradations",
    },
    "DDA/image_adapt/settings.py": {
        "DDA",
        "DDA.inputs",
        "DDA.fitting",
        "DDA.settings",
        "DDA.shards",
        "DDA.tree",
        "DDA.sources.cells",
        "DDA.image_adapt.choices",
    },
    "DDA/image_adapt/tiles.py": PURE,
    "DDA/image_adapt/job.py": {"numpy", "PIL", "torch", *GROUND, "DDA.sources"},
    "DDA/model_adapt/ensemble.py": PURE,
    "DistilledClassifier/degradations.py": {"numpy", "PIL", "scipy", "cv2"},
    "DistilledClassifier/losses.py": PURE,
    "DistilledClassifier/corruptions.py": {"numpy", "PIL", "scipy", "cv2", "DDA.tree"},
    "DistilledClassifier/experiments/__init__.py": {
        "DistilledClassifier.experiments",
        "DistilledClassifier.experiments.run",
    },
    "DistilledClassifier/experiments/compose.py": {
        "DDA",
        "DDA.files",
        "DDA.progress",
        "DDA.settings",
        "DDA.tree",
    },
    "DistilledClassifier/experiments/settings.py": {"yaml", "DDA", "DDA.files", "DDA.settings"},
    "DistilledClassifier/train.py": {
        "DDA",
        "DDA.commands",
        "DDA.ranks",
        "DistilledClassifier.experiments.run",
        "DistilledClassifier.experiments.settings",
    },
    "DistilledClassifier/recipes.py": {
        "numpy",
        "DistilledClassifier",
        "DistilledClassifier.degradations",
        "DistilledClassifier.corruptions",
    },
    "DistilledClassifier/verify.py": GROUND,
    "DistilledClassifier/trees.py": {
        "numpy",
        *GROUND,
        "DDA.sources",
        "DistilledClassifier.recipes",
        "DistilledClassifier.verify",
    },
}
NO_FILES = ("argparse", "os", "pathlib", "mpi4py", "json")
SOURCES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ("DDA", "DistilledClassifier")
    for path in (ROOT / top).rglob("*.py")
)


def imports(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((ROOT / source).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: relative import"
            names.add(node.module)
            if node.module == "DDA":
                names.update(f"DDA.{alias.name}" for alias in node.names)
    return names


def top(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


@pytest.mark.parametrize("source", sorted(MAY_IMPORT))
def test_a_module_imports_only_what_it_may(source):
    allowed = MAY_IMPORT[source]
    others = {name for name in imports(source) if top(name) not in STANDARD}
    bad = {
        name
        for name in others
        if name not in allowed and (top(name) not in allowed or top(name) == "DDA")
    }
    assert not bad, f"{source} imports {', '.join(sorted(bad))}"
    if allowed & {"torch"} and source not in (
        "DDA/ranks.py",
        "DDA/weights.py",
        "DDA/training/run.py",
        "DDA/weights.py",
        "DDA/image_adapt/job.py",
    ):
        assert not imports(source) & set(NO_FILES), f"{source} deals with files, processes or flags"


@pytest.mark.parametrize("source", SOURCES)
def test_sides_do_not_import_each_other(source):
    names = imports(source)
    if source.startswith("DDA/image_adapt"):
        assert not any(
            name.startswith(("DistilledClassifier", "DDA.model_adapt", "mmcls", "mmcv", "timm"))
            for name in names
        )
    if source.startswith("DistilledClassifier"):
        assert not any(name.startswith(("DDA.image_adapt", "DDA.model_adapt")) for name in names)
    if not source.startswith("DDA/studies"):  # they stand above everything else
        assert not any(name.startswith("DDA.studies") for name in names)
    assert not any(top(name) == "scripts" for name in names)
    if source != "DDA/ranks.py":
        assert not any(top(name) == "mpi4py" for name in names)


TORCH_FREE = """
from DDA import ahead, commands, files, images, inputs, ledger, metrics, progress, ranks, settings
from DDA import sources, tree
from DDA.image_adapt import choices, prior_settings, settings
from DDA.model_adapt import choices, settings
from DDA.sources import cells
import sys
assert not {"torch", "mmcls", "mmcv", "timm", "mpi4py", "scipy", "sklearn"} & {*sys.modules}
"""


def test_the_ground_floor_and_the_settings_wait_for_no_large_library():
    result = subprocess.run(
        [sys.executable, "-c", TORCH_FREE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_image_adapt_imports_where_only_torch_numpy_and_pillow_are_installed():
    code = """
import sys
REFUSED = "mpi4py mmcls mmcv timm tqdm matplotlib sklearn scipy torchvision".split()
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in REFUSED:
            raise ImportError(name + " is not to be imported")
sys.meta_path.insert(0, Refuse())
import DDA.image_adapt.scripts.image_sample
import DDA.image_adapt.adapter
assert "mpi4py" not in sys.modules
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
