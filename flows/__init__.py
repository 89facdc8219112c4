"""Runs the pipeline unattended: Prefect calls DVC, DVC calls midivae.

The flows:
    pipeline   every stage of dvc.yaml, one task each
    nightly    a night: collect new music, run the pipeline, compare with the champion, promote or keep
    batch      more samples of the champion
    watch      finds runs whose process has ended without a report

Other modules:
    __main__   `python -m flows`: serve, nightly, batch, watch, rollback
    serve      Prefect's server, a worker and the deployments on one machine
    unattended alerts, time limits and recorded processes of the flows
    board      the artifacts of a run, which people see in Prefect's page
    repository the nights' clone, its commits and tags: git and GTO
    dvc        stages under DVC
    process    runs commands and leaves no process behind
    guard      the process that ends a command when its flow ends
    settings   nightly.yaml

The flows know nothing of music: the commands of `midivae` collect files, compare models and publish versions
(`midivae inbox`, `gate`, `drift`, `publish`, `order`). `midivae` does not import this package.

Importing it turns off the telemetry of Prefect, DVC and GTO, unless the environment says otherwise, and excludes the
loopback address from a proxy: Prefect's server listens there.
"""

from __future__ import annotations

import os

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",  # GTO's
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # for a flow without a server on a busy machine
}
for _name, _value in OFFLINE.items():
    os.environ.setdefault(_name, _value)


def exclude_from_proxy(*hosts: str) -> None:
    """Makes this process and its child processes reach hosts without the proxy that the environment names."""
    # programs prefer the lower-case name where both are set
    value = os.environ.get("no_proxy") or os.environ.get("NO_PROXY", "")
    if value.strip() != "*":
        names = dict.fromkeys([*filter(None, value.replace(" ", "").split(",")), *hosts])
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


exclude_from_proxy("127.0.0.1", "localhost")
