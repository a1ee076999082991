#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""All results of build/bench/*.json: one table on standard output, and a drawing of each file's ratios, build/bench/NAME.svg.

A bar is ours beside other, and a line across it the least that it must be. Nothing is measured here.
"""

import argparse
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

from cache import REPOSITORY, Failure

HOME = REPOSITORY / "build/bench"
LABEL, WIDTH, BAR, FIGURES = 420, 400, 18, 260


def rows_of(path: Path) -> dict[str, dict]:
    """The rows of a file: what has a ratio."""
    found = json.loads(path.read_text())
    return {name: row for name, row in found.items() if isinstance(row, dict) and isinstance(row.get("ratio"), int | float)}


def figures(row: dict) -> str:
    """Ours beside other, in words."""
    return f"{row['ours']} : {row['other']} {row['unit']}"


def least_of(row: dict) -> float | None:
    """The least ratio; where a row names a figure of its unit, that figure's part of other."""
    least = row.get("least")
    if least is None or not row["other"]:
        return None
    return least if least <= 10 else least / row["other"]


def draw(name: str, rows: dict[str, dict]) -> ElementTree.ElementTree:
    """Bars of a file's ratios; the thin line is 1."""
    longest = max(1.1, *(row["ratio"] for row in rows.values()))
    scale = WIDTH / longest
    height = (len(rows) + 2) * BAR
    size = {"width": str(LABEL + WIDTH + FIGURES), "height": str(height)}
    root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", **size, **{"font-family": "sans-serif", "font-size": "11"})
    ElementTree.SubElement(root, "rect", **size, fill="white")

    def text(x: float, y: float, words: str, anchor: str = "start") -> None:
        ElementTree.SubElement(root, "text", x=f"{x:.1f}", y=f"{y:.1f}", **{"text-anchor": anchor}).text = words

    def line(ratio: float, top: float, bottom: float, colour: str) -> None:
        x = f"{LABEL + ratio * scale:.1f}"
        ElementTree.SubElement(root, "line", x1=x, x2=x, y1=f"{top:.1f}", y2=f"{bottom:.1f}", stroke=colour)

    text(4, BAR * 0.8, f"{name}: ours / other")
    for number, (label, row) in enumerate(rows.items()):
        top = (number + 1) * BAR + 3
        least = least_of(row)
        fill = "#c0504d" if least and row["ratio"] < least else "#4f81bd"
        bar = {"x": str(LABEL), "y": f"{top:.1f}", "width": f"{row['ratio'] * scale:.1f}", "height": str(BAR - 6)}
        ElementTree.SubElement(root, "rect", **bar, fill=fill)
        text(LABEL - 6, top + 10, label if len(label) < 70 else label[:67] + "…", "end")
        text(LABEL + WIDTH + 6, top + 10, f"{row['ratio']:.3f}  ({figures(row)})")
        if least:
            line(least, top - 2, top + BAR - 4, "black")
    line(1, BAR, height - BAR, "#999999")
    return ElementTree.ElementTree(root)


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    every = {path: rows_of(path) for path in sorted(HOME.glob("*.json"))}
    every = {path: rows for path, rows in every.items() if rows}
    if not every:
        raise Failure(f"no results in {HOME}", "make bench")
    wide = max(len(name) for rows in every.values() for name in rows)
    for path, rows in every.items():
        draw(path.stem, rows).write(path.with_suffix(".svg"), encoding="utf-8", xml_declaration=True)
        print(f"{path.stem}.json, {path.stem}.svg")
        for name, row in rows.items():
            least = least_of(row)
            wanted = "" if least is None else f"  least {least:.3g}{'' if row['ratio'] >= least else ', MISSED'}"
            print(f"  {name:{wide}}  {row['ratio']:6.3f}  {figures(row)}{wanted}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(1)
