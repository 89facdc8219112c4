"""One MIDI file: its bytes to a roll, and what is known of it.

Offers: `describe_file` (bytes to a row of facts and a row of a shard), `rejection`, `layout_of`, `compile_loops`, and
`explain` (one file, in words).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int64

from midivae.config.ingest import Ingest, IngestLimits, Parts
from midivae.errors import InputError, MidiError
from midivae.ingest import sketches
from midivae.measures.keys import KEYS, best_scale
from midivae.music import grid, roll, smf
from midivae.music.notes import Notes
from midivae.music.parts import assign_parts
from midivae.music.roll import Layout, Raster
from midivae.storage import tables
from midivae.storage.schema import FACTS

Row = dict[str, Any]
_UNKNOWN: Row = dict.fromkeys(FACTS.columns.names)


def layout_of(ingest: Ingest) -> Layout:
    """How the rolls of these params are laid out."""
    return Layout(ingest.parts.names, ingest.pitch_low, ingest.pitches, ingest.steps_per_beat)


def describe_file(sha256: str, data: bytes, ingest: Ingest) -> tuple[Row, Row | None]:
    """The file's row of `schema.FACTS`, and its row of `schema.SHARD`, which a rejected file does not have."""
    facts = _UNKNOWN | {"piece_id": sha256[:16], "sha256": sha256, "accepted": True}
    layout = layout_of(ingest)
    try:
        file = smf.read(data, ingest.limits)
        facts |= _facts_of_file(file)
        placed = _place(file.notes, layout, ingest)
        facts |= _facts_of(placed, layout.steps_per_beat)
        _check_notes(placed.raster.kept, ingest)
    except MidiError as error:
        return facts | rejection(sha256, error), None
    return facts, {name: facts[name] for name in ("piece_id", "tempo_qpm")} | _roll_of(placed, layout)


def compile_loops() -> None:
    """Describes a file of one note, so that the loops are compiled, or loaded from numba's cache.

    Without this the first file would wait for the compiler, some seconds, and might break its time limit.
    """
    smf.compile_loops()
    zero = np.zeros(1, np.int32)
    small = np.zeros(1, np.uint8)
    notes = Notes(small, small, zero, zero + 480, zero, small, np.zeros(1, bool), ("",), ticks_per_quarter=480)
    settings = Ingest(parts=Parts(rule="merged"), limits=IngestLimits(min_steps=1, min_notes=1))
    describe_file("", smf.write(notes), settings)


def rejection(sha256: str, error: MidiError) -> Row:
    """What the facts say of a file that is not used."""
    return {
        "piece_id": sha256[:16],
        "sha256": sha256,
        "accepted": False,
        "reason": error.code,
        "detail": error.detail,
    }


class _Placed(NamedTuple):
    """The notes of a file on the grid and in a roll."""

    notes: Notes
    part: Int64[np.ndarray, " N"]  # of each note; -1: none
    onset_step: Int64[np.ndarray, " N"]
    n_steps: int
    bar_starts: Int[np.ndarray, " R"]
    raster: Raster


def _place(notes: Notes, layout: Layout, ingest: Ingest) -> _Placed:
    """Places notes on the grid.

    Raises:
        MidiError: they cannot become a roll.
    """
    part = assign_parts(notes, ingest.parts)
    onset, offset = grid.quantise(notes.onset_tick, notes.duration_tick, notes.ticks_per_quarter, layout.steps_per_beat)
    n_steps = int(offset[part >= 0].max(initial=0))
    _check_length(n_steps, ingest)
    bars = grid.bar_starts(notes.time_signatures, notes.ticks_per_quarter, layout.steps_per_beat, n_steps)
    raster = roll.rasterise(notes.pitch, part, onset, offset, n_steps, layout)
    return _Placed(notes, part, onset, n_steps, bars, raster)


def _facts_of_file(file: smf.File) -> Row:
    return {
        "detail": "; ".join(file.repairs) or None,
        "format": file.format,
        "tracks_declared": file.tracks_declared,
        "tracks": len(file.notes.track_names),
        "notes_found": len(file.notes),
        "notes_unended": file.notes_unended,
    }


def _facts_of(placed: _Placed, steps_per_beat: int) -> Row:
    notes, raster, metre = placed.notes, placed.raster, placed.notes.time_signature
    music, signature = sketches.describe(notes, placed.onset_step)
    return {
        "music": music,
        "sketch": signature.tobytes(),
        "notes_kept": raster.kept,
        "notes_unassigned": int(np.count_nonzero(placed.part < 0)),
        "notes_out_of_range": raster.out_of_range,
        "notes_merged": raster.merged,
        "off_grid": _off_grid(notes, placed.onset_step, steps_per_beat),
        "steps": placed.n_steps,
        "bars": len(placed.bar_starts),
        "duration_s": notes.duration_s,
        "tempo_qpm": notes.tempo_qpm,
        "time_signature": f"{metre.numerator}/{metre.denominator}",
        "key": _key(notes, placed.part),
    }


def _roll_of(placed: _Placed, layout: Layout) -> Row:
    return {
        "parts": layout.parts,
        "n_steps": placed.n_steps,
        "planes": tables.compress(placed.raster.columns),
        "bar_starts": placed.bar_starts,
        "programs": _programs(placed.notes, placed.part, len(layout.parts)),
    }


def _check_notes(kept: int, ingest: Ingest) -> None:
    least = ingest.limits.min_notes
    if kept < least:
        raise MidiError("few_notes", f"{kept} notes in the roll; ingest.limits.min_notes is {least}")


def _check_length(n_steps: int, ingest: Ingest) -> None:
    limits = ingest.limits
    if n_steps == 0:
        wanted = ", ".join(ingest.parts.names)
        raise MidiError("no_part", f"no note belongs to any of the parts {wanted} (rule `{ingest.parts.rule}`)")
    if n_steps > limits.max_steps:
        raise MidiError("too_long", f"{n_steps} steps; ingest.limits.max_steps is {limits.max_steps}")
    if n_steps < limits.min_steps:
        raise MidiError("short", f"{n_steps} steps; ingest.limits.min_steps is {limits.min_steps}")


def _key(notes: Notes, part: Int64[np.ndarray, " N"]) -> str | None:
    """The key that holds most notes of the parts, drums left out; None without any."""
    counts = np.bincount(notes.pitch[(part >= 0) & ~notes.is_drum] % 12, minlength=12)
    best = int(best_scale(counts[None])[0][0])
    return KEYS[best] if best >= 0 else None


def _off_grid(notes: Notes, onset_step: Int64[np.ndarray, " N"], steps_per_beat: int) -> float:
    """Mean distance of the onsets from the grid, in steps; summed in integers."""
    away = notes.onset_tick.astype(np.int64) * steps_per_beat - onset_step * notes.ticks_per_quarter
    return int(np.abs(away).sum()) / (notes.ticks_per_quarter * len(notes))


def _programs(notes: Notes, part: Int64[np.ndarray, " N"], n_parts: int) -> Int64[np.ndarray, " _"]:
    """For each part the program that plays most of its notes; -1 without notes."""
    assigned = part >= 0
    counts = np.bincount(part[assigned] * 128 + notes.program[assigned], minlength=n_parts * 128).reshape(n_parts, 128)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), -1)


# --- in words ---------------------------------------------------------------------------------------------------------
def explain(path: Path, ingest: Ingest) -> str:
    """What ingest makes of one MIDI file, in words: how it is read, what becomes of its notes, or why it is rejected.

    Raises:
        InputError: no such file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error})") from error
    facts, _ = describe_file(hashlib.sha256(data).hexdigest(), data, ingest)
    lines = [f"{path.name}: {facts['piece_id']}, {len(data)} bytes"]
    if facts["notes_found"] is not None:
        file = smf.read(data, ingest.limits)
        lines.append(f"format {file.format}: {len(file.notes)} notes in {facts['tracks']} tracks")
        lines += _tracks_in_words(file.notes, ingest)
        if file.notes_unended:
            lines.append(f"{file.notes_unended} of the notes are never switched off; see docs/ingest.md")
        lines += [f"repaired: {sentence}" for sentence in file.repairs]
    if facts["notes_kept"] is not None:
        lines.append(
            f"of its notes {facts['notes_kept']} are in the roll, {facts['notes_unassigned']} belong to no part, "
            f"{facts['notes_out_of_range']} lie outside its pitches, {facts['notes_merged']} start where another does"
        )
        lines.append(
            f"{facts['steps']} steps, {facts['bars']} bars, {facts['duration_s']:.1f} s, {facts['tempo_qpm']:.1f} BPM, "
            f"{facts['time_signature']}, {facts['key'] or 'no key'}, onsets {facts['off_grid']:.3f} steps off the grid"
        )
    verdict = "accepted" if facts["accepted"] else f"rejected as {facts['reason']}: {facts['detail']}"
    return "\n".join([*lines, verdict])


def _tracks_in_words(notes: Notes, ingest: Ingest) -> list[str]:
    """A line per track and instrument: how many notes, and the part they go to."""
    part = assign_parts(notes, ingest.parts)
    rows, counts = np.unique([notes.track, notes.is_drum, notes.program, part], axis=1, return_counts=True)
    lines = []
    for (track, is_drum, program, index), count in zip(rows.T.tolist(), counts.tolist(), strict=True):
        played = "drums" if is_drum else f"program {program}"
        goes_to = ingest.parts.names[index] if index >= 0 else "no part"
        lines.append(f"  track {notes.track_names[track][:60]!r}: {count} notes, {played}, to {goes_to}")
    return lines
