"""Files: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from midivae.errors import CorruptError, InputError
from midivae.storage.files import copy_file, read_json, write_json


def test_a_copy_shares_no_inode(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert (tmp_path / "a").stat().st_ino != (tmp_path / "b").stat().st_ino


def test_what_is_no_json_is_an_error(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": 1}
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(CorruptError, match="not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "b.json")
