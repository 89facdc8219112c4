"""The compiled passes of `smf.read`: the events of a Standard MIDI File, as arrays. Nothing here raises.

`scan` walks over the events of all tracks once. It pairs the note-ons and note-offs of a track, and keeps what concerns
more than one track (programs, banks, resets, tempos ...) in a table of others. `smf_columns` goes on from there.

Sources of the rules, at the lines that use them:
    RP-001  MIDI Manufacturers Association, "Standard MIDI Files 1.0"; cited by its headings
    MIDI    "MIDI 1.0 Detailed Specification"; cited by its headings
    GM, GM2, GS, XG  "General MIDI System Level 1" and "2"; Roland SC-55/SC-88 manuals; Yamaha "XG Specifications"

Conventions:
    byte    a position in the file, from 0
    tick    absolute, from the start of the track, int64; that of a note fits int32 (`MAX_TICK`)
    key     16 * port + channel, ports being numbered in the order in which they appear, and port 0 first
    slot    128 * key + pitch
    when    order of notes and settings over all tracks: tick * 2**24 + rank. The rank counts the note-ons of the track
            on this tick that come before, from 1; that of a reset is 0

numba's cache notices a change of the file that a compiled function is in, and of no other: what is called here is in
this file, and after a change of a constant `smf_columns.py` must be saved too.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

MAX_TICK = 2**31 - 1
RANK_BITS = 24
MAX_RANK = 2**RANK_BITS - 1

# columns of the tables that `scan` returns
ONSET, END, NEXT, SLOT, VELOCITY, LOOSE = range(6)  # of notes, int32; LOOSE: 0: ended by a note-off
BY_CONTROLLER, BY_END_OF_TRACK = 1, 2  # other values of LOOSE
WHEN, WHAT = range(2)  # of others, int64; WHAT: kind * 2**48 + key * 2**32 + value
FIRST_NOTE, NAME_AT, NAME_LENGTH = range(3)  # of chunks, int64
KIND_BITS, KEY_BITS = 48, 32

# kinds of the rows of others
RESET, BANK, PROGRAM, RHYTHM, ALL_OFF, NOTE_OFF, TEMPO, METRE, KEY = range(9)
# values of RESET; UNDECLARED is the state of a file without one
UNDECLARED, GM, GS, XG, GM2 = range(5)

# places in the vector `state` that `scan` returns
STATUS, TRACK, BYTE, VALUE, N_NOTES, N_OTHERS, N_CHUNKS, BASE, N_PORTS, PACKET, LAST_TICK = range(11)

# values of STATUS: why a file is rejected; TRACK, BYTE and VALUE say where, and which value it was
OK, NO_STATUS, LONG_QUANTITY, UNDEFINED, INCOMPLETE, BAD_PITCH, BAD_TIME, TOO_MANY_NOTES = range(8)

# rows of `faults`, int64 [9, 3], each (how often, track of the first, byte of the first): what was read in spite of it
NO_END, BAD_LENGTH, CUT, AFTER_END, HIGH_BYTE, LAPSED, JUNK, TRAILING, ZERO_TEMPO = range(9)

PACKET_BYTES = 16  # of a system exclusive message that are kept: those that we know are shorter
_MTRK, _MTHD = 0x4D54726B, 0x4D546864


@njit(cache=True)
@no_type_check
def scan(data, begin, end, max_notes, n_ports):
    """Reads the events of all tracks.

    Args:
        data: uint8 [B], the file.
        begin, end: bytes between which the chunks behind the header lie.
        max_notes: with more the scan ends.
        n_ports: upper bound of the ports that the file names, with port 0.

    Returns:
        `(notes, others, chunks, state, faults)`; the first rows of the tables are used, as `state` says.
    """
    size = max(end - begin, 0)
    notes = np.empty((min(size // 3, max_notes) + 1, 6), np.int32)  # a note-on has three bytes or more
    others = np.empty((size // 2 + 1, 2), np.int64)  # an event has two bytes or more
    chunks = np.empty((size // 8 + 1, 3), np.int64)
    state, faults = np.zeros(11, np.int64), np.zeros((9, 3), np.int64)
    state[N_PORTS], state[PACKET] = 1, -1
    ports = np.full(256, -1, np.int64)
    ports[0] = 0
    fifo = np.full((2, 2048 * n_ports), -1, np.int32)  # of each slot the first and the last note that sounds
    tables = (notes, others, chunks, state, faults, ports, fifo, np.zeros(PACKET_BYTES, np.uint8))
    at = begin
    while at + 8 <= end and state[STATUS] == OK:
        word = _big_endian(data, at, 4)
        if word == _MTRK:
            at = _track(data, at, end, min(len(notes), max_notes), tables)
        elif word != _MTHD and _chunk_at(data, at, end):
            at += 8 + _big_endian(data, at + 4, 4)  # RP-001 "Chunks": alien chunks are skipped
        else:
            found = _find_track(data, at, end)
            if found < 0:
                break
            _fault(faults, JUNK, state[N_CHUNKS], at)
            at = found
    if at < end and state[STATUS] == OK:
        _fault(faults, TRAILING, state[N_CHUNKS], at)
    return notes, others, chunks, state, faults


@njit(cache=True)
@no_type_check
def _track(data, at, end, max_notes, tables):
    """Reads the track whose chunk starts at `at`; returns where to look for the next chunk."""
    notes, others, chunks, state, faults, ports, fifo, packet = tables
    track, n = state[N_CHUNKS] + 1, state[N_NOTES]
    chunks[track - 1, FIRST_NOTE], chunks[track - 1, NAME_AT], chunks[track - 1, NAME_LENGTH] = n, 0, 0
    state[N_CHUNKS], state[BASE], state[PACKET] = track, 0, -1
    first, start = n, at
    at += 8
    stop = at + _big_endian(data, start + 4, 4)
    beyond = stop > end  # the length is known to be wrong
    limit = min(stop, end)
    if beyond:
        _fault(faults, BAD_LENGTH, track, start + 4)
    tick, rank, running, open_notes, lapsed, ended = 0, 1, 0, 0, False, False
    while True:
        if at >= limit:
            if limit < end and not _chunk_at(data, limit, end):  # the length is too small: the events go on
                _fault(faults, BAD_LENGTH, track, start + 4)
                limit, beyond = end, True
                continue
            _fault(faults, NO_END, track, at)
            break
        if beyond and data[at] == 0x4D and at + 8 <= end and _big_endian(data, at, 4) == _MTRK:
            _fault(faults, NO_END, track, at)
            break
        event = at
        delta = np.int64(data[at])
        at += 1
        if delta >= 0x80:
            delta, at = _quantity(data, event, limit)
        complete = delta >= 0 and at < limit
        if delta == -2:
            _reject(state, LONG_QUANTITY, track, event, 0)
            break
        if complete:
            now = tick + delta
            status = np.int64(data[at])
            if status >= 0x80:
                at += 1
            elif running == 0:
                _reject(state, NO_STATUS, track, at, status)
                break
            else:
                status = running
                if lapsed:
                    # RP-001 "MTrk events": sysex and meta events cancel running status; players go on with it
                    _fault(faults, LAPSED, track, at)
            if status < 0xF0:
                length = 1 if 0xC0 <= status < 0xE0 else 2
                complete = at + length <= limit
                if complete:
                    running, lapsed = status, False
                    if delta > 0:
                        tick, rank = now, 1
                    value, second = np.int64(data[at]), np.int64(data[at + length - 1])
                    key = state[BASE] + (status & 15)
                    if status < 0xA0:
                        if value > 127:
                            _reject(state, BAD_PITCH, track, at, value)
                            break
                        if tick > MAX_TICK:
                            _reject(state, BAD_TIME, track, event, tick)
                            break
                        if second > 127:
                            _fault(faults, HIGH_BYTE, track, at + 1)
                            second = 127
                        slot = key * 128 + value
                        if status >= 0x90 and second > 0:
                            if n >= max_notes:
                                _reject(state, TOO_MANY_NOTES, track, event, n)
                                break
                            notes[n, ONSET], notes[n, END], notes[n, NEXT] = tick, -1, -1
                            notes[n, SLOT], notes[n, VELOCITY], notes[n, LOOSE] = slot, second, 0
                            if fifo[0, slot] < 0:
                                fifo[0, slot] = n
                            else:
                                notes[fifo[1, slot], NEXT] = n
                            fifo[1, slot] = n
                            n += 1
                            rank += 1
                            open_notes += 1
                        else:  # MIDI "Note-Off": or a note-on with velocity 0; the first on is the first off
                            sounding = fifo[0, slot]
                            if sounding >= 0:
                                notes[sounding, END] = tick
                                fifo[0, slot] = notes[sounding, NEXT]
                                open_notes -= 1
                            else:
                                _append(others, state, tick, rank, NOTE_OFF, 0, slot)
                    elif value > 127 or second > 127:
                        _fault(faults, HIGH_BYTE, track, at)
                    elif status >= 0xC0:
                        if status < 0xD0:
                            _append(others, state, tick, rank, PROGRAM, key, value)
                    elif status >= 0xB0:
                        if value == 0:
                            _append(others, state, tick, rank, BANK, key, second)
                        elif value == 120 or value >= 123:
                            # MIDI "Channel Mode Messages": 120 all sound off, 123 all notes off, which 124 to 127 are too
                            _append(others, state, tick, rank, ALL_OFF, key, 0)
                            if open_notes > 0 and tick <= MAX_TICK:
                                open_notes -= _end_all(notes, fifo, key, tick)
                    at += length
                    continue
            else:
                after = _special(data, at, status, limit, now, 1 if delta > 0 else rank, tables)
                complete = after != -1
                if after == -2:
                    _reject(state, UNDEFINED, track, event, status)
                    break
                if complete:
                    if delta > 0:
                        tick, rank = now, 1
                    ended = status == 0xFF and data[at] == 0x2F  # RP-001 "Meta-Events": end of track
                    lapsed = lapsed or status < 0xF8 or status == 0xFF
                    at = after
                    if ended:
                        break
                    continue
        # the event is not complete within the limit
        at = event
        if limit < end and not _chunk_at(data, limit, end):
            _fault(faults, BAD_LENGTH, track, start + 4)
            limit, beyond = end, True
            continue
        if limit < end:
            _reject(state, INCOMPLETE, track, event, limit)
        else:
            _fault(faults, CUT, track, event)
            at = end
        break
    state[N_NOTES] = n
    state[LAST_TICK] = max(state[LAST_TICK], tick)
    if open_notes > 0 and state[STATUS] == OK:
        if tick > MAX_TICK:
            _reject(state, BAD_TIME, track, at, tick)
        else:
            _end_rest(notes, fifo, first, n, tick)
    return _next_chunk(data, at, stop, end, faults, track) if ended else at


@njit(cache=True)
@no_type_check
def _next_chunk(data, at, stop, end, faults, track):
    """Where the chunk behind an end of track at `at` starts; `stop` is where the track's length says that it does."""
    if at == stop or at >= end:
        return at
    if at + 8 <= end and _big_endian(data, at, 4) == _MTRK:  # the length is wrong
        if at < stop <= end:
            _fault(faults, BAD_LENGTH, track, at)
        return at
    if at < stop <= end and (stop == end or _chunk_at(data, stop, end)):
        _fault(faults, AFTER_END, track, at)
        return stop
    return at


@njit(cache=True)
@no_type_check
def _special(data, at, status, limit, tick, rank, tables):
    """A system or meta event whose status byte lies before `at`.

    Returns:
        The byte behind it; -1: it is not complete; -2: no such event.
    """
    _, others, chunks, state, faults, ports, _, packet = tables
    if status == 0xFF:
        if at + 2 > limit:
            return -1
        length, begin = _quantity(data, at + 1, limit)
        if length < 0 or begin + length > limit:
            return length if length == -2 else -1
        _meta(data, data[at], begin, length, tick, rank, tables)
        return begin + length
    if status == 0xF0 or status == 0xF7:
        length, begin = _quantity(data, at, limit)
        if length < 0 or begin + length > limit:
            return length if length == -2 else -1
        _sysex(data, status, begin, length, tick, rank, tables)
        return begin + length
    # MIDI "System Messages"; RP-001 has them in escapes only, but they have a known length
    if status == 0xF4 or status == 0xF5 or status == 0xF9 or status == 0xFD:
        return -2
    length = 2 if status == 0xF2 else 1 if status == 0xF1 or status == 0xF3 else 0
    return at + length if at + length <= limit else -1


@njit(cache=True)
@no_type_check
def _meta(data, kind, begin, length, tick, rank, tables):
    """RP-001 "Meta-Events": those that say something of notes; all others are skipped."""
    _, others, chunks, state, faults, ports, _, packet = tables
    row = state[N_CHUNKS] - 1
    if kind == 0x03 and length > 0 and chunks[row, NAME_LENGTH] == 0:
        chunks[row, NAME_AT], chunks[row, NAME_LENGTH] = begin, length
    elif kind == 0x21 and length > 0:  # port prefix: in no standard, but in use since the nineties
        port = data[begin]
        if ports[port] < 0:
            ports[port] = state[N_PORTS]
            state[N_PORTS] += 1
        state[BASE] = ports[port] * 16
    elif kind == 0x51 and length >= 3:
        value = _big_endian(data, begin, 3)
        if value > 0:
            _append(others, state, tick, rank, TEMPO, 0, value)
        else:
            _fault(faults, ZERO_TEMPO, row + 1, begin)
    elif kind == 0x58 and length >= 2:
        _append(others, state, tick, rank, METRE, 0, _big_endian(data, begin, 2))
    elif kind == 0x59 and length >= 2:
        _append(others, state, tick, rank, KEY, 0, _big_endian(data, begin, 2))


@njit(cache=True)
@no_type_check
def _sysex(data, status, begin, length, tick, rank, tables):
    """RP-001 "MTrk events": F0 starts a message, F7 goes on with it until a packet ends in F7; else F7 is an escape."""
    _, others, _, state, _, _, _, packet = tables
    last = begin + length
    if status == 0xF0:
        state[PACKET] = 0
    elif state[PACKET] < 0:
        if length == 0 or data[begin] != 0xF0:
            return  # an escape with something else than a system exclusive message
        state[PACKET] = 0
        begin += 1
    n = state[PACKET]
    for i in range(begin, min(last, begin + PACKET_BYTES)):
        if n < PACKET_BYTES:
            packet[n] = data[i]
        n += 1
    n += max(0, last - begin - PACKET_BYTES)
    complete = last > begin and data[last - 1] == 0xF7
    state[PACKET] = -1 if complete else n
    _known_message(packet, n - 1 if complete else n, tick, rank, others, state)


@njit(cache=True)
@no_type_check
def _known_message(packet, n, tick, rank, others, state):
    """Resets, and what makes a channel play drums; of `n` bytes between F0 and F7."""
    base = state[BASE]
    if n == 4 and packet[0] == 0x7E and packet[2] == 0x09:  # GM "Turn GM System On": 01; GM2: 03
        if packet[3] == 1 or packet[3] == 3:
            _append(others, state, tick, 0, RESET, 0, GM if packet[3] == 1 else GM2)
        elif packet[3] == 2:
            _append(others, state, tick, 0, RESET, 0, UNDECLARED)
    elif n == 9 and packet[0] == 0x41 and packet[2] == 0x42 and packet[3] == 0x12:  # GS "Data Set 1"
        total = 0
        for i in range(4, 9):
            total += packet[i]
        if total % 128 != 0:
            return
        if packet[5] == 0 and packet[6] == 0x7F and (packet[4] == 0x40 or packet[4] == 0):  # "GS Reset", "System Mode"
            _append(others, state, tick, 0, RESET, 0, GS)
        elif packet[4] == 0x40 and packet[5] >> 4 == 1 and packet[6] == 0x15:  # "Use for rhythm part"
            part = packet[5] & 15  # block 0 is part 10, 1 to 9 are parts 1 to 9, A to F parts 11 to 16
            channel = 9 if part == 0 else part - 1 if part < 10 else part
            _append(others, state, tick, rank, RHYTHM, base + channel, 1 if packet[7] > 0 else 0)
    elif n == 7 and packet[0] == 0x43 and packet[1] >> 4 == 1 and packet[2] == 0x4C:  # XG "Parameter Change"
        if packet[3] == 0 and packet[4] == 0 and packet[5] == 0x7E:  # "XG System On"
            _append(others, state, tick, 0, RESET, 0, XG)
        elif packet[3] == 8 and packet[4] < 16 and packet[5] == 7:  # "Part Mode": 0 is normal, others are drums
            _append(others, state, tick, rank, RHYTHM, base + packet[4], 1 if packet[6] > 0 else 0)


@njit(cache=True)
@no_type_check
def _append(others, state, tick, rank, kind, key, value):
    """A row of others; none behind the last tick that a note can have."""
    if tick <= MAX_TICK:
        n = state[N_OTHERS]
        others[n, WHEN] = (np.int64(tick) << RANK_BITS) | min(rank, MAX_RANK)
        others[n, WHAT] = (np.int64(kind) << KIND_BITS) | (np.int64(key) << KEY_BITS) | np.int64(value)
        state[N_OTHERS] = n + 1


@njit(cache=True)
@no_type_check
def _end_all(notes, fifo, key, tick):
    """Ends the notes of a key that sound; returns how many."""
    count = 0
    for slot in range(key * 128, key * 128 + 128):
        note = fifo[0, slot]
        while note >= 0:
            notes[note, END], notes[note, LOOSE] = tick, BY_CONTROLLER
            note = notes[note, NEXT]
            count += 1
        fifo[0, slot] = -1
    return count


@njit(cache=True)
@no_type_check
def _end_rest(notes, fifo, first, n, tick):
    """Ends the notes of a track that sound at its end."""
    for note in range(first, n):
        if notes[note, END] < 0:
            notes[note, END], notes[note, LOOSE] = tick, BY_END_OF_TRACK
            fifo[0, notes[note, SLOT]] = -1


@njit(cache=True)
@no_type_check
def _quantity(data, at, limit):
    """RP-001 "Variable-length quantity": (value, byte behind it); value -1: not complete, -2: more than four bytes."""
    value = np.int64(0)
    for i in range(at, at + 4):
        if i >= limit:
            return np.int64(-1), at
        byte = np.int64(data[i])
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, i + 1
    return np.int64(-2), at


@njit(cache=True)
@no_type_check
def _big_endian(data, at, length):
    value = np.int64(0)
    for i in range(at, at + length):
        value = (value << 8) | np.int64(data[i])
    return value


@njit(cache=True)
@no_type_check
def _chunk_at(data, at, end):
    """Whether a chunk starts here: a track or a header; or letters, digits and spaces, and a length that fits."""
    if at + 8 > end:
        return False
    word = _big_endian(data, at, 4)
    if word == _MTRK or word == _MTHD:
        return True
    for i in range(at, at + 4):
        byte = data[i]
        if not (byte == 32 or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
            return False
    return at + 8 + _big_endian(data, at + 4, 4) <= end


@njit(cache=True)
@no_type_check
def _find_track(data, at, end):
    """The next byte at which a track's chunk starts; -1 where there is none before another header."""
    for i in range(at, end - 7):
        if data[i] == 0x4D:
            word = _big_endian(data, i, 4)
            if word == _MTRK:
                return i
            if word == _MTHD:
                return -1
    return -1


@njit(cache=True)
@no_type_check
def _reject(state, status, track, byte, value):
    state[STATUS], state[TRACK], state[BYTE], state[VALUE] = status, track, byte, value


@njit(cache=True)
@no_type_check
def _fault(faults, kind, track, byte):
    if faults[kind, 0] == 0:
        faults[kind, 1], faults[kind, 2] = track, byte
    faults[kind, 0] += 1
