#!/usr/bin/env python3
"""How large the product is: code tokens, without comments and docstrings, and the lengths of its functions.

  tests/measure.py                  this checkout
  tests/measure.py OTHER CHECKOUT   and others beside it

Counted are DDA, DistilledClassifier and scripts. A function's length is its lines without its docstring, decorators, comments
and blank lines; parsers, whose lines are flags, are counted apart.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

LAYOUT = (
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
)
SKIPPED = {tokenize.COMMENT, *LAYOUT}
FOLDERS = ("DDA", "DistilledClassifier", "scripts")


def docstrings(module: ast.Module) -> set[int]:
    """The first lines of the docstrings of a module."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [
        node
        for node in ast.walk(module)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None
    ]
    return {node.body[0].lineno for node in nodes}


def code_tokens(text: str) -> list[tokenize.TokenInfo]:
    """The tokens of a source file that are code."""
    lines = docstrings(ast.parse(text))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        token
        for token in tokens
        if token.type not in SKIPPED
        and not (token.type == tokenize.STRING and token.start[0] in lines)
    ]


def lengths(text: str) -> dict[str, int]:
    """Lines of code of each function, by its name and first line."""
    rows = {row for token in code_tokens(text) for row in range(token.start[0], token.end[0] + 1)}
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[f"{node.name}:{node.lineno}"] = sum(
                node.lineno <= row <= node.end_lineno for row in rows
            )
    return found


def is_parser(name: str) -> bool:
    """Whether a function makes a command line: its lines are flags."""
    return name.startswith(("parser:", "_parser:", "add_"))


def measure(root: Path) -> dict[str, object]:
    """Files, tokens, the median, 90th percentile and largest length of functions, and the "
    "longest ones."""
    paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    found = {
        f"{path}:{name}": count
        for path, text in texts.items()
        for name, count in lengths(text).items()
    }
    plain = sorted(count for name, count in found.items() if not is_parser(name.split(":", 1)[1]))
    longest = sorted(
        ((count, name) for name, count in found.items() if not is_parser(name.split(":", 1)[1])),
        reverse=True,
    )
    return {
        "files": len(texts),
        "tokens": sum(len(code_tokens(text)) for text in texts.values()),
        "functions": len(plain),
        "median": plain[len(plain) // 2],
        "p90": plain[int(0.9 * len(plain))],
        "longest": [f"{count} {name}" for count, name in longest[:12]],
    }


def main(argv: list[str] | None = None) -> int:
    """Print the measures of this checkout and of others."""
    roots = [Path(root) for root in (sys.argv[1:] if argv is None else argv)] or [
        Path(__file__).resolve().parents[1]
    ]
    for root in roots:
        print(
            root,
            *(f"{name} {value}" for name, value in measure(root).items() if name != "longest"),
            sep="  ",
        )
        print("  " + "\n  ".join(measure(root)["longest"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
