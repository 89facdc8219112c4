"""The schedule of training: the learning rate and the weight of the KL term at each step. Steps count from 1.

Offers: `learning_rate`, `kl_weight`, `cosine`.
"""

from __future__ import annotations

import math

from midivae.config.train import Fit


def learning_rate(settings: Fit, step: int, max_steps: int) -> float:
    """Rises linearly during the warmup; falls along a cosine if params say so, else stays."""
    fall = cosine(step, max_steps) if settings.decay else 1.0
    return settings.learning_rate * _rise(step, settings.warmup_steps) * fall


def kl_weight(settings: Fit, step: int) -> float:
    """The factor of beta: rises linearly from 0 to 1 over `anneal_steps`."""
    return _rise(step, settings.anneal_steps)


def cosine(step: int, steps: int) -> float:
    """Half a cosine, from 1 at the first step to 0 one step after the last."""
    return 0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps)


def _rise(step: int, steps: int) -> float:
    return min(1.0, step / steps) if steps else 1.0
