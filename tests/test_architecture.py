"""The rooms of the house: what may import what, read from the source without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import terraprompt

SRC = Path(terraprompt.__file__).parent
#: From the ground up: a room imports only itself and rooms before it. The package's face has no room.
ROOMS = [
    "errors", "prompt", "geometry", "io", "raster", "language", "models", "segmenters", "vlm", "engines", "outputs",
    "flow", "datasets", "evaluation", "training", "forge", "batch", "service", "testing", "cli", "__main__",
]  # fmt: skip
RENDERER = "terraprompt_synthetic"

#: Violations that exist today; one that is gone must be struck out here.
KNOWN: set[str] = set()

MODULES = {
    ".".join(("terraprompt", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SRC.rglob("*.py"))
}


def imports(node: ast.AST, *, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Names of the modules that a syntax tree imports, each with whether that waits for a call."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, f"relative import in line {child.lineno}"
            names = (f"{child.module}.{alias.name}" for alias in child.names)
            yield from ((name if name in MODULES else str(child.module), lazy) for name in names)
        else:
            yield from imports(child, lazy=lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


GRAPH = {module: set(imports(ast.parse(path.read_text(encoding="utf-8")))) for module, path in MODULES.items()}


def room(module: str) -> str:
    """The part after the package's name."""
    return module.partition(".")[2].partition(".")[0]


def order_violations() -> Iterator[str]:
    """Imports that go up, and imports of the renderer other than inside a function of cli or training."""
    for module, imported in GRAPH.items():
        for name, lazy in sorted(imported):
            up = name in MODULES and room(name) and room(module) and ROOMS.index(room(name)) > ROOMS.index(room(module))
            renderer = name.split(".")[0] == RENDERER and not (lazy and room(module) in {"cli", "training"})
            if up or renderer:
                yield f"{module} -> {name}"


def circles() -> Iterator[str]:
    """Modules that import each other when they load or for their types, a circle a time until none is left."""
    graph = {
        module: {name for name, lazy in imported if name in MODULES and not lazy and name != module}
        for module, imported in GRAPH.items()
        if module != "terraprompt"  # loads names on first use
    }
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return
        except CycleError as error:
            circle = error.args[1][1:]
            yield f"circle: {', '.join(sorted(circle))}"
            for module in circle:
                graph[module] -= set(circle)


def test_every_module_has_a_room():
    assert {room(module) for module in MODULES} - {""} <= {*ROOMS, "weights"}


def test_a_room_imports_only_rooms_before_it_and_no_module_imports_in_a_circle():
    found = {*order_violations(), *circles()}
    assert found - KNOWN == set(), "new violations"
    assert KNOWN - found == set(), "gone: strike them out of KNOWN"
