"""The loop that sets the cells of a packed roll; `roll.rasterise` is the function to call.

Compiled by numba when it is first called on a machine, and loaded from numba's cache after that.

Offers: `fill`.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True)
@no_type_check  # numba compiles the function as it stands: no run-time check of its annotations may wrap it
def fill(columns, row, part, onset_step, offset_step, parts, pitches):
    """Sets the cells of notes, as the rules of `roll.py` say.

    Args:
        columns: uint8 [X, T], all zero; written to.
        row, part, onset_step, offset_step: int [N], of each note; a negative part leaves it out.
        parts, pitches: how many the layout has.

    Returns:
        How many notes are kept, out of range, and merged with one that starts on the same cell.

    Raises:
        ValueError: a note does not lie in the roll.
    """
    kept = out_of_range = merged = 0
    for i in range(len(row)):
        if part[i] < 0:
            continue
        if part[i] >= parts or not 0 <= onset_step[i] < offset_step[i] <= columns.shape[1]:
            raise ValueError("a note does not lie in its roll")
        if not 0 <= row[i] < pitches:
            out_of_range += 1
            continue
        onset_bit = part[i] * 2 * pitches + row[i]
        frame_bit = onset_bit + pitches
        mask = np.uint8(0x80 >> (onset_bit & 7))
        if columns[onset_bit >> 3, onset_step[i]] & mask:
            merged += 1
        else:
            kept += 1
        columns[onset_bit >> 3, onset_step[i]] |= mask
        for step in range(onset_step[i], offset_step[i]):
            columns[frame_bit >> 3, step] |= np.uint8(0x80 >> (frame_bit & 7))
    return kept, out_of_range, merged
