"""Kernels: machine code does what the same function does in Python, from wherever it comes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import notes_of, slow_roll

from midivae.ingest import duplicates
from midivae.music import grid, kernels, native, roll
from midivae.music.roll import ONSET, Layout

NAME = kernels.__name__

PROGRAM = """
import sys
import numpy as np
from midivae.music import kernels, native
native._folders = lambda: [__import__("pathlib").Path(name) for name in sys.argv[1:]]
number = np.zeros(1, np.uint64)
kernels.hex_numbers(1, 16, np.frombuffer(b"00000000000000ff", np.uint8), number)
print(number[0], "numba" in sys.modules)
"""


def number_and_numba(*folders: Path) -> list[str]:
    """What a process prints that keeps object code in these folders: 255, and whether it had to load numba."""
    command = [sys.executable, "-c", PROGRAM, *map(str, folders)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def test_code_is_compiled_once_and_kept_where_that_is_possible(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.write_text("a file where a folder would have to be")
    kept = tmp_path / "kept"
    assert number_and_numba(locked, kept) == ["255", "True"]
    (code,) = kept.iterdir()
    assert number_and_numba(locked, kept) == ["255", "False"]
    good = code.read_bytes()
    code.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])  # damaged: compiled again
    assert number_and_numba(locked, kept) == ["255", "True"]
    assert number_and_numba(locked, kept) == ["255", "False"]
    assert number_and_numba(locked) == ["255", "True"]  # kept nowhere: slow, and right


def test_what_is_no_array_of_the_right_kind_is_refused() -> None:
    text, number = np.zeros(64, np.uint8), np.zeros(2, np.uint64)
    with pytest.raises(TypeError, match=r"an array of int64 .* where one of uint64 in one piece belongs"):
        kernels.hex_numbers(2, 16, text, number.astype(np.int64))
    with pytest.raises(TypeError, match=r"strides \(2,\)"):
        kernels.hex_numbers(2, 16, text[::2], number)
    with pytest.raises(ValueError, match="argument"):
        kernels.hex_numbers(2, 16, text)


def test_whoever_waits_is_told_that_code_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_folders", lambda: (tmp_path,))
    monkeypatch.setattr(native, "_ENGINES", {})
    signs: list[int] = []
    native.prepare(NAME, lambda: signs.append(1))
    assert len(signs) == len(native._KERNELS[NAME])
    native.prepare(NAME, lambda: signs.append(1))
    assert len(signs) == len(native._KERNELS[NAME])


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_hex_numbers(values: list[int]) -> None:
    text = "".join(f"{value:016x}{'f' * 48}" for value in values).encode()
    number = np.empty(len(values), np.uint64)
    kernels.hex_numbers(len(values), 64, np.frombuffer(text, np.uint8), number)
    assert number.tolist() == values


Event = tuple[int, int, int]  # onset tick, duration, pitch
pieces_strategy = st.lists(  # of tracks of notes; each with the part it belongs to, and whether it is drums
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(st.integers(0, 6000), st.integers(0, 900), st.integers(0, 127)), min_size=1, max_size=30
            ),
            st.integers(-1, 1),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=60)
@given(pieces_strategy, st.sampled_from([(0, 128), (36, 48), (50, 37)]), st.sampled_from([1, 4, 24]))
def test_steps_and_rolls_are_those_of_one_piece_at_a_time(
    pieces: list[list[tuple[list[Event], int, bool]]], pitches: tuple[int, int], steps_per_beat: int
) -> None:
    """The judges are `grid.quantise`, which is numpy's, and a roll that is filled cell by cell."""
    layout = Layout(("one", "two"), *pitches, steps_per_beat)
    tracks = [track for piece in pieces for track in piece]
    notes = [note for events, _, _ in tracks for note in events]
    onset_tick, duration_tick, pitch = np.array(notes, np.int32).T.copy()
    pitch = pitch.astype(np.uint8)
    track_at = np.cumsum([0, *map(len, pieces)])
    note_at = np.cumsum([0, *(len(events) for events, _, _ in tracks)])
    part = np.array([part for _, part, _ in tracks])
    is_drum = np.array([drum for _, _, drum in tracks]).view(np.uint8)
    resolution = np.array([480 - 7 * i for i in range(len(pieces))])
    onset, offset = np.empty((2, len(notes)), np.int64)
    n_steps, end_tick = np.empty((2, len(pieces)), np.int64)
    chroma = np.zeros((len(pieces), 12), np.int64)
    kernels.place(
        len(pieces),
        track_at,
        note_at,
        part,
        is_drum,
        pitch,
        onset_tick,
        duration_tick,
        resolution,
        steps_per_beat,
        onset,
        offset,
        n_steps,
        end_tick,
        chroma,
    )
    per_note = np.repeat(resolution, np.diff(note_at[track_at]))
    assert all(map(np.array_equal, (onset, offset), grid.quantise(onset_tick, duration_tick, per_note, steps_per_beat)))

    sizes = n_steps * layout.bytes_per_step
    columns, counts = np.zeros(int(sizes.sum()), np.uint8), np.zeros((len(pieces), 3), np.int64)
    kernels.raster(
        0,
        len(pieces),
        track_at,
        note_at,
        part,
        pitch,
        onset,
        offset,
        n_steps,
        layout.pitch_low,
        layout.pitches,
        layout.bytes_per_step,
        columns,
        counts,
    )
    begins = np.cumsum(sizes) - sizes
    for q, piece in enumerate(pieces):
        alone = notes_of(*(events for events, _, _ in piece), ticks_per_quarter=int(resolution[q]))
        own = np.array([part for _, part, _ in piece])[alone.track]
        planes = slow_roll(alone, own, layout)
        assert len(planes) == n_steps[q]
        packed = columns[begins[q] : begins[q] + sizes[q]].reshape(layout.bytes_per_step, -1)
        assert np.array_equal(roll.unpack(np.ascontiguousarray(packed.T), layout), planes)
        kept = int(planes[:, :, ONSET].sum())
        inside = (alone.pitch >= layout.pitch_low) & (alone.pitch < layout.pitch_low + layout.pitches)
        assert counts[q].tolist() == [
            kept,
            int((~inside & (own >= 0)).sum()),
            int((inside & (own >= 0)).sum()) - kept,
        ]
        assert end_tick[q] == alone.end_tick
        drum = np.array([drum for _, _, drum in piece])[alone.track]
        assert chroma[q].tolist() == np.bincount(alone.pitch[(own >= 0) & ~drum] % 12, minlength=12).tolist()


def test_notes_of_a_track_in_any_order_have_one_sketch() -> None:
    rng = np.random.default_rng(0)
    onset, pitch = np.sort(rng.integers(0, 900, 300)), rng.integers(40, 80, 300).astype(np.uint8)
    shuffled = rng.permutation(300)

    def described(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at = np.array([0, 1]), np.array([0, 300])
        return duplicates.describe(duplicates.Lines(*at, np.zeros(1, bool), pitch[order], onset[order]))

    assert all(map(np.array_equal, described(np.arange(300)), described(shuffled)))


def test_python_and_machine_code_agree() -> None:
    """On the shingles of a random line: the function that is compiled is also run as it stands."""
    rng = np.random.default_rng(1)
    key = np.sort(rng.integers(0, 500, 200) << 7 | rng.integers(40, 80, 200))
    results = []
    for run in (kernels.shingles, kernels.shingles.function):
        piece, number = np.empty(200, np.int64), np.empty(200, np.uint32)
        with np.errstate(over="ignore"):
            found = run(200, key, 0, np.array([5]), piece, number)
        results.append((found, piece[:found].tolist(), number[:found].tolist()))
    assert results[0] == results[1]
    assert results[0][0] > 50
