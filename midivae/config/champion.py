"""The sections `gate` and `drift` of nightly.yaml: when a model takes the place of another, and when to warn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from midivae.config.base import Fraction, Positive, Section, read_yaml, validated


class Gate(Section):
    """When a new model replaces the champion; docs/operations.md says how the margin was measured.

    Scores are nats per step of the bound on the frozen hold-out: lower is better.
    """

    # standard deviation of the scores of models that differ only in their seed
    seed_sd_nats: Annotated[float, Field(ge=0)] = 0.24
    margin_sds: Annotated[float, Field(ge=0)] = 2.33  # the new model must be better by this many of them
    min_active_share: Fraction = 0.1  # least share of active latent dimensions; below it the latent has collapsed
    min_kl_nats: Annotated[float, Field(ge=0)] = 0.05  # least KL per step; below it the latent has collapsed
    job: str | None = None  # whose samples are checked; None: the first job of the model
    max_invalid_share: Fraction = 0.0  # of samples whose MIDI file cannot be read back
    max_silent_share: Fraction = 0.05  # of samples without a note
    min_density: Annotated[float, Field(ge=0)] = 0.5  # notes per beat of samples, relative to held-out music
    max_density: Annotated[float, Field(gt=0)] = 2.0
    min_novelty: Fraction = 0.5  # least share of the samples' bars that are in no training piece
    max_windows: Positive = 4096  # of the hold-out that are scored, evenly spaced


class Drift(Section):
    """When new pieces differ so much from the champion's training pieces that the night warns."""

    # maximum shift of a feature, in its standard deviations among the training pieces
    max_shift_sd: Annotated[float, Field(gt=0)] = 1.0
    min_windows: Positive = 32  # of new pieces; fewer are not compared
    max_rejected_share: Fraction = 0.5  # of new files that `ingest` rejects
    max_windows: Positive = 4096  # of each side, evenly spaced


class Rules(Section):
    """How successive models are compared."""

    gate: Gate = Gate()
    drift: Drift = Drift()


def load_rules(path: Path) -> Rules:
    """The sections `gate` and `drift` of a YAML file; other sections are ignored.

    Raises:
        ParamsError: the file is missing, is not YAML, or breaks a rule; the message lists every broken rule.
    """
    values = read_yaml(path)
    return validated(Rules, {name: values[name] for name in Rules.model_fields if name in values}, str(path))
