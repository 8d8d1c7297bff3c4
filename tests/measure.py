#!/usr/bin/env python3
"""Measure the size of the product: tokens of code and the lengths of functions.

  tests/measure.py                  this checkout
  tests/measure.py OTHER CHECKOUT   several checkouts

The files of DDA, DistilledClassifier and scripts are counted. A token of code is none of a comment
or a docstring. The length of a function is the number of its lines without its docstring,
decorators, comments and blank lines. Parsers are left out, because their lines are flags.
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
    """Return the first lines of the docstrings of a module."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [
        node
        for node in ast.walk(module)
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None
    ]
    return {node.body[0].lineno for node in nodes}


def code_tokens(text: str) -> list[tokenize.TokenInfo]:
    """Return the tokens of a source file that are code."""
    lines = docstrings(ast.parse(text))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return [
        token
        for token in tokens
        if token.type not in SKIPPED
        and not (token.type == tokenize.STRING and token.start[0] in lines)
    ]


def lengths(text: str) -> dict[str, int]:
    """Return the lines of code of each function, by its name and first line."""
    rows = {row for token in code_tokens(text) for row in range(token.start[0], token.end[0] + 1)}
    counts = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            own = rows.intersection(range(node.lineno, node.end_lineno + 1))
            counts[f"{node.name}:{node.lineno}"] = len(own)
    return counts


def is_parser(name: str) -> bool:
    """Tell whether a function makes a command line, so that its lines are flags."""
    return name.startswith(("parser:", "_parser:", "add_"))


def measure(root: Path) -> dict[str, object]:
    """Return the measures of a checkout, by name.

    They are the numbers of files, tokens and functions, the median and the 90th percentile of the
    lengths of functions, and the longest functions.
    """
    paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    texts = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    functions = []
    for path, text in texts.items():
        counts = lengths(text)
        functions += [(counts[name], f"{path}:{name}") for name in counts if not is_parser(name)]
    functions.sort(reverse=True)
    plain = sorted(count for count, _ in functions)
    return {
        "files": len(texts),
        "tokens": sum(len(code_tokens(text)) for text in texts.values()),
        "functions": len(plain),
        "median": plain[len(plain) // 2],
        "p90": plain[int(0.9 * len(plain))],
        "longest": [f"{count} {name}" for count, name in functions[:12]],
    }


def main(argv: list[str] | None = None) -> int:
    """Print the measures of this checkout and of others."""
    roots = [Path(root) for root in (sys.argv[1:] if argv is None else argv)] or [
        Path(__file__).resolve().parents[1]
    ]
    for root in roots:
        sizes = measure(root)
        longest = sizes.pop("longest")
        print(root, *(f"{name} {value}" for name, value in sizes.items()), sep="  ")
        print("  " + "\n  ".join(longest))
    return 0


if __name__ == "__main__":
    sys.exit(main())
