"""Fan-out over processes that may crash, hang or eat memory without harm: to this machine's cores or a Dask cluster.

`fan_out` runs a function for each of many *specs* (small picklable descriptions of work: a shard, a batch of samples).
Each call runs in a *guarded child*: a process of its own that serves one spec after another, is killed when it shows
no sign of life for too long or grows too big, and is started anew after that. What a call returns never depends on the
number of workers: numeric libraries get one thread each, and specs never see each other.

A function that works on many items calls `beat(i)` before its i-th: that restarts the clock of the time limit, and
tells which item was in work when the child came to grief. With `retry` the caller turns a failed spec into a milder
one ("the same files, but not the i-th").

Conventions: times in seconds, sizes in bytes. The executor under all this is a `concurrent.futures.Executor`: threads
that own one child each, or `distributed.Client.get_executor` when `compute.scheduler` names a Dask scheduler, whose
workers then own the children.

Offers: `fan_out`, `Outcome`, `Failure`, `Beat`, `local_workers`, `SETTINGS` and `NO_ITEM`.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

from midivae.config.compute import Compute
from midivae.errors import ParamsError, WorkerError
from midivae.workers.child import LENGTH, NO_ITEM, Beat, Page, send

__all__ = ["NO_ITEM", "SETTINGS", "Beat", "Failure", "Outcome", "fan_out", "local_workers"]

log = logging.getLogger(__name__)

START_S = 120.0  # what a child may take to start and import the function's modules, on top of the time limit
CONNECT_S = 15.0  # what a Dask scheduler, or its first worker, may take to answer
LOOK_S = 0.25  # how often a waiting parent looks at the clock: a first beat ends the long grace of the start
IN_FLIGHT = 2  # specs per worker that are submitted at a time: one in work, one waiting
_CHUNK = 1 << 20  # bytes read from a child at a time
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# glibc keeps what is freed for the next arrays instead of giving it back and faulting it in again: a third of the time
# of rasterising rolls; names as in mallopt(3), values in bytes
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": 32 * 2**20, "MALLOC_TRIM_THRESHOLD_": 2**30}
SETTINGS = {  # environment of a child
    **dict.fromkeys(_THREADS, "1"),  # a child is one of several
    **{name: str(size) for name, size in _MALLOC.items()},
}
_PROGRAM = "import sys; sys.path[:] = {path!r}; from midivae.workers.child import main; main({page}, {parent})"


# --- what comes back --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Failure:
    """Why a spec gave no value: its child died, hung, or wanted more memory than it may have.

    Attributes:
        kind: what happened.
        item: the argument of the last `beat`; None: there was none.
        detail: the same in words.
    """

    kind: Literal["crashed", "timeout", "memory"]
    item: int | None
    detail: str


@dataclass(frozen=True)
class Outcome:
    """What became of one spec: the function's value, or a failure."""

    value: Any | None
    failure: Failure | None = None

    def get(self) -> Any:
        """The value, for callers to whom a failure is fatal.

        Raises:
            WorkerError: there is a failure instead.
        """
        if self.failure is not None:
            at = "" if self.failure.item is None else f" at item {self.failure.item}"
            raise WorkerError(f"a worker process {_VERBS[self.failure.kind]}{at}: {self.failure.detail}")
        return self.value


_VERBS = {"crashed": "crashed", "timeout": "hung", "memory": "ran out of memory"}


class _Raised(NamedTuple):
    """An ordinary exception of the function, on its way to the caller."""

    error: Exception
    traceback: str


class _Call(NamedTuple):
    """One spec with all that a worker needs to run it; `job` is a pickle of (fn, spec, memory_bytes)."""

    job: bytes
    time_limit_s: float | None
    memory_bytes: int | None


# --- fan-out ----------------------------------------------------------------------------------------------------------
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
    """Runs `fn(spec, beat)` for each spec in guarded child processes.

    Specs are taken from `specs` as workers become free, so that a hundred thousand of them need no more memory than a
    few. Leaving the loop early, or Ctrl-C, ends the local children at once.

    Args:
        fn: a function at the top level of a module; it and its specs and values must be picklable.
        specs: what to run it for.
        compute: how many workers, or which cluster.
        time_limit_s: how long a child may show no sign of life (a `beat`, its value); None: for ever.
        memory_bytes: by how much a child may grow above its size at the start of the call (Linux); None: any.
        label: what the log calls these specs.
        retry: gets a spec and its failure; returns the spec to run in its place, or None to let the failure stand.

    Yields:
        The index of each spec with its outcome, in the order in which they end.

    Raises:
        Exception: whatever `fn` raised, with the child's traceback as a note; MemoryError becomes a `Failure`.
        ParamsError: the Dask scheduler that `compute` names is of no use.
    """
    pending: dict[Future[Outcome | _Raised], tuple[int, Any]] = {}
    ended: SimpleQueue[Future[Outcome | _Raised]] = SimpleQueue()
    waiting = enumerate(specs)

    with _fleet(compute) as fleet:

        def submit(index: int, spec: Any) -> None:
            job = pickle.dumps((fn, spec, memory_bytes), pickle.HIGHEST_PROTOCOL)
            future = fleet.executor.submit(fleet.run, _Call(job, time_limit_s, memory_bytes))
            pending[future] = index, spec
            future.add_done_callback(ended.put)

        def top_up() -> None:
            while len(pending) < IN_FLIGHT * fleet.workers() and (following := next(waiting, None)) is not None:
                submit(*following)

        top_up()
        while pending:
            future = ended.get()
            index, spec = pending.pop(future)
            outcome = _outcome(future)
            if outcome.failure is not None:
                log.info("%s %d: %s: %s", label, index, outcome.failure.kind, outcome.failure.detail)
                milder = retry(spec, outcome.failure) if retry is not None else None
                if milder is not None:
                    submit(index, milder)
                    continue
            top_up()
            yield index, outcome


def _outcome(future: Future[Outcome | _Raised]) -> Outcome:
    """What a worker sent back; an exception of the function is raised here, in the caller's process."""
    try:
        result = future.result()
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "distributed":
            raise
        raise WorkerError(f"the Dask cluster gave up on a spec: {error}; see the logs of its workers") from error
    if isinstance(result, _Raised):
        result.error.add_note(f"in a worker process:\n{result.traceback}")
        raise result.error
    return result


def local_workers(compute: Compute) -> int:
    """How many children `fan_out` keeps busy on this machine: `compute.workers`, or one per core we may use."""
    if compute.workers is not None:
        return compute.workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- executors --------------------------------------------------------------------------------------------------------
class _Fleet(NamedTuple):
    """Where calls run: an executor, the function to submit to it, and how many calls it runs at a time by now."""

    executor: Executor
    run: Callable[[_Call], Outcome | _Raised]
    workers: Callable[[], int]


@contextmanager
def _fleet(compute: Compute) -> Iterator[_Fleet]:
    with _local(local_workers(compute)) if compute.scheduler is None else _cluster(compute.scheduler) as fleet:
        yield fleet


@contextmanager
def _local(workers: int) -> Iterator[_Fleet]:
    """Threads of this process, each with a child."""
    keeper = _Keeper()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="guard")
    try:
        yield _Fleet(executor, keeper.run, lambda: workers)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        keeper.stop()
        executor.shutdown(wait=True)
        keeper.close()


@contextmanager
def _cluster(address: str) -> Iterator[_Fleet]:
    """The workers of a Dask cluster; each of their threads gets a child."""
    try:
        import distributed
    except ImportError as error:
        raise ParamsError(
            f"compute.scheduler is {address!r}, which needs Dask ({error}); pip install 'midivae[cluster]', or leave "
            "compute.scheduler empty to use this machine"
        ) from error
    connect: Any = distributed.Client  # Dask has no types
    try:
        client = connect(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ParamsError(
            f"compute.scheduler {address!r} cannot be reached ({error}); start one with `dask scheduler`, or leave "
            "compute.scheduler empty to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise ParamsError(
                f"the Dask cluster at {address!r} has no workers; start some: dask worker {address}"
            ) from error
        yield _Fleet(client.get_executor(pure=False), _run_on_cluster, lambda: max(1, sum(client.nthreads().values())))


def _run_on_cluster(call: _Call) -> Outcome | _Raised:
    """Runs a call inside a Dask worker, whose children live as long as it does."""
    return _CLUSTER_KEEPER.run(call)


class _Keeper:
    """Owns the children of this process: one per thread, started when the thread first needs it."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._open = True

    def run(self, call: _Call) -> Outcome | _Raised:
        """Runs a call in this thread's child."""
        child: _Child | None = getattr(self._mine, "child", None)
        if child is None or not child.alive:  # one that sits idle may be killed too, which is no spec's fault
            if child is not None:
                child.close()
            child = self._mine.child = self._start()
        return child.run(call)

    def stop(self) -> None:
        """Ends all children, at once, whatever they are doing; no more are started."""
        with self._lock:
            self._open = False
            for child in self._children:
                child.kill()

    def close(self) -> None:
        """Gives back what the children held; their threads must have ended."""
        for child in self._children:
            child.close()

    def _start(self) -> _Child:
        with self._lock:
            if not self._open:
                raise WorkerError("the work was stopped")
            self._children = {child for child in self._children if child.alive}
            child = _Child()
            self._children.add(child)
        return child


_CLUSTER_KEEPER = _Keeper()


# --- one child --------------------------------------------------------------------------------------------------------
class _Late(Exception):  # noqa: N818 - an event, caught below
    """The child showed no sign of life for too long."""


class _Child:
    """A guarded process: runs calls one at a time, for the one thread that owns it."""

    def __init__(self) -> None:
        handle = _shared_memory()
        try:
            self._page = Page(handle)
            self._process = _spawn(handle)
        finally:
            os.close(handle)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Ends the process; any thread may call this, and again."""
        with suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the process and gives back what it held; for the thread that owns it."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()  # type: ignore[union-attr]
        self._page.close()

    def run(self, call: _Call) -> Outcome | _Raised:
        """Runs a call; after a failure the child is of no more use."""
        self._page.beat(NO_ITEM, START_S)
        kills_before = _oom_kills()
        try:
            send(self._process.stdin.fileno(), call.job)  # type: ignore[union-attr]
            kind, *rest = pickle.loads(self._receive(call.time_limit_s))  # noqa: S301 - from our own child
        except _Late:
            return self._failed("timeout", f"no sign of life for {call.time_limit_s:g} s")
        except (EOFError, BrokenPipeError):
            return self._died(kills_before)
        if kind == "memory":
            limit = "" if call.memory_bytes is None else f"more than {call.memory_bytes / 2**20:g} MiB needed"
            return self._failed("memory", ": ".join(filter(None, (limit, *rest))))
        return Outcome(rest[0]) if kind == "value" else _Raised(*rest)

    def _failed(self, kind: Literal["crashed", "timeout", "memory"], detail: str) -> Outcome:
        item, _ = self._page.read()
        self.close()
        return Outcome(None, Failure(kind, None if item == NO_ITEM else item, detail))

    def _died(self, kills_before: int) -> Outcome:
        """Tells a crash from the system's out-of-memory killer, whose victims are counted."""
        code = self._process.wait()
        if code == -signal.SIGKILL and _oom_kills() > kills_before:
            return self._failed("memory", "killed by the system, which was out of memory")
        return self._failed("crashed", f"exited with code {code}" if code >= 0 else f"killed by {_signal_name(-code)}")

    def _receive(self, time_limit_s: float | None) -> bytes:
        """The child's reply."""
        (length,) = LENGTH.unpack(self._read(LENGTH.size, time_limit_s))
        return self._read(length, time_limit_s)

    def _read(self, length: int, time_limit_s: float | None) -> bytes:
        """Exactly `length` bytes from the child."""
        handle = self._process.stdout.fileno()  # type: ignore[union-attr]
        data = bytearray()
        while len(data) < length:
            self._await(handle, time_limit_s)
            part = os.read(handle, min(_CHUNK, length - len(data)))
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def _await(self, handle: int, time_limit_s: float | None) -> None:
        """Waits until there is something to read, or the child is late."""
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if time_limit_s is None:
            poll.poll()
            return
        while not poll.poll(1000 * min(LOOK_S, max(0.0, self._remaining_s(time_limit_s)))):
            if self._remaining_s(time_limit_s) <= 0:
                raise _Late

    def _remaining_s(self, time_limit_s: float) -> float:
        _, at_s = self._page.read()
        return at_s + time_limit_s - time.monotonic()


def _spawn(page_handle: int) -> subprocess.Popen[bytes]:
    """Starts a child's program, with this process's module path and one thread per numeric library."""
    program = _PROGRAM.format(path=sys.path, page=page_handle, parent=os.getpid())
    try:
        return subprocess.Popen(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-c", program],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(page_handle,),
            env={**os.environ, **SETTINGS},
        )
    except OSError as error:
        raise WorkerError(f"cannot start a worker process: {error}; lower compute.workers") from error


def _shared_memory() -> int:
    """A handle of one page of memory for parent and child."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("midivae-beat")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.write(handle, bytes(Page.SIZE))  # written rather than truncated: a full disk must fail here
    return handle


def _oom_kills() -> int:
    """How many processes the system has killed for want of memory; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
