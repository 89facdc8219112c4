"""Params of stage `ingest`: from MIDI bytes to piano rolls."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from midivae.config.base import Fraction, Positive, Section, Seed


class Parts(Section):
    """Which notes form a part of a roll."""

    rule: Literal["track", "program", "merged"] = "track"
    # rule `track`: part -> patterns for track names: shell-style, case ignored; the first part that matches wins
    tracks: dict[str, tuple[str, ...]] = Field(
        default={"soprano": ("soprano*",), "alto": ("alto*",), "tenor": ("tenor*",), "bass": ("bass", "bass[!a-z]*")}
    )
    rest: str | None = None  # rule `track`: the part for all other tracks; None: their notes are left out

    @property
    def names(self) -> tuple[str, ...]:
        """The parts of every roll, in order."""
        if self.rule == "merged":
            return ("merged",)
        if self.rule == "program":
            return ("drums", "piano", "guitar", "bass", "strings")
        rest = (self.rest,) if self.rest is not None and self.rest not in self.tracks else ()
        return (*self.tracks, *rest)

    @model_validator(mode="after")
    def _some_part(self) -> Parts:
        if self.rule == "track" and not self.names:
            raise ValueError("rule `track` needs at least one entry in `tracks`, or a `rest`")
        return self


class IngestLimits(Section):
    """A MIDI file beyond one of these limits is rejected."""

    max_bytes: Positive = 16 * 2**20
    max_notes: Positive = 500_000
    max_tracks: Positive = 1024
    max_steps: Positive = 65_536  # over an hour of sixteenths at 240 BPM
    min_notes: Positive = 8  # in the parts of the roll
    min_steps: Positive = 16
    time_s: Annotated[float, Field(gt=0)] = 20.0  # per file
    memory_bytes: Positive = 2 * 2**30  # per worker process


class Duplicates(Section):
    """Which pieces are linked as duplicates: equal music always, and music with similar melodic lines."""

    # least Jaccard index that links two pieces; None: equal music only
    likeness: Annotated[float, Field(gt=0, le=1)] | None = 0.2


class Split(Section):
    """How pieces are split: by the hash of their duplicate cluster, so that new files do not move old ones."""

    own: bool = False  # True: the corpus's own split, if it has one; pieces without one are split by the hash
    valid: Fraction = 0.1
    test: Fraction = 0.1
    seed: Seed = 0

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Split:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} + test {self.test} leave nothing to train on; their sum must be < 1")
        return self


class Ingest(Section):
    """Stage `ingest`: from MIDI bytes to piano rolls."""

    steps_per_beat: Annotated[int, Field(ge=1, le=96)] = 4
    pitch_low: Annotated[int, Field(ge=0, le=127)] = 36  # lowest pitch of the roll
    pitches: Annotated[int, Field(ge=1, le=128)] = 48  # number of pitches, upwards from pitch_low
    parts: Parts = Parts()
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    limits: IngestLimits = IngestLimits()
    pieces_per_shard: Positive = 4096  # about; the number of shards is a power of two

    @model_validator(mode="after")
    def _pitches_exist(self) -> Ingest:
        if self.pitch_low + self.pitches > 128:
            raise ValueError(f"pitch_low {self.pitch_low} + pitches {self.pitches} > 128, the number of MIDI pitches")
        return self
