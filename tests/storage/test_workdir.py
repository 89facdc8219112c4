"""The work directory follows the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from midivae.storage.workdir import work_dir


def test_work_dir_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDIVAE_HOME", "/somewhere")
    assert work_dir() == Path("/somewhere")
    monkeypatch.delenv("MIDIVAE_HOME")
    assert work_dir() == Path(".midivae")
