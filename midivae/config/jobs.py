"""Params of stage `generate`: jobs of samples, one class per mode, and the text that names a parent."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from midivae.config.base import Positive, Range, Section, Seed
from midivae.config.train import ModelName


class Job(Section):
    """The params that jobs of all modes have."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]  # also the folder of its .mid files
    mode: str
    count: Positive
    model: ModelName | None = None  # one of train.compare; None: train.model
    # a number: cells are drawn at that temperature; None: a cell sounds if its probability is above the threshold;
    # "auto": 1.0 for the transformer, whose cells depend on each other, None for dense layers, whose cells do not
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] | None = "auto"
    # with a temperature: outcomes below probability 1 - top_p are excluded
    top_p: Annotated[float, Field(gt=0.5, le=1)] = 0.95
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.3  # without a temperature: a cell sounds above this probability
    # normal: latents are drawn from a standard normal; fitted: from the prior that was fitted to the training latents;
    # "auto": fitted if the model has such a prior
    prior: Literal["auto", "normal", "fitted"] = "auto"
    transpose: Annotated[int, Field(ge=-24, le=24)] = 0  # semitones by which the finished music is transposed
    tempo_qpm: Annotated[float, Field(ge=4, le=960)] | None = None  # None: the median of the training pieces
    # part -> General MIDI program; other parts have the program that is most used in the training pieces
    programs: dict[str, Annotated[int, Field(ge=0, le=127)]] = Field(default={})
    midi_files: bool = True  # also write .mid files


_PARENT = re.compile(
    r"(split):(train|valid|test)|(piece|file):(.+?)(?:@([1-9]\d{0,6}))?|(sample):([a-z0-9][a-z0-9-]*-\d{7,18})"
)


class Parent(NamedTuple):
    """Where the music of a job comes from."""

    kind: str  # split, piece, file or sample
    name: str  # of the split, the piece (its id, or its path in the corpus), the file or the sample
    bar: int  # where the window starts; bars count from 1

    @classmethod
    def parse(cls, text: str) -> Parent:
        """The parent that a text such as `piece:bwv1.6.mid@9` names.

        Raises:
            ValueError: the text names no parent.
        """
        match = _PARENT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"parent {text!r:.80} is none of split:train|valid|test (a window of any of its pieces, drawn anew for "
                "each sample), piece:ID-OR-PATH[@BAR], file:PATH[@BAR] (bars count from 1), sample:JOB-0000012"
            )
        split, of_split, kind, name, bar, sample, of_sample = match.groups()
        return cls(split or kind or sample, of_split or name or of_sample, int(bar or 1))


def _checked_parent(text: str) -> str:
    Parent.parse(text)
    return text


ParentText = Annotated[str, AfterValidator(_checked_parent)]
HELD_OUT_WINDOW = ("split:test",)


# share of each beat's fine latent dimensions that are used, the most important ones first: 1 keeps the parents' notes,
# 0 their idea alone
Fidelity = Annotated[float, Field(ge=0, le=1)]


class FromOne(Job):
    """A mode whose samples have one parent each: of n parents, sample i has number i modulo n."""

    parents: Annotated[tuple[ParentText, ...], Field(min_length=1)] = HELD_OUT_WINDOW


class Sample(Job):
    """Latents drawn from the prior."""

    mode: Literal["sample"] = "sample"
    # place in a piece of 16 bars: at its start, in the middle, at its end; None: the model is not told
    place: Literal["start", "middle", "end"] | None = None


class Reconstruct(FromOne):
    """Windows encoded and decoded."""

    mode: Literal["reconstruct"] = "reconstruct"
    fidelity: Fidelity = 1.0


def _not_negative(value: float | tuple[float, float]) -> float | tuple[float, float]:
    if min(value if isinstance(value, tuple) else (value,)) < 0:
        raise ValueError("must not be negative")
    return value


class Vary(FromOne):
    """Music similar to a parent."""

    mode: Literal["vary"] = "vary"
    # how far the latent moves, in standard deviations of the prior: 0.1 almost the same, 0.5 similar, 1 related,
    # 3 unrelated; two numbers: drawn evenly between them
    radius: Annotated[Range, AfterValidator(_not_negative)] = 0.5
    fidelity: Fidelity = 1.0


class Blend(Job):
    """Music between two or more parents."""

    mode: Literal["blend"] = "blend"
    parents: Annotated[tuple[ParentText, ...], Field(min_length=2)] = HELD_OUT_WINDOW * 2
    # slerp: from the first parent to the second along the sphere, in `steps` samples; barycentre: the weighted mean of
    # any number of parents
    method: Literal["slerp", "barycentre"] = "slerp"
    steps: Annotated[int, Field(ge=2)] = 8  # samples of a path, with both ends (slerp)
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None  # one per parent (barycentre); None: drawn evenly
    fidelity: Fidelity = 1.0

    @model_validator(mode="after")
    def _weights_fit(self) -> Blend:
        if self.method == "slerp":
            if len(self.parents) != 2 or self.weights is not None:
                raise ValueError(
                    f"method slerp goes from one parent to another, without weights; it has {len(self.parents)} parents"
                    f"{' and weights' if self.weights is not None else ''}; set method to barycentre"
                )
        elif self.weights is not None:
            if len(self.weights) != len(self.parents):
                raise ValueError(f"{len(self.weights)} weights for {len(self.parents)} parents; give one for each")
            if abs(sum(self.weights) - 1) > 1e-6:
                raise ValueError(f"weights {list(self.weights)} sum to {sum(self.weights):g}; they must sum to 1")
        return self


ATTRIBUTES = ("density", "polyphony", "note_length", "syncopation", "register", "key")  # and balance:<part>


class Edit(FromOne):
    """A parent with some attributes changed and the others kept."""

    mode: Literal["edit"] = "edit"
    # attribute -> change; two numbers: drawn evenly between them. Units: density, polyphony and note_length relative
    # (0.2: 20 % more); syncopation and balance:<part> in shares of the notes; register in semitones; key in fifths
    # (1: one sharp more). None: every attribute that the model offers, by its usual change
    changes: Annotated[dict[str, Range], Field(min_length=1)] | None = None
    fidelity: Fidelity = 1.0
    together: bool = False  # True: each sample has all changes; False: of n changes, sample i has number i modulo n

    @field_validator("changes")
    @classmethod
    def _known(cls, changes: dict[str, Range] | None) -> dict[str, Range] | None:
        for name, change in (changes or {}).items():
            if name not in ATTRIBUTES and not name.startswith("balance:"):
                raise ValueError(f"no attribute {name!r}; there are {', '.join(ATTRIBUTES)} and balance:<part>")
            lowest = min(change) if isinstance(change, tuple) else change
            if name in ("density", "polyphony", "note_length") and lowest <= -1:
                raise ValueError(f"{name} {lowest:+g} leaves nothing: relative changes must be above -1")
        return changes


class Infill(FromOne):
    """A parent with some bars made anew; what is around them stays to the note."""

    mode: Literal["infill"] = "infill"
    bars: tuple[Positive, Positive] | None = None  # the first and the last, from 1; None: the middle half of the window

    @field_validator("bars")
    @classmethod
    def _in_order(cls, bars: tuple[int, int] | None) -> tuple[int, int] | None:
        if bars is not None and bars[0] > bars[1]:
            raise ValueError(f"bars {bars[0]} to {bars[1]}: the first lies behind the last")
        return bars


class Accompany(FromOne):
    """Some parts of a parent, with all other parts made anew: a melody that is harmonised."""

    mode: Literal["accompany"] = "accompany"
    parts: tuple[str, ...] | None = None  # that stay; None: the first


class Replace(FromOne):
    """A parent with some parts made anew: a new melody over the same accompaniment."""

    mode: Literal["replace"] = "replace"
    parts: tuple[str, ...] | None = None  # that are made anew; None: the first


class Continue(FromOne):
    """A continuation of a parent's window."""

    mode: Literal["continue"] = "continue"
    windows: Positive = 1  # number of new windows, one after the other
    lead: bool = True  # the sample begins with the parent's window
    one_key: bool = True  # stays in the key of the parent's window


class Song(Job):
    """Long pieces: windows that follow each other."""

    mode: Literal["song"] = "song"
    bars: Positive = 64  # a multiple of the bars of a window
    # a letter per section, all equally long; a repeated letter is a variation of its first section; None: one section
    form: Annotated[str, Field(pattern=r"^[A-Z]{1,64}$")] | None = None
    radius: Annotated[float, Field(ge=0)] = 0.3  # of the variations, as in mode vary
    one_key: bool = True  # stays in the key of its first window


class Ensemble(Job):
    """Several instruments together."""

    mode: Literal["ensemble"] = "ensemble"
    # joint: all parts from one latent; merged: each part from its own sample, moved to a common key and its register
    method: Literal["joint", "merged"] = "joint"


_KINDS: tuple[type[Job], ...] = (
    Sample,
    Reconstruct,
    Vary,
    Blend,
    Edit,
    Infill,
    Accompany,
    Replace,
    Continue,
    Song,
    Ensemble,
)
_MODES = {kind.model_fields["mode"].default: kind for kind in _KINDS}


def _job(values: Any) -> Any:
    """A job of the class of its mode; without a mode, of `Sample`."""
    if not isinstance(values, dict):
        return values
    mode = values.get("mode", "sample")
    kind = _MODES.get(mode) if isinstance(mode, str) else None
    if kind is None:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(_MODES)}")
    return kind.model_validate(values)


AnyJob = Annotated[SerializeAsAny[Job], BeforeValidator(_job)]


class Generate(Section):
    """Stage `generate`: jobs of samples."""

    seed: Seed = 0
    jobs: tuple[AnyJob, ...] = (
        Sample(name="sample", count=1536),
        Sample(name="normal", count=256, prior="normal"),
        Sample(name="mlp", count=256, model="mlp", threshold=0.2),
        Sample(name="autoencoder", count=256, model="autoencoder", threshold=0.2),
        Reconstruct(name="reconstruct", count=128),
        Vary(name="vary", count=128, radius=(0.0, 1.5)),
        Blend(name="blend", count=128),
        Blend(name="fusion", count=32, parents=HELD_OUT_WINDOW * 3, method="barycentre"),
        Edit(name="edit", count=320),
        Infill(name="infill", count=128),
        Accompany(name="accompany", count=128),
        Replace(name="replace", count=64),
        Continue(name="continue", count=64),
        Song(name="song", count=32),
        Song(name="aaba", count=16, form="AABA"),
        Ensemble(name="joint", count=96),
        Ensemble(name="merged", count=96, method="merged"),
    )
    samples_per_part: Positive = 1024  # rows of one catalog file

    @model_validator(mode="after")
    def _names_are_allowed(self) -> Generate:
        names = [job.name for job in self.jobs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two jobs have one name: {twice[0]!r}")
        taken = sorted({"held-out", "value", "bernoulli", "markov"} & set(names))
        if taken:
            raise ValueError(f"no job may be named {taken[0]!r}: the tables of stage `evaluate` have such a column")
        if any(re.fullmatch(r"kept(-\d+)?", name) for name in names):
            raise ValueError("no job may be named 'kept': samples that are kept in the explorer have this name")
        return self
