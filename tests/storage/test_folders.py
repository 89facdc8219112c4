"""Folders: published whole or not at all, and verified."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from midivae.errors import InputError
from midivae.storage import folders
from midivae.storage.files import write_bytes


def test_publishing_is_all_or_nothing(tmp_path: Path) -> None:
    with folders.publishing(tmp_path / "out") as staging:
        write_bytes(staging / "sub" / "a.txt", b"one")
    with pytest.raises(RuntimeError), folders.publishing(tmp_path / "out") as staging:
        write_bytes(staging / "sub" / "a.txt", b"two")
        raise RuntimeError
    assert (tmp_path / "out/sub/a.txt").read_bytes() == b"one"
    with folders.publishing(tmp_path / "out") as staging:
        write_bytes(staging / "b.txt", b"three")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.txt", "manifest.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_target_that_is_a_link_is_followed(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "disk").mkdir()
    if exists:
        (tmp_path / "disk" / "rolls").mkdir()
        (tmp_path / "disk" / "rolls" / "old").touch()
    (tmp_path / "data" / "rolls").symlink_to(tmp_path / "disk" / "rolls")
    for _ in range(2):
        with folders.publishing(tmp_path / "data" / "rolls") as staging:
            write_bytes(staging / "new", b"one")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["rolls"]
    assert (tmp_path / "data" / "rolls").readlink() == tmp_path / "disk" / "rolls"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["rolls"]
    assert sorted(path.name for path in (tmp_path / "disk" / "rolls").iterdir()) == ["manifest.json", "new"]


def test_verify_names_what_is_wrong(tmp_path: Path) -> None:
    with folders.publishing(tmp_path / "out") as staging:
        for name in "abc":
            write_bytes(staging / name, name.encode())
    assert folders.verify(tmp_path / "out") == []
    (tmp_path / "out/a").write_bytes(b"A")
    (tmp_path / "out/b").unlink()
    (tmp_path / "out/d").write_bytes(b"d")
    wrong = "\n".join(folders.verify(tmp_path / "out"))
    assert "b: missing" in wrong
    assert "d: not in the manifest" in wrong
    assert "a: sha256 differs" in wrong
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no manifest\.json"):
        folders.verify(tmp_path / "empty")


PUBLISH_FOREVER = """
import sys
from pathlib import Path
from midivae.storage import folders
from midivae.storage.files import write_bytes
round = 0
while True:
    with folders.publishing(Path(sys.argv[1]) / "out") as staging:
        for name in range(20):
            write_bytes(staging / f"{name}.txt", str(round).encode())
    round += 1
    print(round, flush=True)
"""


def test_kill_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", PUBLISH_FOREVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.011 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert folders.verify(tmp_path / "out") == []
        assert len({(tmp_path / f"out/{name}.txt").read_bytes() for name in range(20)}) == 1
    with folders.publishing(tmp_path / "out") as staging:
        write_bytes(staging / "last.txt", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]  # what the killed runs left is gone
