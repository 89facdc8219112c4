"""The sections `gate` and `drift` of nightly.yaml: when a model takes the place of another, and when to warn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from midivae.config.base import Fraction, Positive, Section, read_yaml, validated


class Gate(Section):
    """When a challenger takes the champion's place; docs/operations.md says how the margin was measured.

    Nats are those of the bound, per step of music, on the frozen hold-out: lower is better.
    """

    seed_sd_nats: Annotated[float, Field(ge=0)] = 0.24  # standard deviation of models that differ in their seed alone
    margin_sds: Annotated[float, Field(ge=0)] = 2.33  # by so many of them the challenger must be better
    min_active_share: Fraction = 0.1  # of the latent's dimensions that are used: below, it has collapsed
    min_kl_nats: Annotated[float, Field(ge=0)] = 0.05  # that the latent tells of a step: below, it has collapsed
    job: str | None = None  # whose samples are looked at; None: the first of the model's own
    max_invalid_share: Fraction = 0.0  # of samples whose MIDI file does not read back
    max_silent_share: Fraction = 0.05  # of samples without a note
    min_density: Annotated[float, Field(ge=0)] = 0.5  # notes per beat of samples, as a share of held-out music's
    max_density: Annotated[float, Field(gt=0)] = 2.0
    min_novelty: Fraction = 0.5  # share of the samples' bars that are in no training piece
    max_windows: Positive = 4096  # of the hold-out that are looked at, evenly spaced


class Drift(Section):
    """When new pieces are so unlike the champion's training pieces that a person should know."""

    max_shift_sd: Annotated[float, Field(gt=0)] = 1.0  # how far a feature may move, in its standard deviations there
    min_windows: Positive = 32  # fewer new ones say nothing
    max_rejected_share: Fraction = 0.5  # of the new files that ingest rejects
    max_windows: Positive = 4096  # of either side that are measured, evenly spaced


class Rules(Section):
    """How models that follow each other are compared."""

    gate: Gate = Gate()
    drift: Drift = Drift()


def load_rules(path: Path) -> Rules:
    """The sections `gate` and `drift` of a YAML file; other sections are ignored.

    Raises:
        ParamsError: the file is missing, is not YAML, or breaks a rule; the message lists every broken rule.
    """
    values = read_yaml(path)
    return validated(Rules, {name: values[name] for name in Rules.model_fields if name in values}, str(path))
