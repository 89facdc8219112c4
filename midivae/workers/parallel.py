"""Runs a function many times in child processes, on the cores of this machine or on a Dask cluster.

A call of the function gets a *spec*: a small picklable description of work, such as a shard or a batch of samples. A
child process may crash, hang or run out of memory: only its call fails, and a new child is started. What a call returns
does not depend on the number of workers: numeric libraries use one thread each, and calls share nothing.

A function that works on many items calls `beat(i)` before item i. This restarts the clock of the time limit, and tells
which item a child was working on when it failed. With `retry` the caller replaces a failed spec by another, such as
"the same files without number i".

Conventions: times in seconds, sizes in bytes.

Offers: `fan_out`.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from midivae.config.compute import Compute
from midivae.errors import WorkerError
from midivae.workers.child import Beat
from midivae.workers.guard import Call
from midivae.workers.outcome import Failure, FunctionError, Outcome
from midivae.workers.pools import pool

_SUBMITTED = 2  # specs for each worker that are submitted at a time: one runs, one waits

log = logging.getLogger(__name__)


def fan_out(
    fn: Callable[[Any, Beat], Any],
    specs: Iterable[Any],
    compute: Compute,
    *,
    time_limit_s: float | None = None,
    memory_bytes: int | None = None,
    label: str = "work",
    retry: Callable[[Any, Failure], Any | None] | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Runs `fn(spec, beat)` for each spec in child processes.

    Specs are taken from `specs` when workers become free, so a hundred thousand need no more memory than a few. If the
    caller leaves the loop early, or by Ctrl-C, the local children are killed at once.

    Args:
        fn: a function at the top level of a module; it, its specs and its values must be picklable.
        specs: what to run it for.
        compute: how many workers, or which cluster.
        time_limit_s: the longest time between two beats, or between the last one and the value; None: no limit.
        memory_bytes: how much a child may grow above its size at the start of the call (Linux); None: no limit.
        label: what the log calls these specs.
        retry: gets a spec and its failure; returns the spec to run instead, or None to yield the failure.

    Yields:
        The index of each spec with its outcome, in the order in which they end.

    Raises:
        Exception: what `fn` raised, with the traceback of the child as a note; MemoryError becomes a `Failure`.
        ParamsError: the Dask scheduler that `compute` names cannot be used.
    """
    submitted: dict[Future[Outcome | FunctionError], tuple[int, Any]] = {}
    ended: SimpleQueue[Future[Outcome | FunctionError]] = SimpleQueue()
    waiting = enumerate(specs)

    with pool(compute) as workers:

        def submit(index: int, spec: Any) -> None:
            request = pickle.dumps((fn, spec, memory_bytes), pickle.HIGHEST_PROTOCOL)
            future = workers.executor.submit(workers.run, Call(request, time_limit_s, memory_bytes))
            submitted[future] = index, spec
            future.add_done_callback(ended.put)

        def submit_more() -> None:
            while len(submitted) < _SUBMITTED * workers.workers() and (following := next(waiting, None)) is not None:
                submit(*following)

        submit_more()
        while submitted:
            future = ended.get()
            index, spec = submitted.pop(future)
            outcome = _outcome(future)
            if outcome.failure is not None:
                log.info("%s %d: %s: %s", label, index, outcome.failure.kind, outcome.failure.detail)
                replacement = retry(spec, outcome.failure) if retry is not None else None
                if replacement is not None:
                    submit(index, replacement)
                    continue
            submit_more()
            yield index, outcome


def _outcome(future: Future[Outcome | FunctionError]) -> Outcome:
    """What a worker sent back; an exception of the function is raised here, in the process of the caller."""
    try:
        result = future.result()
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "distributed":
            raise
        raise WorkerError(f"the Dask cluster gave up on a spec: {error}; see the logs of its workers") from error
    if isinstance(result, FunctionError):
        result.error.add_note(f"in a worker process:\n{result.traceback}")
        raise result.error
    return result
