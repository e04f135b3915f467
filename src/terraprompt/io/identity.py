"""Fingerprints of code and data: kept work is used again only while what it was made with is the same."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

__all__ = ["code_files", "code_fingerprint", "file_sha256"]

#: Folder of the package: modules are found by their path, without importing them.
_ROOT = Path(__file__).parents[1]


def file_sha256(path: Path) -> str:
    """Hash a file's bytes: sha256, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def code_fingerprint(*sources: ModuleType | str | Path) -> str:
    """Hash the code and data that a result depends on: sha256, hex.

    Args:
        sources: modules of this package, by object or dotted name, with all they depend on (:func:`code_files`); or
            paths of further files, hashed by content.
    """
    files = {source for source in sources if isinstance(source, Path)}
    files |= code_files(*(source for source in sources if not isinstance(source, Path)))
    lines = []
    for path in files:
        name = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else path.name
        lines.append(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def code_files(*modules: ModuleType | str) -> set[Path]:
    """Find the files that modules of this package depend on.

    Those are the modules' sources, what they import from the package (also inside functions; not what is imported for
    type checking alone), and the data files beside a module that its source names in a string.
    """
    found: set[Path] = set()
    waiting = [module if isinstance(module, str) else module.__name__ for module in modules]
    while waiting:
        path = _source_of(waiting.pop())
        if path is not None and path not in found:
            imported, data = _dependencies(path, path.stat().st_mtime_ns)
            found |= {path, *data}
            waiting += imported
    return found


def _source_of(name: str) -> Path | None:
    """Source file of a module of this package; None for anything else, e.g. a function in a module."""
    package, *parts = name.split(".")
    path = _ROOT.joinpath(*parts)
    candidates = (path.with_suffix(".py"), path / "__init__.py") if package == _ROOT.name else ()
    return next((candidate for candidate in candidates if candidate.is_file()), None)


@cache
def _dependencies(path: Path, changed: int) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """Names of imported modules, and data files; ``changed`` is the time of the file's last change."""
    imported: list[str] = []
    data: list[Path] = []
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            # the package itself counts only where something is imported from it that is no module inside
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if _source_of(name) is not None]
            imported += modules if len(modules) == len(inside) else [*modules, node.module]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isprintable():
            beside = path.parent / node.value[:200]
            if beside.suffix not in ("", ".py") and beside.is_relative_to(path.parent) and beside.is_file():
                data.append(beside)
    return tuple(imported), tuple(data)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _executed(node)
