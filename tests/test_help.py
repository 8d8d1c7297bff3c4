"""The help of every command: it waits for no large package, and tells how a command ends."""

import importlib
import json
import subprocess
import sys

import pytest
import tomllib
from helpers import ROOT

from DDA import interrupts

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
INSTALLED = {
    name: target.removesuffix(":main").replace(".", "/") + ".py"
    for name, target in PROJECT["project"]["scripts"].items()
}
SCRIPTS = {
    path.name: f"scripts/{path.name}"
    for path in (ROOT / "scripts").glob("*.py")
    if "def main(" in path.read_text(encoding="utf-8")
}
COMMANDS = {**INSTALLED, **SCRIPTS}
HEAVY = ("torch", "torchvision", "mmcls", "mmcv", "timm", "matplotlib", "sklearn")
PROGRAM = f"""
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit:
    pass
print("\\n" + json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_waits_for_no_large_package_and_says_how_the_command_ends(name):
    command = [sys.executable, "-c", PROGRAM, str(ROOT / COMMANDS[name]), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    *_, loaded = result.stdout.strip().splitlines()
    assert json.loads(loaded) == []
    assert "exit status:" in result.stdout and f"usage: {name}" in result.stdout
    if name != "make_data.py":  # its subcommands have the flags
        assert "--quiet" in result.stdout and "--json" in result.stdout


def test_importing_the_library_waits_for_no_large_package():
    imports = "import sys, DDA; from DistilledClassifier import classifiers, experiments"
    code = f"{imports}\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_signals_wait_for_the_commands_and_for_nothing_else():
    assert sorted(interrupts.COMMANDS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_every_command_has_an_importable_main_and_parser(name):
    module = importlib.import_module(COMMANDS[name].removesuffix(".py").replace("/", "."))
    assert callable(module.main)
    assert name == "train_all_deg.py" or module.parser().prog == name  # train.py has its parser
