#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A small linter for the tests' Python, with the standard library only: it must compile, without names that are imported
and not used, bare excepts, tabs, long lines or missing docstrings and licence lines."""

import ast
import sys
from pathlib import Path

WIDTH = 150


def complaints(path: Path) -> list[str]:
    """What is wrong with one file."""
    text = path.read_text(encoding="utf-8")
    out = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > WIDTH:
            out.append(f"{path}:{number}: longer than {WIDTH}")
        if "\t" in line or line != line.rstrip():
            out.append(f"{path}:{number}: tab or trailing space")
    if "SPDX-License-Identifier: GPL-2.0-or-later" not in text[:200]:
        out.append(f"{path}:1: no SPDX line")
    tree = ast.parse(text, str(path))
    if not ast.get_docstring(tree):
        out.append(f"{path}:1: no docstring")
    imported: dict[str, int] = {}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in node.names:
                imported[(name.asname or name.name).split(".")[0]] = node.lineno
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            out.append(f"{path}:{node.lineno}: bare except")
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            public = isinstance(node, ast.ClassDef) or (len(node.body) > 6 and node.name != "main")
            if public and not ast.get_docstring(node):
                out.append(f"{path}:{node.lineno}: {node.name} has no docstring")
    out += [f"{path}:{line}: {name} is imported and not used" for name, line in imported.items() if name not in used]
    return out


def main() -> int:
    found = []
    for root in sys.argv[1:]:
        for path in sorted(Path(root).iterdir()):
            if path.is_file() and (path.suffix == ".py" or path.read_bytes()[:22] == b"#!/usr/bin/env python3"):
                found += complaints(path)
    print("\n".join(found) if found else "Python: nothing to say")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
