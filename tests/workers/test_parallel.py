"""Tests of midivae.workers.parallel: with real children that really crash, hang and eat memory."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cluster import two_workers
from guarded import (
    allocate,
    chatter,
    digest,
    hang_in_c,
    kill_self,
    leave,
    pattern,
    process_id,
    raise_midi_error,
    raise_unportable,
    read_stdin,
    segfault_at,
    sleep_items,
    sleep_silently,
    slow_square,
    square,
    threads,
)
from limits import HANG_S, WAIT_S

from midivae.config.compute import Compute
from midivae.errors import MidiError, ParamsError, WorkerError
from midivae.workers.outcome import Failure, Outcome
from midivae.workers.parallel import fan_out
from midivae.workers.pools import local_workers

ONE = Compute(workers=1)
THREE = Compute(workers=3)
MIB = 2**20


def results(fn: object, specs: object, compute: Compute = ONE, **more: object) -> list[Outcome]:
    """The outcomes in the order of the specs."""
    found = dict(fan_out(fn, specs, compute, **more))  # type: ignore[arg-type]
    return [found[i] for i in range(len(found))]


def values(*args: object, **more: object) -> list[object]:
    return [outcome.get() for outcome in results(*args, **more)]  # type: ignore[arg-type]


# --- values -----------------------------------------------------------------------------------------------------------
def test_values_are_the_same_with_any_number_of_workers() -> None:
    wanted = [i * i for i in range(40)]
    assert values(square, range(40), ONE) == wanted
    assert values(square, iter(range(40)), THREE) == wanted
    assert values(square, [], THREE) == []


def test_a_child_serves_one_spec_after_another() -> None:
    ids = values(process_id, range(8), ONE)
    assert len(set(ids)) == 1
    assert ids[0] != os.getpid()


def test_big_specs_and_values_pass_whole() -> None:
    big = bytes(range(251)) * 100_000  # 25 MB, far beyond a pipe's buffer
    assert values(pattern, [100_000]) == [big]
    assert values(digest, [big, big]) == [hashlib.sha256(big).hexdigest()] * 2


def test_output_of_the_function_cannot_break_the_protocol(capfd: pytest.CaptureFixture[str]) -> None:
    assert values(chatter, ["one", "two"]) == ["one", "two"]
    out, err = capfd.readouterr()
    assert out == ""
    for words in ("python says one", "handle 1 says", "C says"):
        assert words in err


def test_children_see_one_thread_and_an_empty_stdin() -> None:
    assert values(threads, [0]) == ["1"]
    assert values(read_stdin, [0]) == [""]


def test_local_workers() -> None:
    assert local_workers(Compute(workers=5)) == 5
    assert local_workers(Compute()) == len(os.sched_getaffinity(0))


# --- flat memory ------------------------------------------------------------------------------------------------------
def test_specs_are_taken_as_workers_become_free() -> None:
    taken = []

    def specs() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    ahead = []
    for done, _ in enumerate(fan_out(square, specs(), THREE)):
        ahead.append(len(taken) - done)
    assert len(taken) == 50
    assert max(ahead) <= 2 * 3 + 1  # two per worker, and the one being handed over


# --- failures ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compute", [ONE, THREE])
def test_a_crash_costs_one_spec_and_names_the_item(compute: Compute) -> None:
    # specs 1 and 3 crash at their items 2 and 0; the others add up
    specs = [[1, 2], [1, 2, -1, 4], [5], [-1], [6, 7]]
    first, second, third, fourth, fifth = results(segfault_at, specs, compute)
    assert (first.get(), third.get(), fifth.get()) == (3, 5, 13)
    assert second.failure == Failure("crashed", 2, "killed by SIGSEGV")
    assert fourth.failure == Failure("crashed", 0, "killed by SIGSEGV")
    with pytest.raises(WorkerError, match="crashed at item 2: killed by SIGSEGV"):
        second.get()


def test_sigkill_without_evidence_of_the_memory_killer_is_a_crash() -> None:
    (outcome,) = results(kill_self, [signal.SIGKILL])
    assert outcome.failure == Failure("crashed", None, "killed by SIGKILL")


def test_sigkill_with_evidence_is_a_matter_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([3, 4])
    monkeypatch.setattr("midivae.workers.guard._oom_kills", lambda: next(counts))
    (outcome,) = results(kill_self, [signal.SIGKILL])
    assert outcome.failure is not None
    assert outcome.failure.kind == "memory"


def test_leaving_the_process_is_a_crash() -> None:
    assert [o.failure for o in results(leave, [0, 3])] == [
        Failure("crashed", None, "exited with code 0"),
        Failure("crashed", None, "exited with code 3"),
    ]


def test_a_beat_restarts_the_clock() -> None:
    # 5 x 0.8 s is above the limit of 3 s, but each item is far below it; the last spec hangs at its item 1
    specs = [[0.8] * 5, [0.0, HANG_S, 0.0]]
    fine, hung = results(sleep_items, specs, time_limit_s=3.0)
    assert fine.get() == 5
    assert hung.failure == Failure("timeout", 1, "no heartbeat for 3 s")


def test_a_hang_that_holds_the_interpreter_is_ended() -> None:
    (outcome,) = results(hang_in_c, [0], time_limit_s=2.0)
    assert outcome.failure == Failure("timeout", 7, "no heartbeat for 2 s")


def test_a_hang_before_the_first_item_is_ended() -> None:
    (outcome,) = results(sleep_silently, [HANG_S], time_limit_s=0.3)
    assert outcome.failure == Failure("timeout", None, "no heartbeat for 0.3 s")


def test_the_memory_limit_is_for_the_function_not_for_sending_its_value() -> None:
    (value,) = values(pattern, [250_000], memory_bytes=100 * MIB)  # 63 MB, and as much again on its way
    assert len(value) == 251 * 250_000  # type: ignore[arg-type]


def test_memory_limit_counts_from_the_childs_size() -> None:
    few, many, again = results(allocate, [100 * MIB, 300 * MIB, 100 * MIB], memory_bytes=200 * MIB)
    assert few.get() == again.get() == 100 * MIB
    assert many.failure is not None
    assert (many.failure.kind, many.failure.item) == ("memory", 4)
    assert many.failure.detail.startswith("more than 200 MiB needed")
    assert values(allocate, [300 * MIB]) == [300 * MIB]  # no limit, no failure


def test_retry_turns_a_failed_spec_into_a_milder_one() -> None:
    seen = []

    def without_item(spec: list[int], failure: Failure) -> list[int] | None:
        seen.append(failure.kind)
        assert failure.item is not None
        return [*spec[: failure.item], *spec[failure.item + 1 :]]

    assert values(segfault_at, [[1, -1, 2, -1], [3]], ONE, retry=without_item) == [3, 3]
    assert seen == ["crashed", "crashed"]
    (kept,) = results(segfault_at, [[-1]], retry=lambda spec, failure: None)
    assert kept.failure is not None


# --- ordinary exceptions ----------------------------------------------------------------------------------------------
def test_our_errors_reach_the_caller_whole() -> None:
    with pytest.raises(MidiError, match=r"a\.mid: no notes") as caught:
        results(raise_midi_error, ["a.mid"])
    assert caught.value.code == "no-notes"
    assert "in raise_midi_error" in caught.value.__notes__[0]  # the child's traceback


def test_an_error_that_cannot_travel_is_told_in_words() -> None:
    with pytest.raises(WorkerError, match="UnportableError: 1 and 2"):
        results(raise_unportable, [0])


def test_a_function_the_child_cannot_import_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="local"):
        results(lambda spec, beat: 0, [0])


# --- no child outlives its parent -------------------------------------------------------------------------------------
def running(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> set[int]:
    """Process ids of the children of all threads of `pid`."""
    lists = (path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return {int(child) for ids in lists for child in ids}


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_leaving_the_loop_ends_the_children() -> None:
    before = children_of(os.getpid())
    with closing(fan_out(sleep_items, [[0.0], [HANG_S], [HANG_S]], THREE)) as outcomes:  # type: ignore[type-var]
        assert next(outcomes) == (0, Outcome(1))
        assert len(children_of(os.getpid()) - before) == 3
    assert children_of(os.getpid()) == before


PARENT = """
import sys
from midivae.workers.parallel import fan_out
from midivae.config.compute import Compute
from guarded import {fn}
if __name__ == "__main__":
    list(fan_out({fn}, [{spec}] * 4, Compute(workers=2)))
"""


@contextmanager
def parent_of(fn: str, spec: str) -> Iterator[tuple[subprocess.Popen[bytes], set[int]]]:
    """A process in the middle of a fan-out over two children that will not end, and those children."""
    program = PARENT.format(fn=fn, spec=spec)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.PIPE) as parent:
        try:
            wait_for(lambda: len(children_of(parent.pid)) == 2)
            children = children_of(parent.pid)
            time.sleep(0.5)  # let them reach the function; the test holds at any moment
            yield parent, children
        finally:
            parent.kill()
            parent.communicate()


@pytest.mark.parametrize(("fn", "spec"), [("hang_in_c", "0"), ("sleep_items", f"[{HANG_S}]")])
def test_children_die_when_the_parent_is_killed(fn: str, spec: str) -> None:
    with parent_of(fn, spec) as (parent, children):
        assert all(running(pid) for pid in children)
        parent.kill()
        wait_for(lambda: not any(running(pid) for pid in children))


def test_ctrl_c_ends_parent_and_children_at_once() -> None:
    with parent_of("hang_in_c", "0") as (parent, children):
        for pid in (*children, parent.pid):  # a terminal tells them all
            os.kill(pid, signal.SIGINT)
        assert parent.wait(timeout=WAIT_S) == -signal.SIGINT
        wait_for(lambda: not any(running(pid) for pid in children))


# --- Dask -------------------------------------------------------------------------------------------------------------
def test_scheduler_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("midivae.workers.pools.CONNECT_S", 0.3)
    with pytest.raises(ParamsError, match=r"'tcp://127\.0\.0\.1:9'.*cannot be reached.*dask scheduler"):
        results(square, [1], Compute(scheduler="tcp://127.0.0.1:9"))


def test_scheduler_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ParamsError, match=r"pip install 'midivae\[cluster\]'"):
        results(square, [1], Compute(scheduler="tcp://127.0.0.1:8786"))


@pytest.mark.server
def test_a_cluster_gives_the_same_values_though_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    wanted = [i * i for i in range(60)]
    with two_workers(tmp_path) as (address, first, second):
        found, owners, children = {}, set(), set()
        for index, outcome in fan_out(slow_square, range(60), Compute(scheduler=address)):
            found[index], owner = outcome.get()
            owners.add(owner)
            if owners == {first.pid, second.pid} and first.poll() is None:
                children = children_of(first.pid)
                first.kill()
        assert [found[i] for i in range(60)] == wanted
        assert len(children) == 1
        assert not any(running(pid) for pid in children)
        crashed, fine = results(segfault_at, [[1, -1], [1]], Compute(scheduler=address))
        assert crashed.failure == Failure("crashed", 1, "killed by SIGSEGV")
        assert fine.get() == 1
        with pytest.raises(MidiError, match="no notes") as caught:
            results(raise_midi_error, ["a.mid"], Compute(scheduler=address))
        assert "in raise_midi_error" in caught.value.__notes__[0]
