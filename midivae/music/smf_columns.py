"""The compiled passes of `smf.read` behind the scan: what the tracks of a file know of each other. Nothing here raises.

`pair_across` and `cut` let note-offs and controllers end notes of other tracks. `gather` turns programs, banks and
resets into a time line of each channel, and makes the columns of `Notes`.

Sources are those of `smf_events`; conventions, and the tables, those of `smf_tables`.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from midivae.music import smf_tables as code


@njit(cache=True)
@no_type_check
def pair_across(notes, slot, tick, index, queue):
    """Ends notes that no note-off of their track ended, by note-offs that ended none in theirs: first on, first off.

    Args:
        notes: written to.
        slot, tick, index: of note-ons and note-offs, in order of (slot, tick, offs first); `index` is the row of the
            note in `notes`, -1 for a note-off.
        queue: as many places, for notes that sound.
    """
    first = last = 0
    for i in range(len(slot)):
        if i > 0 and slot[i] != slot[i - 1]:
            first = last
        if index[i] >= 0:
            queue[last] = index[i]
            last += 1
            continue
        while first < last:
            note = queue[first]
            first += 1
            if (
                notes[note, code.END] > tick[i] or notes[note, code.LOOSE] == code.BY_END_OF_TRACK
            ):  # else a controller has ended it
                notes[note, code.END], notes[note, code.LOOSE] = tick[i], code.BY_NOTE_OFF
                break


@njit(cache=True)
@no_type_check
def cut(notes, key, tick):
    """Ends notes at the first "all notes off" or "all sound off" of their key that comes on a later tick, in any track.

    Args:
        notes: written to.
        key, tick: of these controllers, in order of (key, tick).
    """
    for note in range(len(notes)):
        mine = notes[note, code.SLOT] >> 7
        low, high = 0, len(key)
        while low < high:
            middle = (low + high) >> 1
            if key[middle] < mine or (key[middle] == mine and tick[middle] <= notes[note, code.ONSET]):
                low = middle + 1
            else:
                high = middle
        if low == len(key) or key[low] != mine:
            continue
        if tick[low] < notes[note, code.END] or notes[note, code.LOOSE] == code.BY_END_OF_TRACK:
            notes[note, code.END], notes[note, code.LOOSE] = tick[low], code.BY_CONTROLLER


@njit(cache=True)
@no_type_check
def _settle(others, n_keys):
    """The programs of all keys through time, and whether they play drums.

    Args:
        others: in order of `when`.
        n_keys: number of keys.

    Returns:
        `(points, first)`: int64 [S, 2], rows (when, 2 * program + drum) from which on this holds, key after key, in
        order of `when`; and the first row of each key, with the number of rows behind them.
    """
    keys, rows, n = np.empty(2 * len(others), np.int32), np.empty((2 * len(others), 2), np.int64), 0
    program, by_bank = np.zeros(n_keys, np.int64), np.zeros(n_keys, np.bool_)
    bank, drum, is_dirty = np.full(n_keys, -1), np.zeros(n_keys, np.int64), np.zeros(n_keys, np.bool_)
    dirty, n_dirty = np.empty(n_keys, np.int64), 0  # keys that a reset may change
    drum[9::16] = 1  # GM "Channel 10"
    mode = code.UNDECLARED
    for i in range(len(others)):
        kind = others[i, code.WHAT] >> code.KIND_BITS
        if kind > code.RHYTHM:
            continue
        key, value = (others[i, code.WHAT] >> code.KEY_BITS) & 0xFFFF, others[i, code.WHAT] & 0xFFFFFFFF
        begin, end = key, key + 1
        if kind == code.RESET:
            # it sets drums and banks back; programs stay: files send them on the same tick, and before it
            mode = value
            begin, end = 0, n_dirty
        elif kind != code.PROGRAM and not is_dirty[key]:
            dirty[n_dirty], is_dirty[key] = key, True
            n_dirty += 1
        for j in range(begin, end):
            key = dirty[j] if kind == code.RESET else j
            before = 2 * program[key] + drum[key]
            default = 1 if key & 15 == 9 else 0
            if kind == code.RESET:
                bank[key], drum[key], by_bank[key], is_dirty[key] = -1, default, False, False
            elif kind == code.BANK:
                bank[key] = value
            elif kind == code.RHYTHM:
                drum[key], by_bank[key] = value, False
            else:  # MIDI "Bank Select": a bank counts from the next program change on
                program[key] = value
                says = _bank_says(mode, bank[key])
                if says >= 0:
                    drum[key], by_bank[key] = says, True
                elif by_bank[key] and bank[key] >= 0:
                    drum[key], by_bank[key] = default, False
            if 2 * program[key] + drum[key] != before:
                keys[n], rows[n, 0], rows[n, 1] = key, others[i, code.WHEN], 2 * program[key] + drum[key]
                n += 1
        if kind == code.RESET:
            n_dirty = 0
    return _by_key(keys[:n], rows, n_keys)


@njit(cache=True)
@no_type_check
def _bank_says(mode, bank):
    """Whether a bank (controller 0) makes its channel play drums: 1; melodies: 0; or says nothing: -1."""
    if mode == code.XG and bank >= 0:  # XG "Bank Select": 126 and 127 are kits
        return 1 if bank >= 126 else 0
    if mode == code.GM2 and (bank == 120 or bank == 121):  # GM2 "Bank Select": 120 is percussion, 121 melody
        return 121 - bank
    if mode == code.UNDECLARED and (bank == 120 or bank >= 126):
        return 1
    return -1


@njit(cache=True)
@no_type_check
def _by_key(keys, rows, n_keys):
    """Rows key after key, and the first of each key."""
    first, place = np.zeros(n_keys + 1, np.int64), np.empty(n_keys, np.int64)
    points = np.empty((len(keys), 2), np.int64)
    for key in keys:
        first[key + 1] += 1
    for key in range(n_keys):
        place[key] = first[key]
        first[key + 1] += first[key]
    for i in range(len(keys)):
        at = place[keys[i]]
        points[at, 0], points[at, 1] = rows[i, 0], rows[i, 1]
        place[keys[i]] = at + 1
    return points, first


@njit(cache=True)
@no_type_check
def gather(notes, chunks, others, n_keys):
    """The columns of `Notes`; a track is made of the notes of one chunk and key, in the order of their note-ons.

    Args:
        notes, chunks, others: the tables of `scan`; others in order of `when`.
        n_keys: number of keys.

    Returns:
        `(pitch, velocity, onset_tick, duration_tick, track, program, is_drum)` of each note, the chunk of each track,
        and the number of notes that no note-off ended.
    """
    count = len(notes)
    pitch, velocity, program = np.empty(count, np.uint8), np.empty(count, np.uint8), np.empty(count, np.uint8)
    onset, duration, track = np.empty(count, np.int32), np.empty(count, np.int32), np.empty(count, np.int32)
    is_drum, chunk_of = np.empty(count, np.bool_), np.empty(count, np.int32)
    points, first = _settle(others, n_keys)
    counts, seen = np.zeros(n_keys, np.int64), np.empty(n_keys, np.int64)
    place, number = np.empty(n_keys, np.int64), np.empty(n_keys, np.int64)
    n_tracks = n_loose = 0
    known, since, until, holds = np.int64(-1), np.int64(0), np.int64(0), np.int64(0)  # what holds for a key
    for chunk in range(len(chunks)):
        begin = chunks[chunk, code.FIRST_NOTE]
        end = chunks[chunk + 1, code.FIRST_NOTE] if chunk + 1 < len(chunks) else count
        n_seen = 0
        for note in range(begin, end):
            key = notes[note, code.SLOT] >> 7
            if counts[key] == 0:
                seen[n_seen] = key
                n_seen += 1
            counts[key] += 1
        at = begin
        for i in range(n_seen):
            key = seen[i]
            place[key], number[key], chunk_of[n_tracks] = at, n_tracks, chunk
            at += counts[key]
            counts[key] = 0
            n_tracks += 1
        tick, rank = np.int64(-1), 1
        for note in range(begin, end):
            key, start = np.int64(notes[note, code.SLOT] >> 7), np.int64(notes[note, code.ONSET])
            rank = rank + 1 if start == tick else 1
            tick = start
            when = (tick << code.RANK_BITS) | min(rank, code.MAX_RANK)
            if key != known or not since <= when < until:
                row = _last_not_after(points, first[key], first[key + 1], when)
                since = points[row, 0] if row >= first[key] else np.int64(-1)
                until = points[row + 1, 0] if row + 1 < first[key + 1] else np.int64(2**62)
                holds = points[row, 1] if row >= first[key] else np.int64(key & 15 == 9)
                known = key
            i = place[key]
            place[key] = i + 1
            pitch[i], velocity[i], track[i] = notes[note, code.SLOT] & 127, notes[note, code.VELOCITY], number[key]
            onset[i], duration[i] = tick, notes[note, code.END] - tick
            program[i], is_drum[i] = holds >> 1, holds & 1 == 1
            n_loose += notes[note, code.LOOSE] != code.BY_NOTE_OFF
    return (pitch, velocity, onset, duration, track, program, is_drum), chunk_of[:n_tracks].copy(), n_loose


@njit(cache=True)
@no_type_check
def _last_not_after(points, low, high, when):
    """The last row between `low` and `high` whose `when` is not later; `low` - 1 where there is none."""
    while low < high:
        middle = (low + high) >> 1
        if points[middle, 0] <= when:
            low = middle + 1
        else:
            high = middle
    return low - 1
