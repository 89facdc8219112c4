"""Where calls run: in children of this process, or in children of the workers of a Dask cluster.

Both are an executor of `concurrent.futures`: threads that own one child process each, or the executor of
`distributed.Client`, if `compute.scheduler` names a Dask scheduler.

Offers: `pool` and `Pool`, `local_workers`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from midivae.config.compute import Compute
from midivae.errors import ParamsError, WorkerError
from midivae.workers.guard import Call, GuardedProcess
from midivae.workers.outcome import FunctionError, Outcome

CONNECT_S = 15.0  # timeout for a Dask scheduler, and for its first worker


class Pool(NamedTuple):
    """An executor, the function to submit to it, and how many calls it runs at a time at the moment."""

    executor: Executor
    run: Callable[[Call], Outcome | FunctionError]
    workers: Callable[[], int]


def pool(compute: Compute) -> AbstractContextManager[Pool]:
    """The pool that `compute` names; at the end of the block, its calls are cancelled and local children are killed.

    Raises:
        ParamsError: the Dask scheduler cannot be used.
    """
    return _local(local_workers(compute)) if compute.scheduler is None else _cluster(compute.scheduler)


def local_workers(compute: Compute) -> int:
    """The number of children on this machine: `compute.workers`, or one for each core that we may use."""
    if compute.workers is not None:
        return compute.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Children:
    """The children of this process: one for each thread, started when the thread first needs it."""

    def __init__(self) -> None:
        self._of_thread = threading.local()
        self._all: set[GuardedProcess] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, call: Call) -> Outcome | FunctionError:
        """Runs a call in the child of this thread."""
        child: GuardedProcess | None = getattr(self._of_thread, "child", None)
        if child is None or not child.alive:  # an idle child may have been killed; no call failed then
            if child is not None:
                child.close()
            child = self._of_thread.child = self._start()
        return child.run(call)

    def stop(self) -> None:
        """Kills all children; no more are started."""
        with self._lock:
            self._stopped = True
            for child in self._all:
                child.kill()

    def close(self) -> None:
        """Frees what the children held; their threads must have ended."""
        for child in self._all:
            child.close()

    def _start(self) -> GuardedProcess:
        with self._lock:
            if self._stopped:
                raise WorkerError("the work was stopped")
            self._all = {child for child in self._all if child.alive}
            child = GuardedProcess()
            self._all.add(child)
        return child


@contextmanager
def _local(workers: int) -> Iterator[Pool]:
    """Threads of this process, each with a child."""
    children = _Children()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="guard")
    try:
        yield Pool(executor, children.run, lambda: workers)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        children.stop()
        executor.shutdown(wait=True)
        children.close()


@contextmanager
def _cluster(address: str) -> Iterator[Pool]:
    """The workers of a Dask cluster; each of their threads has a child."""
    this_machine = "leave compute.scheduler empty to use this machine"
    try:
        import distributed
    except ImportError as error:
        raise ParamsError(
            f"compute.scheduler is {address!r}, which needs Dask ({error}); pip install 'midivae[cluster]', or "
            f"{this_machine}"
        ) from error
    connect: Any = distributed.Client  # Dask has no types
    try:
        client = connect(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParamsError(
            f"compute.scheduler {address!r} cannot be reached ({error}); start one with `dask scheduler`, or "
            f"{this_machine}"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise ParamsError(
                f"the Dask cluster at {address!r} has no workers; start some: dask worker {address}"
            ) from error
        yield Pool(client.get_executor(pure=False), _run_on_cluster, lambda: max(1, sum(client.nthreads().values())))


_CHILDREN_OF_DASK_WORKER = _Children()


def _run_on_cluster(call: Call) -> Outcome | FunctionError:
    """Runs a call inside a Dask worker, whose children live as long as the worker."""
    return _CHILDREN_OF_DASK_WORKER.run(call)
