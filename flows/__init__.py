"""When the pipeline runs, unattended: Prefect calls DVC, DVC calls midivae.

pipeline   every stage of dvc.yaml, one task each
nightly    take what is new, run the pipeline, compare with the champion, promote or keep
batch      an order: more samples of the champion
watch      runs that are said to run and do not

    flows/
      __main__.py    `python -m flows`: serve, nightly, batch, watch, rollback
      serve.py       one machine: server, worker, deployments
      nightly.py pipeline.py batch.py watch.py     the flows
      board.py       what people see of a run: artifacts
      repository.py  the clone, its commits and tags: git and GTO
      dvc.py         stages under DVC
      process.py     commands that leave nothing behind      guard.py  the process that sees to it
      settings.py    nightly.yaml

Nothing here knows music: what is taken in, which model is better, how a version is published is for the commands of
`midivae` to say (`midivae inbox`, `gate`, `drift`, `publish`, `order`). `midivae` knows nothing of this package.

Importing it keeps Prefect, DVC and GTO from sending anything anywhere, unless the environment says otherwise.
"""

from __future__ import annotations

import os

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",  # GTO's
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",  # for a flow without a server, on a busy machine
}
for _name, _value in OFFLINE.items():
    os.environ.setdefault(_name, _value)
