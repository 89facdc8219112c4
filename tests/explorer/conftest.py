"""A small trained data folder, a session and a server, for all tests of the explorer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from explored import PARAMS
from four_part import piece
from inline import in_this_process
from pieces import as_fetched

from midivae.explorer import uploads
from midivae.explorer.server import Server
from midivae.explorer.session import Session
from midivae.generate import parts
from midivae.generate import stage as generate
from midivae.ingest import stage as ingest
from midivae.models import coding, controls, fit_controls
from midivae.music import smf
from midivae.train import stage as train


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with rolls, models and a few samples; one piece has a hostile name."""
    data = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIDIVAE_HOME", str(data / "work"))
        patch.setattr(parts, "fan_out", in_this_process)
        patch.setattr(coding, "BLOCK", 8)
        files = {f"{i:02}.mid": smf.write(piece(i)) for i in range(30)}
        as_fetched(data, files | {"<script>alert(1)<!--.mid": smf.write(piece(99))})
        patch.setattr(fit_controls, "CALIBRATED_ON", 16)
        patch.setattr(controls, "LEAST_EXPLAINED", 0.1)  # the model is small and trained for seconds
        for stage in (ingest, train, generate):
            stage.run(PARAMS, data)
    return data


@pytest.fixture
def data(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, to keep samples in; uploads are parsed in this process."""
    (tmp_path / "data").mkdir()
    for name in ("rolls", "model", "samples"):
        (tmp_path / "data" / name).symlink_to(trained / name)
    monkeypatch.setenv("MIDIVAE_HOME", str(trained / "work"))
    monkeypatch.setattr(uploads, "fan_out", in_this_process)
    monkeypatch.setattr(controls, "LEAST_EXPLAINED", 0.1)
    return tmp_path / "data"


@pytest.fixture
def session(data: Path) -> Iterator[Session]:
    session = Session(PARAMS, data)
    yield session
    session.close()


@pytest.fixture
def server(session: Session) -> Iterator[Server]:
    with Server(session, 0) as server:
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield server
        server.stop()
        thread.join()
