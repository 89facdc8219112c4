"""Fixtures of the tests of `fetch`."""

from __future__ import annotations

from pathlib import Path

import pytest

from midivae.fetch import transfer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work directory of its own, no waiting between attempts, and no proxy."""
    monkeypatch.setenv("MIDIVAE_HOME", str(tmp_path / "work"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "BACKOFF_S", 0.001)
    return tmp_path / "work"
