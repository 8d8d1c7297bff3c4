"""The form of the code: docstrings, names, comprehensions, messages, short commands."""

import ast
import re

import pytest
from helpers import ROOT

FOLDERS = ("DDA", "DistilledClassifier", "scripts")
FILES = sorted(
    path.relative_to(ROOT).as_posix() for top in FOLDERS for path in (ROOT / top).rglob("*.py")
)
TREES = {file: ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in FILES}
CONFIGS = "DDA/model_adapt/configs/"  # they are read by mmcv and hold values only


def has_main(tree: ast.Module) -> bool:
    """Tell whether a file is a command."""
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)


COMMANDS = [file for file in FILES if has_main(TREES[file])]
LIBRARY = [file for file in FILES if file not in COMMANDS and not file.startswith(CONFIGS)]
CODE = [file for file in FILES if not file.startswith(CONFIGS)]
# a docstring begins with a verb or a noun
OPENERS = {
    *("Of", "What", "Where", "Which", "How", "By", "They", "Them", "That", "Those", "As", "So"),
    *("Whether", "To", "In", "On", "If", "For", "From", "With", "It", "There", "Because"),
}
# flags of other people's programs
OTHERS = re.compile(r"torchrun .*--master-port|srun --[^`]*|pip install --.*")
NO_NOUNS = {"found", "there", "told", "odd", "said"}


def documented(tree: ast.Module):
    """The module, and every class and function in it that has a docstring or is public."""
    kinds = ast.ClassDef | ast.FunctionDef
    yield "module", tree
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield node.name, node


def is_public(name: str, parents: tuple[str, ...]) -> bool:
    return not any(part.startswith("_") for part in (*parents, name))


def public(node: ast.AST, parents: tuple[str, ...] = ()):
    """The public classes, functions and methods below a node, those inside functions left out."""
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and is_public(child.name, parents):
            yield ".".join((*parents, child.name)), child
            if isinstance(child, ast.ClassDef):
                yield from public(child, (*parents, child.name))


@pytest.mark.parametrize("file", CODE)
def test_docstrings_are_sentences_that_begin_with_a_verb_or_a_noun(file):
    faults = []
    for name, node in documented(TREES[file]):
        text = ast.get_docstring(node)
        if text is None:
            continue
        first = text.split("\n\n")[0].strip()
        if first.split()[0] in OPENERS or not (first[0].isupper() or first[0] in "`'\"("):
            faults.append(f"{name}: begins with {first.split()[0]}")
        if not re.search(r"[.:]$", first) and "::" not in text:
            faults.append(f"{name}: its first paragraph is no sentence")
    assert not faults, faults


def inherits(node: ast.FunctionDef) -> bool:
    """Tell whether a method takes the place of one that is documented elsewhere."""
    names = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
    return "override" in names


@pytest.mark.parametrize("file", LIBRARY)
def test_what_is_public_is_documented_and_typed(file):
    faults = []
    if ast.get_docstring(TREES[file]) is None and (ROOT / file).stat().st_size:
        faults.append("the module has no docstring")
    for name, node in public(TREES[file]):
        if ast.get_docstring(node) is None and not (
            isinstance(node, ast.FunctionDef) and (inherits(node) or node.name == "forward")
        ):
            faults.append(f"{name}: no docstring")
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None]
            bare = [argument for argument in bare if argument not in ("self", "cls")]
            if bare:
                faults.append(f"{name}: no type of {', '.join(bare)}")
            if node.returns is None:
                faults.append(f"{name}: no type of what it returns")
    assert not faults, faults


@pytest.mark.parametrize("file", [*CODE, *(f"tests/{p.name}" for p in ROOT.glob("tests/*.py"))])
def test_comprehensions_have_at_most_two_clauses(file):
    tree = TREES.get(file) or ast.parse((ROOT / file).read_text(encoding="utf-8"))
    kinds = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    faults = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, kinds) and sum(1 + len(g.ifs) for g in node.generators) > 2
    ]
    assert not faults, f"{file}: lines {faults}"


@pytest.mark.parametrize("file", CODE)
def test_variables_are_nouns(file):
    names = {
        (node.id, node.lineno)
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    arguments = (node for node in ast.walk(TREES[file]) if isinstance(node, ast.arg))
    names |= {(node.arg, node.lineno) for node in arguments}
    assert not sorted(line for name, line in names if name in NO_NOUNS)


@pytest.mark.parametrize("file", LIBRARY)
def test_the_library_names_settings_and_no_flags(file):
    if file == "DDA/commands.py" or file.startswith("DDA/studies/"):
        return  # the first makes flags of settings, the others write whole command lines
    faults = [
        f"line {node.lineno}: {node.value.strip()[:60]}"
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"(?<![\w-])--[a-zA-Z]", OTHERS.sub("", node.value))
    ]
    assert not faults, faults


@pytest.mark.parametrize("file", COMMANDS)
def test_a_command_only_translates(file):
    text = (ROOT / file).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150, f"{len(text.splitlines())} lines"
    assert "Namespace" not in text


def test_the_formatter_is_told_to_stand_back_for_tables_alone():
    files = [*FILES, *(f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py"))]
    pattern = re.compile(r"#\s*fmt:\s*(skip|off)")
    counts = {file: len(pattern.findall((ROOT / file).read_text("utf-8"))) for file in files}
    assert sum(counts.values()) <= 20, {file: n for file, n in counts.items() if n}
