"""Every use of random numbers, with the key of its generator: other stages, samples and epochs change nothing.

A key begins with the `seed` of a stage. `Stream` has what follows.

Offers: `Stream`.
"""

from __future__ import annotations

from enum import Enum

import numpy as np


class Stream(Enum):
    """The stage whose seed opens the key, then the numbers of the key.

    A string names a number that the caller gives; the last item of `CHOICES` is a spawn key.
    """

    WINDOW_ORDER = ("train", "epoch")
    WEIGHTS = ("train", 0)  # first values
    NOISE = ("train", 1, "epoch")  # of latents
    VALIDATION = ("train", 2, "batch")
    TEST = ("train", 3)
    TRANSPOSITION = ("train", 4, "epoch")
    DROPOUT = ("train", 5, "epoch")
    PRIOR = ("train", 6)
    CONTROLS = ("train", 8)  # the directions of attributes
    SAMPLE = ("generate", "job", "sample")  # noise of latents and cells
    CHOICES = ("generate", "job", "sample", (1,))  # radius, direction, key ...
    EXPLORE = ("explore",)  # random parents
    HALVES = ("evaluate", "repeat")  # of held-out pieces
    DRAWS = ("evaluate", "repeat", 1)  # of samples
    RESAMPLED_HALVES = ("evaluate", "round", 2)
    RESAMPLED_PIECES = ("evaluate", "round", 3)
    BOOTSTRAP = ("evaluate", "rows", 4)  # of samples
    MERGED_PARTS = ("evaluate", 5)  # of different pieces
    BASELINE = ("evaluate", "generator", "block")
    RECONSTRUCTED = ("report", "split")  # windows that the page shows

    def seeds(self, seed: int, **numbers: int) -> np.random.SeedSequence:
        """The seed sequence of this stream.

        Args:
            seed: of the stage.
            numbers: those that the stream names.
        """
        _, *key = self.value
        spawn_key = key.pop() if key and isinstance(key[-1], tuple) else ()
        entropy = [numbers[number] if isinstance(number, str) else number for number in key]
        return np.random.SeedSequence([seed, *entropy], spawn_key=spawn_key)

    def rng(self, seed: int, **numbers: int) -> np.random.Generator:
        """A generator of this stream; arguments as for `seeds`."""
        return np.random.Generator(np.random.PCG64(self.seeds(seed, **numbers)))
