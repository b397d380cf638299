"""Draw which files and packages of src/sod import which: `python docs/figures/layers.py [OUT.png]`.

A row is a level: everything in it imports from lower rows alone. The drawing is computed from the import statements.
"""

import ast
import sys
from pathlib import Path

import matplotlib.pyplot as plt

SOURCE = Path(__file__).parents[2] / "src"


def place(module: str) -> str:
    """Return the file or package of src/sod that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def arrows() -> set[tuple[str, str]]:
    """Return each pair (importing, imported) of files and packages."""
    modules = {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }
    found: set[tuple[str, str]] = set()
    for module, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {(place(module), place(name)) for name in names if name.startswith("sod.")}
    places = {place(module) for module in modules}
    return {(here, there) for here, there in found if here != there and {here, there} <= places and here and there}


def levels(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """Return the places from low to high, each as low as its imports allow. Raises ValueError for a circle."""
    left, rows = {name for arrow in arrows for name in arrow}, []
    while left:
        free = {name for name in left if not any(here == name and there in left for here, there in arrows)}
        if not free:
            raise ValueError(f"{', '.join(sorted(left))} import each other in a circle")
        rows.append(sorted(free))
        left -= free
    return rows


def main(out: str) -> None:
    drawn = arrows()
    rows = levels(drawn)
    at = {name: ((i + 0.5) / len(row), level) for level, row in enumerate(rows) for i, name in enumerate(row)}
    _, axes = plt.subplots(figsize=(11, 0.8 * len(rows)))
    for here, there in drawn:
        axes.annotate(
            "", at[there], at[here], arrowprops={"arrowstyle": "-", "color": "#6b7a90", "alpha": 0.25, "shrinkA": 8}
        )
    for name, (x, y) in at.items():
        axes.text(
            x, y, name, ha="center", va="center", fontsize=9, bbox={"boxstyle": "round", "fc": "white", "ec": "#2f5d8a"}
        )
    axes.set(xlim=(0, 1), ylim=(-0.5, len(rows) - 0.5))
    axes.axis("off")
    axes.set_title(f"src/sod: {len(at)} files and packages, {len(drawn)} imports, all of them downwards", fontsize=10)
    plt.savefig(out, dpi=75, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_name("layers.png")))
