"""The loops of ingest over notes: steps, rolls, sketches and links, in one pass each where numpy takes dozens.

Conventions: notes of many pieces end to end, track by track and piece by piece. `note_at[k]` is the first note of track
k and `note_at[K]` the number of notes; `track_at[q]` is likewise the first track of piece q. Truth values are bytes.
What a kernel makes it writes into arrays that its caller gives; those that say so in its docstring must be zero.

Shapes:
    M  notes    K  tracks, K1 one more    Q  pieces, Q1 one more    H  values of a signature    B  those of a sketch
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt16, UInt32, UInt64

from midivae.music.native import helper, kernel


# --- names ------------------------------------------------------------------------------------------------------------
@kernel
def hex_numbers(n: int, size: int, text: UInt8[np.ndarray, " _"], number: UInt64[np.ndarray, " Q"]) -> None:
    """The numbers that the first 16 digits of each text say; texts of `size` bytes, end to end, in lower case."""
    for i in range(n):
        value = np.uint64(0)
        for j in range(16):
            digit = text[i * size + j]
            value = value << np.uint64(4) | np.uint64(digit - 48 if digit < 97 else digit - 87)
        number[i] = value


# --- notes to steps ---------------------------------------------------------------------------------------------------
@kernel
def place(
    n_pieces: int,
    track_at: Int64[np.ndarray, " Q1"],
    note_at: Int64[np.ndarray, " K1"],
    part: Int64[np.ndarray, " K"],
    is_drum: UInt8[np.ndarray, " K"],
    pitch: UInt8[np.ndarray, " M"],
    onset_tick: Int32[np.ndarray, " M"],
    duration_tick: Int32[np.ndarray, " M"],
    ticks_per_quarter: Int64[np.ndarray, " Q"],
    steps_per_beat: int,
    onset_step: Int64[np.ndarray, " M"],
    offset_step: Int64[np.ndarray, " M"],
    n_steps: Int64[np.ndarray, " Q"],
    end_tick: Int64[np.ndarray, " Q"],
    chroma: Int64[np.ndarray, "Q 12"],
) -> None:
    """Onset and offset of each note on the grid (`grid.quantise`), and what follows for each piece.

    Writes:
        onset_step, offset_step: of each note.
        n_steps: the last offset of a note that has a part; 0: none has.
        end_tick: the last tick at which a note ends.
        chroma: notes of each pitch class, of tracks that have a part and are no drums; zero before.
    """
    for q in range(n_pieces):
        per_tick, quarter, half = 2.0 * steps_per_beat, 1.0 * ticks_per_quarter[q], 2.0 * ticks_per_quarter[q]
        longest, latest = np.int64(0), np.int64(0)
        for k in range(track_at[q], track_at[q + 1]):
            last = np.int64(0)
            for m in range(note_at[k], note_at[k + 1]):
                end = np.int64(onset_tick[m]) + np.int64(duration_tick[m])
                onset = np.int64((onset_tick[m] * per_tick + quarter) / half)  # as grid.to_steps; ticks are 0 or more
                offset = max(np.int64((end * per_tick + quarter) / half), onset + 1)
                onset_step[m] = onset
                offset_step[m] = offset
                if offset > last:
                    last = offset
                if end > latest:
                    latest = end
            if part[k] >= 0:
                if last > longest:
                    longest = last
                if not is_drum[k]:
                    for m in range(note_at[k], note_at[k + 1]):
                        chroma[12 * q + pitch[m] % 12] += 1
        n_steps[q] = longest
        end_tick[q] = latest


# --- steps to rolls ---------------------------------------------------------------------------------------------------
@kernel
def raster(
    first: int,
    last: int,
    track_at: Int64[np.ndarray, " Q1"],
    note_at: Int64[np.ndarray, " K1"],
    part: Int64[np.ndarray, " K"],
    pitch: UInt8[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    offset_step: Int64[np.ndarray, " M"],
    n_steps: Int64[np.ndarray, " Q"],
    pitch_low: int,
    pitches: int,
    bytes_per_step: int,
    columns: UInt8[np.ndarray, " _"],
    counts: Int64[np.ndarray, "Q 3"],
) -> None:
    """Packed rolls of pieces `first` to `last` - 1, end to end, column by column (`roll.Rasterised.columns`).

    Writes:
        columns: the rolls; zero before.
        counts: of each piece the notes kept, out of range, and merged with one that starts on the same cell; zero
            before.
    """
    base = 0
    for q in range(first, last):
        steps = n_steps[q]
        for k in range(track_at[q], track_at[q + 1]):
            if part[k] < 0:
                continue
            for m in range(note_at[k], note_at[k + 1]):
                row = np.int64(pitch[m]) - pitch_low
                if row < 0 or row >= pitches:
                    counts[3 * q + 1] += 1
                    continue
                bit = part[k] * 2 * pitches + row  # of the onset plane; that of the frame plane lies `pitches` behind
                at = base + (bit >> 3) * steps + onset_step[m]
                mask = np.uint8(0x80) >> np.uint8(bit & 7)
                if columns[at] & mask:
                    counts[3 * q + 2] += 1
                else:
                    columns[at] |= mask
                    counts[3 * q] += 1
                bit += pitches
                at = base + (bit >> 3) * steps
                mask = np.uint8(0x80) >> np.uint8(bit & 7)
                for cell in range(at + onset_step[m], at + offset_step[m]):
                    columns[cell] |= mask
        base += steps * bytes_per_step


# --- hashes and sketches of duplicates --------------------------------------------------------------------------------
ONSET_BITS = 26  # steps that a sort key can tell apart: 97 days of sixteenths at 120 BPM
PITCH_BITS = 7
LINE = ONSET_BITS + PITCH_BITS  # where a line's number begins in a key (line, onset, pitch)
DRUM = 1 << LINE  # the bit of a key (piece, is_drum, onset, pitch) that tells drums
PIECE = LINE + 1  # where the piece begins in it
SHINGLE = 6  # pitches
LEAST_FILLED = 16  # bins with a shingle of their own; below, the lines are too short to tell pieces apart
EMPTY = 0xFFFF  # value of a sketch without enough shingles; equals nothing

_ONSETS, _PITCHES = (1 << ONSET_BITS) - 1, (1 << PITCH_BITS) - 1
_GOLDEN, _MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN_32, _MIX32_1, _MIX32_2 = np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


@helper
def mix(x: np.uint64) -> np.uint64:
    """One step of SplitMix64 from a state (`features.mix` of the next state)."""
    x = np.uint64(x + _GOLDEN)
    x = np.uint64((x ^ (x >> np.uint64(30))) * _MIX_1)
    x = np.uint64((x ^ (x >> np.uint64(27))) * _MIX_2)
    return np.uint64(x ^ (x >> np.uint64(31)))


@helper
def mix32(x: np.uint32) -> np.uint32:
    """The finaliser of MurmurHash3 (Appleby 2011), a permutation of the 32-bit numbers."""
    x = np.uint32((x ^ (x >> np.uint32(16))) * _MIX32_1)
    x = np.uint32((x ^ (x >> np.uint32(13))) * _MIX32_2)
    return np.uint32(x ^ (x >> np.uint32(16)))


@kernel
def keys(
    n_pieces: int,
    track_at: Int64[np.ndarray, " Q1"],
    note_at: Int64[np.ndarray, " K1"],
    is_drum: UInt8[np.ndarray, " K"],
    pitch: UInt8[np.ndarray, " M"],
    onset_step: Int64[np.ndarray, " M"],
    whole: Int64[np.ndarray, " M"],
    by_track: Int64[np.ndarray, " M"],
) -> int:
    """Numbers that sort notes as their lines run.

    Writes:
        whole: (piece, is_drum, onset, pitch) of each note.
        by_track: (track, onset, pitch) of each note but drums, the first of as many as are returned.

    Returns:
        How many notes are no drums; minus 1 minus that where in some track of these an onset comes before the last.
    """
    count = 0
    in_order = True
    for q in range(n_pieces):
        for k in range(track_at[q], track_at[q + 1]):
            before = 0
            for m in range(note_at[k], note_at[k + 1]):
                onset = min(onset_step[m], _ONSETS)  # notes of no part may lie beyond any roll
                key = onset << PITCH_BITS | np.int64(pitch[m])
                if is_drum[k]:
                    whole[m] = q << PIECE | DRUM | key
                else:
                    whole[m] = q << PIECE | key
                    by_track[count] = k << LINE | key
                    count += 1
                    in_order = in_order and onset >= before
                    before = onset
    return count if in_order else -1 - count


@kernel
def music(n_notes: int, whole: Int64[np.ndarray, " M"], hashes: UInt64[np.ndarray, " Q"]) -> None:
    """`duplicates.music_hash` of each piece, from the sorted `whole` of `keys`."""
    begin = 0
    while begin < n_notes:
        q = whole[begin] >> PIECE
        first, lowest, end = np.int64(_ONSETS), np.int64(128), begin
        while end < n_notes and whole[end] >> PIECE == q:
            first = min(first, whole[end] >> PITCH_BITS & _ONSETS)
            if not whole[end] & DRUM:
                lowest = min(lowest, whole[end] & _PITCHES)
            end += 1
        total = np.uint64(0)
        for i in range(begin, end):
            if i > begin and whole[i] == whole[i - 1]:
                continue
            height = whole[i] & _PITCHES
            height = height + 256 if whole[i] & DRUM else height - lowest
            onset = (whole[i] >> PITCH_BITS & _ONSETS) - first
            total = np.uint64(total + mix(np.uint64(onset << 10 | height)))
        hashes[q] = total
        begin = end


@kernel
def shingles(
    n_notes: int,
    key: Int64[np.ndarray, " M"],
    line_bits: int,
    piece_of_line: Int64[np.ndarray, " _"],
    piece: Int64[np.ndarray, " M"],
    number: UInt32[np.ndarray, " M"],
) -> int:
    """The shingles of all lines, as often as the lines repeat them: six successive pitches and their rhythm.

    Args:
        key: (line, onset, pitch) of each note, lines and onsets in order, the line from bit `LINE` + `line_bits` on;
            of notes of one onset the highest counts. Keys with `DRUM` are passed over where `line_bits` is 1.
        piece_of_line: of each line.

    Writes:
        piece, number: of each shingle. The number: five intervals in six bits each, from -32 to 31 semitones, wider
            ones as these; plus, times a constant, how the five times between the six onsets go on, four digits to base
            3, each shorter, alike or longer. Alike are times of a ratio up to 3 : 2, so that rounding seldom counts,
            and doubling all times never.

    Returns:
        How many shingles there are.
    """
    tops = piece  # the highest note of each onset: read before a shingle that it ends is written in its place
    count = 0
    last, top = np.int64(-1), np.int64(0)
    for i in range(n_notes):  # without a jump that depends on the notes
        onset_of_line = key[i] >> PITCH_BITS
        top = max(key[i], top) if onset_of_line == last else key[i]
        count += onset_of_line != last
        last = onset_of_line
        tops[count - 1] = top

    found = 0
    line = np.int64(-1)
    points = 0  # of this line so far: pitches other than the one before
    last_pitch, last_onset, last_time = np.int64(0), np.int64(0), np.int64(0)
    intervals, rhythm = np.int64(0), np.int64(0)
    for i in range(count):
        pitch, onset = tops[i] & _PITCHES, tops[i] >> PITCH_BITS & _ONSETS
        if line_bits and tops[i] & DRUM:
            continue
        if tops[i] >> (LINE + line_bits) != line:
            line = tops[i] >> (LINE + line_bits)
            points = 0
        elif pitch == last_pitch:
            continue
        if points:
            intervals = (intervals << 6 | min(max(pitch - last_pitch, -32), 31) + 32) & ((1 << 30) - 1)
            time = onset - last_onset
            rhythm = (rhythm * 3 + (2 * time > 3 * last_time) + (3 * time >= 2 * last_time)) % 81
            last_time = time
        points += 1
        last_pitch, last_onset = pitch, onset
        if points >= SHINGLE:
            piece[found] = piece_of_line[line]
            number[found] = np.uint32(intervals) + np.uint32(rhythm) * _GOLDEN_32
            found += 1
    return found


@kernel
def sketch(
    n_shingles: int,
    piece: Int64[np.ndarray, " _"],
    number: UInt32[np.ndarray, " _"],
    n_pieces: int,
    bins: int,
    rest_bits: int,
    donors: Int64[np.ndarray, "B B"],
    least_rest: UInt32[np.ndarray, "Q B"],
    column: int,
    hashes: int,
    signatures: UInt16[np.ndarray, "Q H"],
) -> None:
    """One-permutation MinHash: the high bits of a shingle's hash name its bin, of a bin's least rest 16 bits are kept.

    Empty bins are filled from others, each from the first full one of its own fixed order, so that equal means alike.

    References: Li, Owen & Zhang, One permutation hashing, NeurIPS 2012; Li & König, b-bit minwise hashing, WWW 2010:
    unlike values have equal bits once in 65536; Shrivastava, Optimal densification for fast and accurate minwise
    hashing, ICML 2017: there a bin tries others at random, with repetition; here it tries each once.

    Args:
        piece, number: of each shingle.
        bins, rest_bits: how many there are, a power of two, and the bits of a hash that do not name one.
        donors: row by row, the bin that each bin looks into next.
        least_rest: all ones; for us to work in.
        column, hashes: where in a row of `signatures` the sketch goes, and how long a row is.
    """
    for i in range(n_shingles):
        hashed = mix32(number[i])
        at = piece[i] * bins + (hashed >> np.uint32(rest_bits))
        least_rest[at] = min(least_rest[at], np.uint32(hashed & np.uint32((1 << rest_bits) - 1)))
    for q in range(n_pieces):
        filled = 0
        for b in range(bins):
            rest = least_rest[q * bins + b]
            filled += rest >> rest_bits == 0
            value = min(np.int64(rest & 0xFFFF), EMPTY - 1) if rest >> rest_bits == 0 else EMPTY
            signatures[q * hashes + column + b] = value
        for b in range(bins):
            if filled < LEAST_FILLED:
                signatures[q * hashes + column + b] = EMPTY
            elif least_rest[q * bins + b] >> rest_bits:
                tried = 0
                while least_rest[q * bins + donors[tried * bins + b]] >> rest_bits:
                    tried += 1
                rest = least_rest[q * bins + donors[tried * bins + b]]
                signatures[q * hashes + column + b] = min(np.int64(rest & 0xFFFF), EMPTY - 1)


# --- links between sketches -------------------------------------------------------------------------------------------
@helper
def equal_values(signatures: np.ndarray, one: int, other: int, bins: int) -> int:
    """How many values two rows share, in their first sketch or in their second, whichever are more."""
    most = 0
    for family in range(2):
        a, b = (2 * one + family) * bins, (2 * other + family) * bins
        equal = 0
        for i in range(bins):
            equal += signatures[a + i] == signatures[b + i]
        if signatures[a] != EMPTY:
            most = max(most, equal)
    return most


@kernel
def likeness(n_pairs: int, signatures: UInt16[np.ndarray, "2*L H"], bins: int, equal: Int64[np.ndarray, " L"]) -> None:
    """`equal_values` of each of the first L rows with the row that comes L rows behind it."""
    for i in range(n_pairs):
        equal[i] = equal_values(signatures, i, n_pairs + i, bins)


@kernel
def hashes_of_places(n: int, hashed: UInt32[np.ndarray, " _"]) -> None:
    """`mix32` of 0, 1, 2 and so on."""
    for i in range(n):
        hashed[i] = mix32(np.uint32(i))


@kernel
def hashes_of_rows(
    n_rows: int,
    music: Int64[np.ndarray, " Q"],
    n_words: int,
    words: UInt64[np.ndarray, "Q W"],
    hashed: UInt64[np.ndarray, " Q"],
) -> None:
    """A hash of each row's music and words."""
    for i in range(n_rows):
        state = mix(np.uint64(music[i]))
        for j in range(n_words):
            state = mix(state ^ words[i * n_words + j])
        hashed[i] = state


@kernel
def buckets(
    n_bands: int,
    first: int,
    bins: int,
    n_rows: int,
    columns: UInt16[np.ndarray, "B R"],
    ruler: Int64[np.ndarray, " 4"],
    row_bits: int,
    key: UInt64[np.ndarray, "N R"],
) -> None:
    """For each band, from band `first` on, a number of each row that sorts rows by their values in the band's columns.

    32 bits of bucket, as many of the column behind the band as fit, the row. Two buckets that share their 32 bits make
    pairs that fail the check, no more.

    Args:
        ruler: the columns of band 0: three, and one behind; those of the others lie as far on as their number.
    """
    for band in range(n_bands):
        at = band * n_rows
        one = (first + band + ruler[0]) % bins * n_rows
        two = (first + band + ruler[1]) % bins * n_rows
        three = (first + band + ruler[2]) % bins * n_rows
        behind = (first + band + ruler[3]) % bins * n_rows
        for i in range(n_rows):
            values = np.uint64(columns[one + i]) << np.uint64(32) | np.uint64(columns[two + i]) << np.uint64(16)
            values |= np.uint64(columns[three + i])
            bucket = np.uint64(values * _GOLDEN) >> np.uint64(32)  # multiplicative hashing: high bits depend on all
            within = np.uint64(columns[behind + i]) << np.uint64(row_bits) & np.uint64(0xFFFFFFFF)
            key[at + i] = bucket << np.uint64(32) | within | np.uint64(i)


@helper
def root_of(above: np.ndarray, row: int) -> int:
    """The first row of a row's cluster; paths are halved on the way."""
    while above[row] != row:
        above[row] = above[above[row]]
        row = above[row]
    return row


@kernel
def link(
    n_bands: int,
    n_rows: int,
    key: UInt64[np.ndarray, "N R"],
    row_bits: int,
    rows: Int64[np.ndarray, " R"],
    signatures: UInt16[np.ndarray, "Q H"],
    bins: int,
    least: int,
    above: Int64[np.ndarray, " Q"],
) -> None:
    """Links rows of a bucket that share at least `least` values: each with the one before it and with the first.

    Args:
        key: the numbers of `buckets`, sorted in each band.
        rows: the row of `signatures` that each row of the bands is.

    Writes:
        above: a row of the same cluster, not behind it; its own where it is the first.
    """
    mask = np.uint64((1 << row_bits) - 1)
    for band in range(n_bands):
        at = band * n_rows
        head = at
        for i in range(at + 1, at + n_rows):
            if key[i] >> np.uint64(32) != key[head] >> np.uint64(32):
                head = i
                continue
            for neighbour in range(i - 1, head - 1, min(-1, head - i + 1)):  # the one before, and the first if another
                one, other = rows[np.int64(key[neighbour] & mask)], rows[np.int64(key[i] & mask)]
                low, high = root_of(above, one), root_of(above, other)
                if low != high and equal_values(signatures, one, other, bins) >= least:
                    above[max(low, high)] = min(low, high)
