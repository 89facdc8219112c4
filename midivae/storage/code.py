"""The version of the code that does some work: a hash of a module and of all modules of ours that it imports.

The import closure is read from the source; nothing is imported. A module is hashed as its syntax tree without
docstrings, so comments, docstrings and line breaks change nothing. An import counts wherever it stands, inside
functions too, except under `if TYPE_CHECKING:`, which never runs. The `__init__.py` of a package counts if a name is
taken from it (`from midivae.models import load`), and not if one of its modules is imported
(`from midivae.models import coding`): it holds imports alone, and a test checks that.

Offers: `code_version`; `closure` and `imports`, which tests compare with dvc.yaml.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@cache  # the version of the code that runs, even if a file changes meanwhile
def code_version(*modules: str, package: Path = PACKAGE) -> str:
    """A hash of modules and of all that they import, in 16 hex digits: other code makes finished work stale.

    Args:
        modules: full names, such as `midivae.train.trainer`.
        package: the folder of the package `midivae`, for tests.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    files = {path.relative_to(package).as_posix(): path for name in modules for path in closure(name, package)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {_parse(path.read_bytes()).sha256}\n".encode())
    return digest.hexdigest()[:16]


def closure(module: str, package: Path = PACKAGE) -> frozenset[Path]:
    """The files of a module and of all modules of ours that it imports, directly or not.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    start = _file_of(module, package)
    if start is None:
        raise ModuleNotFoundError(f"no module {module!r} in {package}", name=module)
    seen: set[Path] = set()
    todo = [start]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += imports(path, package)
    return frozenset(seen)


def imports(path: Path, package: Path = PACKAGE) -> frozenset[Path]:
    """The files of ours that one file imports."""
    files: set[Path] = set()
    for module, name in _parse(path.read_bytes()).imports:
        if module.partition(".")[0] == package.name:
            # `name` is a module of the package `module`, or something that `module` itself defines
            file = (_file_of(f"{module}.{name}", package) if name else None) or _file_of(module, package)
            files.update([file] if file is not None else [])
    return frozenset(files)


def _file_of(module: str, package: Path) -> Path | None:
    """The file of a module of ours; None: there is no such module."""
    path = package.parent / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


@dataclass(frozen=True)
class _Source:
    """A file: the modules and names that it imports, and the hash of its syntax tree."""

    imports: tuple[tuple[str, str | None], ...]
    sha256: str


@cache
def _parse(source: bytes) -> _Source:
    tree = ast.parse(source)
    names = tuple(_imported(tree))
    for node in _statements(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return _Source(names, hashlib.sha256(ast.dump(tree).encode()).hexdigest())


def _imported(tree: ast.Module) -> Iterator[tuple[str, str | None]]:
    for node in _statements(tree, runs=True):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield from ((node.module, alias.name) for alias in node.names)


def _statements(node: ast.AST, runs: bool = False) -> Iterator[ast.AST]:
    """A node and all statements inside it; `runs`: without those under `if TYPE_CHECKING:`."""
    if runs and isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, ())
        for child in inner if isinstance(inner, list) else ():  # the body of a lambda is no list, and no statement
            yield from _statements(child, runs)
