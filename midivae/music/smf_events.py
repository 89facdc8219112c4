"""The compiled pass over the events of a Standard MIDI File. Nothing here raises.

`scan` walks over the events of all tracks once. It pairs the note-ons and note-offs of a track, and keeps what concerns
more than one track (programs, banks, resets, tempos ...) in a table of others. `smf_columns` goes on from there.

Sources of the rules:
    RP-001  MIDI Manufacturers Association, "Standard MIDI Files 1.0"; cited by its headings
    MIDI    "MIDI 1.0 Detailed Specification"; cited by its headings
    GM, GM2, GS, XG  "General MIDI System Level 1" and "2"; Roland SC-55 and SC-88; Yamaha "XG Specifications"

Conventions, and the tables: `smf_tables`. Arguments of the functions, beside those that say it themselves:
    data    uint8 [B], the file
    at      the byte at which what is read begins
    limit   the byte behind the last that may be read
    notes, others, chunks, state  the tables
    fifo    int32 [2, slots], the first and the last note of each slot that sounds, -1 where there is none
All functions that call each other are in this file, for numba's cache.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

from midivae.music import smf_tables as code

_MTRK, _MTHD = 0x4D54726B, 0x4D546864


@njit(cache=True)
@no_type_check
def scan(data, begin, end, max_notes, n_ports):
    """Reads the events of all tracks.

    Args:
        begin, end: bytes between which the chunks behind the header lie.
        max_notes: with more the scan ends.
        n_ports: for how many ports there is place; with more the status is MORE_PORTS.

    Returns:
        `(notes, others, chunks, state)`; the first rows of the tables are used, as `state` says.
    """
    size = max(end - begin, 0)
    notes = np.empty((min(size // 3, max_notes), 6), np.int32)  # a note-on has three bytes or more
    others = np.empty((size // 2 + 1, 2), np.int64)  # an event has two bytes or more
    chunks = np.empty((size // 8 + 1, 3), np.int64)
    state = np.zeros(code.STATE_SIZE, np.int64)
    state[code.N_PORTS], state[code.PORT_PLACES] = 1, n_ports
    state[code.PORTS_AT + 1 :] = -1
    fifo = np.full((2, 2048 * n_ports), -1, np.int32)
    at = np.int64(begin)
    while at + 8 <= end and state[code.STATUS] == code.OK:
        word = code.big_endian(data, at, 4)
        if word == _MTRK:
            at = _track(data, at, end, notes, others, (chunks, fifo), state)
        elif word != _MTHD and _chunk_at(data, at, end):
            at += 8 + code.big_endian(data, at + 4, 4)  # RP-001 "Chunks": alien chunks are skipped
        else:
            found = _find_track(data, at, end)
            if found < 0:
                break
            code.fault(state, code.JUNK, at)
            at = found
    if at < end and state[code.STATUS] == code.OK:
        code.fault(state, code.TRAILING, at)
    return notes, others, chunks, state


# --- chunks -----------------------------------------------------------------------------------------------------------
@njit(cache=True)
@no_type_check
def _track(data, start, end, notes, others, more, state):
    """Reads the track whose chunk starts at `start`; returns where to look for the next chunk."""
    chunks, fifo = more
    first = state[code.N_NOTES]
    state[code.N_CHUNKS] += 1
    state[code.TICK : code.PACKET] = 0
    state[code.RANK], state[code.PACKET], state[code.NAME] = 1, -1, -1
    at = start + 8
    stop = at + code.big_endian(data, start + 4, 4)
    limit = min(stop, end)
    if stop > end:
        code.fault(state, code.BAD_LENGTH, start + 4)
        state[code.BEYOND] = 1
    while True:
        at, ending = _events(data, at, limit, notes, others, fifo, state)
        if ending in (code.REJECTED, code.ENDED):
            break
        if limit < end and ending != code.NEXT_TRACK and not _chunk_at(data, limit, end):
            code.fault(state, code.BAD_LENGTH, start + 4)  # it is too small: the events go on
            limit, state[code.BEYOND] = end, 1
        elif ending != code.UNFINISHED:
            code.fault(state, code.NO_END, at)
            break
        elif limit < end:
            code.reject(state, code.INCOMPLETE, at, limit)
            break
        else:
            code.fault(state, code.CUT, at)
            at = end
            break
    row = state[code.N_CHUNKS] - 1
    chunks[row, code.FIRST_NOTE], chunks[row, code.NAME_AT], chunks[row, code.NAME_LENGTH] = first, 0, 0
    if state[code.NAME] > 0:
        length, begin = code.quantity(data, state[code.NAME], end)
        chunks[row, code.NAME_AT], chunks[row, code.NAME_LENGTH] = begin, length
    _end_rest(notes, fifo, state, first, at)
    return _next_chunk(data, at, start, stop, end, state) if ending == code.ENDED else at


@njit(cache=True)
@no_type_check
def _next_chunk(data, at, start, stop, end, state):
    """Where the next chunk starts, behind an end of track; the track's length says at `stop`."""
    if at == stop or at >= end:
        return at
    is_track = at + 8 <= end and code.big_endian(data, at, 4) == _MTRK
    if at < stop <= end:
        if not is_track and (stop == end or _chunk_at(data, stop, end)):
            code.fault(state, code.AFTER_END, at)
            return stop
        code.fault(state, code.BAD_LENGTH, start + 4)
    return at


@njit(cache=True)
@no_type_check
def _chunk_at(data, at, end):
    """Whether a chunk starts here: a track or a header; or letters, digits and spaces, and a length that fits."""
    if at + 8 > end:
        return False
    word = code.big_endian(data, at, 4)
    if word in (_MTRK, _MTHD):
        return True
    for i in range(at, at + 4):
        byte = data[i]
        if not (byte == 32 or 48 <= byte <= 57 or 65 <= byte <= 90 or 97 <= byte <= 122):
            return False
    return at + 8 + code.big_endian(data, at + 4, 4) <= end


@njit(cache=True)
@no_type_check
def _find_track(data, at, end):
    """The next byte at which a track's chunk starts; -1 where there is none before another header."""
    for i in range(at, end - 7):
        if data[i] == 0x4D:
            word = code.big_endian(data, i, 4)
            if word == _MTRK:
                return i
            if word == _MTHD:
                break
    return np.int64(-1)


# --- events -----------------------------------------------------------------------------------------------------------
@njit(cache=True)
@no_type_check
def _events(data, at, limit, notes, others, fifo, state):
    """Reads events up to the end of track or the limit.

    What most events need is in local variables, and done here: calls that pass arrays take longer than an event.

    Returns:
        The byte behind the last event, and how it ended: LIMIT, ENDED, NEXT_TRACK, UNFINISHED or REJECTED.
    """
    tick, rank, running = state[code.TICK], state[code.RANK], state[code.RUNNING]
    n, base = state[code.N_NOTES], state[code.BASE]
    ending = np.int64(code.LIMIT)
    while at < limit and ending == code.LIMIT:
        if state[code.BEYOND] and data[at] == 0x4D and at + 8 <= limit and code.big_endian(data, at, 4) == _MTRK:
            ending = np.int64(code.NEXT_TRACK)
            break
        delta, after = np.int64(data[at]), at + 1
        if delta >= 0x80:
            delta, after = code.quantity(data, at, limit)
            if delta < 0:
                ending = _no_quantity(state, delta, at)
                break
        if after >= limit:
            ending = np.int64(code.UNFINISHED)
            break
        status = np.int64(data[after])
        if status >= 0x80:
            after += 1
        elif running == 0:
            ending = code.reject(state, code.NO_STATUS, after, status)
            break
        else:
            status = running
            if state[code.LAPSED]:
                # RP-001 "MTrk Events": sysex and meta events cancel running status; players go on with it
                code.fault(state, code.LAPSED_STATUS, after)
                state[code.LAPSED] = 0
        if status >= 0xF0:
            state[code.TICK], state[code.RANK] = tick, rank
            after = _special(data, after, limit, status, delta, others, state)
            if after < 0:
                ending = after
                break
            tick, rank, base = state[code.TICK], state[code.RANK], state[code.BASE]
            if state[code.ENDED_TRACK]:
                ending = np.int64(code.ENDED)
            at = after
            continue
        length = 1 if 0xC0 <= status < 0xE0 else 2
        if after + length > limit:
            ending = np.int64(code.UNFINISHED)
            break
        running, state[code.LAPSED] = status, 0
        if delta > 0:
            tick, rank = tick + delta, np.int64(1)
        first, second = np.int64(data[after]), np.int64(data[after + length - 1])
        if status < 0xA0:
            if first > 127 or tick > code.MAX_TICK:
                why, value = (code.BAD_PITCH, first) if first > 127 else (code.BAD_TIME, tick)
                ending = code.reject(state, why, after, value)
                break
            if second > 127:
                code.fault(state, code.HIGH_BYTE, after + 1)
                second = np.int64(127)
            slot = (base + (status & 15)) * 128 + first
            sounding = fifo[0, slot]
            if status >= 0x90 and second > 0:
                if n >= len(notes):
                    ending = code.reject(state, code.TOO_MANY_NOTES, at, n)
                    break
                notes[n, code.ONSET], notes[n, code.END], notes[n, code.NEXT] = tick, -1, -1
                notes[n, code.SLOT], notes[n, code.VELOCITY], notes[n, code.LOOSE] = slot, second, code.BY_NOTE_OFF
                if sounding < 0:
                    fifo[0, slot] = n
                else:
                    notes[fifo[1, slot], code.NEXT] = n
                fifo[1, slot] = n
                n += 1
                rank += 1
            elif sounding >= 0:  # MIDI "Note-Off": or a note-on with velocity 0; the first on is the first off
                notes[sounding, code.END] = tick
                fifo[0, slot] = notes[sounding, code.NEXT]
            else:  # it may end a note of another track
                code.append(others, state, tick, rank, code.NOTE_OFF, 0, slot)
        elif first > 127 or second > 127:
            code.fault(state, code.HIGH_BYTE, after)
        elif status >= 0xC0:
            if status < 0xD0:
                code.append(others, state, tick, rank, code.PROGRAM, base + (status & 15), first)
        elif status >= 0xB0:
            if first == 0:
                code.append(others, state, tick, rank, code.BANK, base + (status & 15), second)
            elif first == 120 or first >= 123:  # MIDI "Channel Mode Messages": all sound off, all notes off
                code.append(others, state, tick, rank, code.ALL_OFF, base + (status & 15), np.int64(0))
                _end_all(notes, fifo, base + (status & 15), tick)
        at = after + length
    state[code.TICK], state[code.RANK], state[code.RUNNING], state[code.N_NOTES] = tick, rank, running, n
    return at, ending


@njit(cache=True)
@no_type_check
def _end_all(notes, fifo, key, tick):
    """Ends the notes of a key that sound."""
    for slot in range(key * 128, key * 128 + 128):
        note = fifo[0, slot]
        fifo[0, slot] = -1
        while note >= 0:
            notes[note, code.END], notes[note, code.LOOSE] = min(tick, code.MAX_TICK), code.BY_CONTROLLER
            note = notes[note, code.NEXT]


@njit(cache=True)
@no_type_check
def _end_rest(notes, fifo, state, first, at):
    """Ends the notes of a track that sound at its end."""
    tick = state[code.TICK]
    state[code.LAST_TICK] = max(state[code.LAST_TICK], tick)
    for note in range(first, state[code.N_NOTES]):
        if notes[note, code.END] < 0:
            if tick > code.MAX_TICK:
                if state[code.STATUS] == code.OK:
                    code.reject(state, code.BAD_TIME, at, tick)
                return
            notes[note, code.END], notes[note, code.LOOSE] = tick, code.BY_END_OF_TRACK
            fifo[0, notes[note, code.SLOT]] = -1


@njit(cache=True)
@no_type_check
def _special(data, at, limit, status, delta, others, state):
    """A system or meta event behind its status byte; returns the byte behind it, UNFINISHED or REJECTED."""
    begin, length = at, np.int64(0)
    if status in (0xF0, 0xF7, 0xFF):
        begin = at + 1 if status == 0xFF else at
        length, begin = code.quantity(data, begin, limit)
        if length < 0:
            return _no_quantity(state, length, at)
    elif status in (0xF4, 0xF5, 0xF9, 0xFD):
        return code.reject(state, code.UNDEFINED, at - 1, status)
    elif status < 0xF4:  # MIDI "System Common Messages"; RP-001 has them in escapes only, but their lengths are known
        length = np.int64(2 if status == 0xF2 else 1)
    if begin + length > limit:
        return np.int64(code.UNFINISHED)
    if delta > 0:
        state[code.TICK] += delta
        state[code.RANK] = 1
    state[code.LAPSED] = state[code.LAPSED] or status < 0xF8 or status == 0xFF
    if status == 0xFF:
        return _meta(data, np.int64(data[at]), at, begin, length, others, state)
    if status in (0xF0, 0xF7):
        _sysex(data, status, begin, length, others, state)
    return begin + length


@njit(cache=True)
@no_type_check
def _meta(data, kind, at, begin, length, others, state):
    """RP-001 "Meta-Events": those that say something of notes; all others are skipped. Returns as `_special` does."""
    tick, rank = state[code.TICK], state[code.RANK]
    if kind == 0x2F:
        state[code.ENDED_TRACK] = 1
    elif kind == 0x03 and length > 0 and state[code.NAME] < 0:
        state[code.NAME] = at + 1
    elif kind == 0x21 and length > 0:  # port prefix: in no standard, but in use since the nineties
        port = code.PORTS_AT + np.int64(data[begin])
        if state[port] < 0:
            if state[code.N_PORTS] == state[code.PORT_PLACES]:
                return code.reject(state, code.MORE_PORTS, begin, state[code.N_PORTS])
            state[port] = state[code.N_PORTS]
            state[code.N_PORTS] += 1
        state[code.BASE] = state[port] * 16
    elif kind in (0x51, 0x58, 0x59) and length >= 2:
        value = code.big_endian(data, begin, min(length, 3) if kind == 0x51 else 2)
        first, second = value >> 8, value & 0xFF
        if kind == 0x51 and length >= 3 and value > 0:
            code.append(others, state, tick, rank, code.TEMPO, 0, value)
        elif kind == 0x58 and first > 0 and second <= 6:  # numerator, and denominator as a power of two: up to 64
            code.append(others, state, tick, rank, code.METRE, 0, value)
        elif kind == 0x59 and (first <= 7 or first >= 249) and second <= 1:  # sharps, or flats below 0; minor
            code.append(others, state, tick, rank, code.KEY, 0, value)
        else:
            code.fault(state, code.BAD_META, begin)
    return begin + length


@njit(cache=True)
@no_type_check
def _no_quantity(state, result, at):
    return code.reject(state, code.LONG_QUANTITY, at, 0) if result == code.REJECTED else np.int64(code.UNFINISHED)


# --- system exclusive messages ----------------------------------------------------------------------------------------
@njit(cache=True)
@no_type_check
def _sysex(data, status, begin, length, others, state):
    """RP-001 "MTrk Events": F0 starts a message, F7 goes on with it until a packet ends in F7; else F7 is an escape."""
    last = begin + length
    if status == 0xF0:
        state[code.PACKET] = 0
    elif state[code.PACKET] < 0:
        if length == 0 or data[begin] != 0xF0:
            return  # an escape with something else than a system exclusive message
        state[code.PACKET] = 0
        begin += 1
    n = state[code.PACKET]
    for i in range(begin, min(last, begin + code.PACKET_BYTES)):
        if n < code.PACKET_BYTES:
            state[code.PACKET_AT + n] = data[i]
        n += 1
    n += max(0, last - begin - code.PACKET_BYTES)
    complete = last > begin and data[last - 1] == 0xF7
    state[code.PACKET] = -1 if complete else n
    _known_message(state[code.PACKET_AT : code.PACKET_AT + code.PACKET_BYTES], n - 1 if complete else n, others, state)


@njit(cache=True)
@no_type_check
def _known_message(said, n, others, state):
    """Resets, and what makes a channel play drums: `n` bytes between F0 and F7."""
    kind, key, value = -1, np.int64(0), np.int64(0)
    if n == 4 and said[0] == 0x7E and said[2] == 9 and 1 <= said[3] <= 3:  # GM "Turn GM System On", "Off"; GM2 "On"
        kind, value = code.RESET, np.int64(code.GM if said[3] == 1 else code.GM2 if said[3] == 3 else code.UNDECLARED)
    elif n == 9 and said[0] == 0x41 and said[2] == 0x42 and said[3] == 0x12:  # GS "Data Set 1", with a checksum
        if (said[4] + said[5] + said[6] + said[7] + said[8]) % 128 != 0:
            return
        if said[5] == 0 and said[6] == 0x7F and (said[4] == 0x40 or said[4] == 0):  # "GS Reset", "System Mode Set"
            kind, value = code.RESET, np.int64(code.GS)
        elif said[4] == 0x40 and said[5] >> 4 == 1 and said[6] == 0x15:  # "Use for rhythm part"
            part = said[5] & 15  # block 0 is part 10, 1 to 9 are parts 1 to 9, A to F parts 11 to 16
            channel = 9 if part == 0 else part - 1 if part < 10 else part
            kind, key, value = code.RHYTHM, state[code.BASE] + channel, np.int64(said[7] > 0)
    elif n == 7 and said[0] == 0x43 and said[1] >> 4 == 1 and said[2] == 0x4C:  # XG "Parameter Change"
        if said[3] == 0 and said[4] == 0 and said[5] == 0x7E:  # "XG System On"
            kind, value = code.RESET, np.int64(code.XG)
        elif said[3] == 8 and said[4] < 16 and said[5] == 7:  # "Part Mode": 0 is normal, others are drums
            kind, key, value = code.RHYTHM, state[code.BASE] + said[4], np.int64(said[6] > 0)
    if kind >= 0:
        rank = np.int64(0) if kind == code.RESET else state[code.RANK]
        code.append(others, state, state[code.TICK], rank, kind, key, value)
