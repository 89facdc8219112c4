"""Alerts, and whether the process of a run is alive, by what Prefect stores of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from limits import HANG_S
from prefect.client.schemas.objects import FlowRun

from flows import unattended
from flows.settings import Settings


def test_an_alert_that_fails_is_no_failure(tmp_path: Path) -> None:
    said = tmp_path / "said"
    words = (sys.executable, "-c", f"import sys; open({str(said)!r}, 'w').write(sys.argv[1])")
    unattended.alert(Settings().model_copy(update={"alert": words}), "help")
    assert said.read_text() == "help"
    unattended.alert(Settings().model_copy(update={"alert": ("no-such-command",)}), "help")
    unattended.alert(Settings(), "help")


@pytest.mark.parametrize(
    ("program", "elsewhere", "expected"),
    [("prefect.engine", False, True), ("flows", False, True), ("editor", False, False), ("prefect.engine", True, True)],
)
def test_a_process_is_alive_until_it_is_killed(program: str, elsewhere: bool, expected: bool) -> None:
    words = [sys.executable, "-c", f"print('ready', flush=True)\nimport time\ntime.sleep({HANG_S})", program]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # a worker stores the number alone; a flow records its machine too
        tags = [f"host:another:{process.pid}" if elsewhere else f"{unattended._HOST}{process.pid}"]
        by_worker = FlowRun(flow_id=uuid4(), infrastructure_pid=str(process.pid))
        by_flow = FlowRun(flow_id=uuid4(), tags=tags, infrastructure_pid=str(process.pid))
        assert unattended.has_process(by_flow) is expected
        assert unattended.has_process(by_worker) is (True if expected else None)
        process.kill()
    assert unattended.has_process(by_flow) is (None if elsewhere else False)
    assert unattended.has_process(by_worker) is None
    assert unattended.has_process(FlowRun(flow_id=uuid4())) is None
