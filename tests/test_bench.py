"""Benches compare with packages that the product does not need: where one is missing, a sentence says so."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PEERS = {"miditok", "muspy", "pypianoroll", "symusic"}


def test_a_missing_peer_is_a_sentence() -> None:
    spec = importlib.util.spec_from_file_location("hardware", ROOT / "bench" / "hardware.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.peer("json").loads("1") == 1
    with pytest.raises(SystemExit, match=r"no_such_peer, which is not installed .*\.\[bench\]"):
        module.peer("no_such_peer")


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_no_bench_imports_a_peer_itself(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in names} & PEERS


def test_the_extra_has_the_peers() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {Requirement(text).name for text in extras["bench"]} == PEERS
