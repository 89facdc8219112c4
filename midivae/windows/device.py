"""Windows of a corpus on the training device: packed bits, gathered and unpacked there by tensor operations.

Shapes:
    S  steps of all pieces and the silence between them    X  bytes of one packed step    B  windows of a batch
    Y  bytes of one packed step that the view shows    L  steps before a window    T  steps of it
    N  parts    K  planes    P  pitches

Offers: `BitMatrix`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from midivae.config.train import View
from midivae.music.parts import DRUMS
from midivae.music.roll import pack, unpack
from midivae.windows.batch import Batch
from midivae.windows.corpus import Corpus
from midivae.windows.place import BEHIND, piece_places
from midivae.windows.windows import Windows, least_steps, sample_layout, select_planes

_ROWS_AT_ONCE = 65_536  # rows that are converted at once: so few that the unpacked bits stay in the cache


class BitMatrix:
    """The windows of a corpus on the training device: packed bits, gathered and unpacked there.

    The matrix has only the bits that the view shows, merged if the view merges parts. Each piece is followed by as many
    silent rows as a window may extend beyond it, so every window is one contiguous run of bytes.

    Attributes:
        shape: [T, N, K, P] of a window.
    """

    def __init__(self, corpus: Corpus, windows: Windows, view: View, device: torch.device, context: int = 0) -> None:
        """The windows of a corpus, each with `context` steps before it."""
        layout = sample_layout(corpus.layout, view)
        self.shape = (view.steps, len(layout.parts), view.n_planes, layout.pitches)
        self.context = context
        self._pitched = torch.tensor([name != DRUMS for name in layout.parts], device=device)
        self._bits_per_step = len(layout.parts) * view.n_planes * layout.pitches
        padding = max(context, view.steps - least_steps(view))
        shown = _packed_view(corpus, view)
        padded = np.zeros((context + len(shown) + len(corpus) * padding + view.steps, shown.shape[1]), np.uint8)
        place = np.tile(BEHIND, (len(padded), 1))
        for piece, (first, last) in enumerate(pairwise(corpus.starts.tolist())):
            at = context + first + piece * padding
            padded[at : at + last - first] = shown[first:last]
            place[at : at + last - first] = piece_places(corpus.bar_starts[piece], last - first)
        self._packed = torch.from_numpy(padded).to(device)  # [S, X]
        self._place = torch.from_numpy(place).to(device)  # [S, 4]
        self._start = torch.from_numpy(windows.start + windows.piece * padding).to(device)  # of the steps before
        first = windows.start - corpus.starts[windows.piece]
        self._n_before = torch.from_numpy(np.minimum(context, first)).to(device)
        self._n_inside = torch.from_numpy(np.minimum(view.steps, windows.stop - windows.start)).to(device)
        self._table = _bits_of_bytes(device)

    def __len__(self) -> int:
        return len(self._start)

    @property
    def device(self) -> torch.device:
        """The device that has the bits."""
        return self._packed.device

    @property
    def nbytes(self) -> int:
        """Memory that bits and places take."""
        return self._packed.nbytes + self._place.nbytes

    def in_order(self, size: int) -> tuple[Int[torch.Tensor, " B"], ...]:
        """Numbers of all windows, in order, at most `size` at a time."""
        return torch.split(torch.arange(len(self), device=self.device), size)

    def batch(self, index: Int[torch.Tensor, " B"]) -> Batch:
        """The windows with these numbers, as 0.0 and 1.0."""
        steps = self.context + self.shape[0]
        width = self._packed.shape[1]
        # an overlapping view: row i is the window that starts at row i of the matrix; no byte is copied
        runs = self._packed.as_strided((len(self._packed) - steps + 1, steps * width), (width, 1))
        packed = runs.index_select(0, self._start[index])  # [B, (L + T) * X]
        bits = self._table.index_select(0, packed.reshape(-1).int()).view(len(index), steps, 8 * width)
        both = bits[..., : self._bits_per_step].reshape(len(index), steps, *self.shape[1:])
        n_before, n_inside = self._n_before[index], self._n_inside[index]
        rows = self._start[index, None] + torch.arange(steps, device=self.device)
        place = self._place[rows].long()
        return Batch(
            both[:, self.context :], both[:, : self.context], n_before, n_inside, place, torch.zeros_like(n_before)
        )

    def transposed(self, batch: Batch, most: int, generator: torch.Generator) -> Batch:
        """Each window, with the steps before it, transposed by a random number of semitones.

        All shifts from -`most` to `most` that keep every note in range are equally likely. Drums are not transposed.
        """
        down, up = (room.clamp(max=most) for room in self.room(batch))
        draw = torch.rand(len(batch.x), generator=generator, device=self.device)
        return self.moved(batch, (draw * (down + up + 1)).long() - down)

    def room(self, batch: Batch) -> tuple[Int[torch.Tensor, " B"], Int[torch.Tensor, " B"]]:
        """Semitones by which each window, with the steps before it, can move down and up with every note in range."""
        both = torch.cat([batch.before, batch.x], 1)  # [B, L + T, N, K, P]
        pitches = both.shape[-1]
        used = (both.amax((1, 3)) * self._pitched[:, None]).amax(1) > 0  # [B, P]
        place = torch.arange(pitches, device=both.device)
        low = torch.where(used, place, pitches).amin(1)
        high = torch.where(used, place, -1).amax(1)
        return low, pitches - 1 - high

    def moved(self, batch: Batch, shift: Int[torch.Tensor, " B"]) -> Batch:
        """Each window, with the steps before it, transposed by its number of semitones; drums are not transposed."""
        both = torch.cat([batch.before, batch.x], 1)  # [B, L + T, N, K, P]
        pitches = both.shape[-1]
        place = torch.arange(pitches, device=both.device)
        source = (place - shift[:, None]) % pitches  # pitches that wrap around are silent
        moved = both.gather(-1, source[:, None, None, None].expand_as(both))
        moved = torch.where(self._pitched[:, None, None], moved, both)
        return batch._replace(before=moved[:, : self.context], x=moved[:, self.context :], shift=batch.shift + shift)


def _bits_of_bytes(device: torch.device) -> Float[torch.Tensor, "256 8"]:
    """The bits of each byte, most significant first, as from `numpy.unpackbits`."""
    bytes_ = np.arange(256, dtype=np.uint8)[:, None]
    return torch.from_numpy(np.unpackbits(bytes_, axis=1).astype(np.float32)).to(device)


def _packed_view(corpus: Corpus, view: View) -> UInt8[np.ndarray, "S Y"]:
    """The bit matrix with only the bits that the view shows."""
    if not view.merge_parts and view.n_planes == 2:
        return corpus.packed
    blocks = [corpus.packed[at : at + _ROWS_AT_ONCE] for at in range(0, max(1, len(corpus.packed)), _ROWS_AT_ONCE)]
    return np.concatenate([pack(select_planes(unpack(block, corpus.layout), corpus.layout, view)) for block in blocks])
