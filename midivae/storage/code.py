"""The version of the code that does some work: a hash of the module that does it and of all modules of ours it imports.

The import closure is read from the source; nothing is imported. A module is hashed as its syntax tree without
docstrings, so that comments, docstrings and line breaks change nothing. An import counts wherever it stands, inside
functions too, except under `if TYPE_CHECKING:`, which never runs. The `__init__.py` of a package counts where a name is
taken from it (`from midivae.models import load`), and not where one of its modules is imported
(`from midivae.models import coding`): it holds imports alone, and a test checks that.

Offers: `code_version`; `closure` and `imports`, which are also compared with dvc.yaml.
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


def code_version(*modules: str, package: Path = PACKAGE) -> str:
    """A hash of modules and of all that they import, in 16 hex digits: work made by other code is made again.

    Args:
        modules: full names, `midivae.train.trainer`.
        package: the folder of the package `midivae`, for tests.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    return _code_version(frozenset(modules), package)


@cache
def _code_version(modules: frozenset[str], package: Path) -> str:
    files = {path.relative_to(package).as_posix(): path for name in modules for path in closure(name, package)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {_read(path, package).sha256}\n".encode())
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
    return _read(path, package).imports


@dataclass(frozen=True)
class _Source:
    """A file: what it imports, and the hash of its syntax tree."""

    imports: frozenset[Path]
    sha256: str


@cache
def _read(path: Path, package: Path) -> _Source:
    tree = ast.parse(path.read_bytes(), str(path))
    found = frozenset(_imports(tree, package))
    for node in _statements(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return _Source(found, hashlib.sha256(ast.dump(tree).encode()).hexdigest())


def _imports(tree: ast.Module, package: Path) -> Iterator[Path]:
    for node in _statements(tree, runs=True):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if _ours(alias.name, package)]
            found = [_file_of(name, package) for name in names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None and _ours(node.module, package):
            # a module of the package, else a name that the package or module itself has
            whole = _file_of(node.module, package)
            found = [_file_of(f"{node.module}.{alias.name}", package) or whole for alias in node.names]
        else:
            continue
        yield from filter(None, found)


def _statements(node: ast.AST, runs: bool = False) -> Iterator[ast.AST]:
    """A node and all statements inside it; `runs`: without those under `if TYPE_CHECKING:`."""
    if runs and isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        inner = getattr(node, field, ())
        for child in inner if isinstance(inner, list) else ():  # the body of a lambda is no list, and no statement
            yield from _statements(child, runs)


def _ours(module: str, package: Path) -> bool:
    return module.partition(".")[0] == package.name


@cache
def _file_of(module: str, package: Path) -> Path | None:
    """The file of a module of ours; None: there is none of that name."""
    place = package.parent / module.replace(".", "/")
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
