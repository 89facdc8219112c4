"""The tables of the compiled passes of `smf.read`: their columns, places and codes, and the functions that write rows.

Conventions:
    byte    a position in the file, from 0
    tick    absolute, from the start of the track, int64; that of a note is at most `MAX_TICK`
    key     16 * port + channel, ports being numbered in the order in which they appear, and port 0 first
    slot    128 * key + pitch
    when    order of notes and settings over all tracks: tick * 2**24 + rank. The rank counts the note-ons of the track
            on this tick that come before, from 1; that of a reset is 0

numba's cache notices a change of the file that a compiled function is in, and of no other: after a change here save
`smf_events.py` and `smf_columns.py` too.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

MAX_TICK = 2**31 - 1
RANK_BITS = 24
MAX_RANK = 2**RANK_BITS - 1

# notes, int32: columns, and values of LOOSE
ONSET, END, NEXT, SLOT, VELOCITY, LOOSE = range(6)
BY_NOTE_OFF, BY_CONTROLLER, BY_END_OF_TRACK = range(3)  # what ended the note

# others, int64: columns; WHAT is kind * 2**48 + key * 2**32 + value
WHEN, WHAT = range(2)
KIND_BITS, KEY_BITS = 48, 32
RESET, BANK, PROGRAM, RHYTHM, ALL_OFF, NOTE_OFF, TEMPO, METRE, KEY = range(9)  # kinds
UNDECLARED, GM, GS, XG, GM2 = range(5)  # values of RESET; UNDECLARED is also the state of a file without one

# chunks, int64: columns
FIRST_NOTE, NAME_AT, NAME_LENGTH = range(3)

# state, int64: places
STATUS, TRACK, BYTE, VALUE = range(4)  # why, where and with which value the scan ended
N_NOTES, N_OTHERS, N_CHUNKS, N_PORTS, PORT_PLACES, LAST_TICK = range(4, 10)
N_OFFS, N_FAULTS = 10, 11  # N_OFFS: others that may end notes of other tracks
# of the track that is being read; BEYOND: its length is known to be wrong
TICK, RANK, RUNNING, LAPSED, BEYOND, ENDED_TRACK, BASE, NAME, PACKET = range(12, 21)
FAULTS = 21  # the first of 9 * 3 places: per kind how often, track of the first, byte of the first
PACKET_AT = FAULTS + 9 * 3  # the first of PACKET_BYTES places: a system exclusive message
PACKET_BYTES = 16  # that are kept of it: the messages that we know are shorter
PORTS_AT = PACKET_AT + PACKET_BYTES  # the first of 256 places: the number of each port, -1 before it appears
STATE_SIZE = PORTS_AT + 256

# how events end: at the limit, with an end of track, where another track begins; within an event (it is not complete),
# with a reason to reject the file. The last two also stand in for the byte behind an event
LIMIT, ENDED, NEXT_TRACK, UNFINISHED, REJECTED = 0, 1, 2, -1, -2

# values of STATUS
OK, NO_STATUS, LONG_QUANTITY, UNDEFINED, INCOMPLETE, BAD_PITCH, BAD_TIME, TOO_MANY_NOTES, MORE_PORTS = range(9)

# kinds of faults: what is read in spite of it
NO_END, BAD_LENGTH, CUT, AFTER_END, HIGH_BYTE, LAPSED_STATUS, JUNK, TRAILING, BAD_META = range(9)


@njit(cache=True)
@no_type_check
def quantity(data, at, limit):
    """RP-001 "Variable-length quantity": the value and the byte behind it; value UNFINISHED, or REJECTED: too long."""
    value = np.int64(0)
    for i in range(at, at + 4):
        if i >= limit:
            return np.int64(UNFINISHED), at
        byte = np.int64(data[i])
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, i + 1
    return np.int64(REJECTED), at


@njit(cache=True)
@no_type_check
def big_endian(data, at, length):
    """A number in the order of bytes that the format has."""
    value = np.int64(0)
    for i in range(at, at + length):
        value = (value << 8) | np.int64(data[i])
    return value


@njit(cache=True)
@no_type_check
def append(others, state, tick, rank, kind, key, value):
    """A row of others; none behind the last tick that a note can have."""
    if tick <= MAX_TICK:
        n = state[N_OTHERS]
        others[n, WHEN] = (tick << RANK_BITS) | min(rank, MAX_RANK)
        others[n, WHAT] = (np.int64(kind) << KIND_BITS) | (np.int64(key) << KEY_BITS) | value
        state[N_OTHERS] = n + 1
        if kind in (ALL_OFF, NOTE_OFF):
            state[N_OFFS] += 1


@njit(cache=True)
@no_type_check
def reject(state, status, at, value):
    """Ends the scan; returns REJECTED."""
    state[STATUS], state[TRACK], state[BYTE] = status, state[N_CHUNKS], at
    state[VALUE] = value
    return np.int64(REJECTED)


@njit(cache=True)
@no_type_check
def fault(state, kind, at):
    """Counts a fault, and keeps the place of the first of its kind."""
    state[N_FAULTS] += 1
    place = FAULTS + 3 * kind
    if state[place] == 0:
        state[place + 1], state[place + 2] = state[N_CHUNKS], at
    state[place] += 1
