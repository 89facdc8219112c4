"""Every parameter, in one place: one frozen pydantic model per stage, the defaults, the rules and what each means.

`load` reads a YAML file of sections named after the stages; what a file leaves out keeps its default, an unknown name
is an error. `params.yaml` at the root of the project is these defaults, spelled out with comments; a test holds the two
together.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from midivae.errors import ParamsError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _ascending(value: object) -> object:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"from {value[0]:g} to {value[1]:g}: the lower number goes first")
    return value


def _not_negative(value: float | tuple[float, float]) -> float | tuple[float, float]:
    if min(value if isinstance(value, tuple) else (value,)) < 0:
        raise ValueError("must not be negative")
    return value


Range = Annotated[float | tuple[float, float], AfterValidator(_ascending)]  # a number, or drawn evenly between two


class Section(BaseModel):
    """Base of all sections: frozen, no unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self, exclude: set[str] | None = None) -> str:
        """A short hash of the values: the same values give the same hash on every machine."""
        text = json.dumps(self.model_dump(mode="json", exclude=exclude), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Compute(Section):
    """How stages that fan out use the machine: changes the time they take, never their results (DVC ignores it)."""

    workers: Positive | None = None  # None: one per core
    scheduler: str | None = None  # address of a Dask scheduler ("tcp://host:8786"); None: processes on this machine


class ArchiveLimits(Section):
    """What an archive may ask of us before we refuse it."""

    max_members: Positive = 1_000_000
    max_member_bytes: Positive = 32 * 2**20
    max_total_bytes: Positive = 64 * 2**30
    max_ratio: Positive = 200  # unpacked to packed bytes of one member


class Download(Section):
    """How files are downloaded."""

    timeout_s: Annotated[float, Field(gt=0)] = 30.0  # without a byte from the server before it is tried again
    attempts: Positive = 5  # in a row without progress, before giving up
    max_bytes: Positive = 16 * 2**30  # of a file whose size is not known beforehand


BUILT_IN = ("bach-chorales", "folder", "archive", "url")  # sources that are no corpora of the registry


class Fetch(Section):
    """Stage `fetch`: where the MIDI files come from."""

    # one of BUILT_IN, or a corpus of the registry (fetch/corpora.py, which has the names)
    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = "bach-chorales"
    path: str | None = None  # the folder or archive; relative paths start where midivae is run
    url: str | None = None  # for `url`: an archive or a MIDI file
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None  # of what `url` gives; None: not known
    licence: str | None = None  # noted in corpus.parquet for `folder`, `archive` and `url`
    accept_licence: str | None = None  # name of the restricted corpus whose licence is accepted
    limits: ArchiveLimits = ArchiveLimits()
    download: Download = Download()
    time_limit_s: Annotated[float, Field(gt=0)] = 60.0  # for the conversion of one score

    @model_validator(mode="after")
    def _path_where_needed(self) -> Fetch:
        needs, may = self.source in ("folder", "archive"), self.source not in ("bach-chorales", "url")
        if (needs and self.path is None) or (self.path is not None and not may):
            raise ValueError(
                "`path` goes with source `folder` or `archive`, and only with them, or with a corpus by name whose "
                "archive is already here"
            )
        return self

    @model_validator(mode="after")
    def _url_where_needed(self) -> Fetch:
        if (self.source == "url") != (self.url is not None):
            raise ValueError("`url` goes with source `url`, and only with it")
        if self.sha256 is not None and self.url is None:
            raise ValueError("`sha256` goes with `url`")
        if self.url is not None and not self.url.lower().startswith(("http://", "https://")):
            raise ValueError(f"`url` {self.url!r} is neither http nor https; for a file of yours set `path`")
        return self


class Parts(Section):
    """Which notes form a part of a roll."""

    rule: Literal["track", "program", "merged"] = "track"
    # rule `track`: part name -> patterns for track names (shell-style, case ignored; the first part that fits wins)
    tracks: dict[str, tuple[str, ...]] = {
        "soprano": ("soprano*",),
        "alto": ("alto*",),
        "tenor": ("tenor*",),
        "bass": ("bass", "bass[!a-z]*"),
    }
    rest: str | None = None  # rule `track`: the part that takes notes of unmatched tracks; None: they are left out

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
    """What one MIDI file may ask of us before it is rejected, and what it must hold to be of use."""

    max_bytes: Positive = 16 * 2**20
    max_notes: Positive = 500_000
    max_tracks: Positive = 1024
    max_steps: Positive = 65_536  # over an hour of sixteenths at 240 BPM
    min_notes: Positive = 8  # in the parts of the roll
    min_steps: Positive = 16
    time_s: Annotated[float, Field(gt=0)] = 20.0  # per file
    memory_bytes: Positive = 2 * 2**30  # per worker process


class Duplicates(Section):
    """Which pieces count as one: the same music always, and near-same music by how alike its melodic lines are."""

    likeness: Annotated[float, Field(gt=0, le=1)] | None = 0.2  # least Jaccard index that links two; None: same only


class Split(Section):
    """How pieces are divided: by duplicate cluster, from a hash, so that new files move no old ones."""

    own: bool = False  # the split that the corpus brings, where it says one; else, and otherwise, the hash
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
    pitches: Annotated[int, Field(ge=1, le=128)] = 48  # how many pitches from there up
    parts: Parts = Parts()
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
    limits: IngestLimits = IngestLimits()
    pieces_per_shard: Positive = 4096  # the number of shards is the power of two that keeps them near this size

    @model_validator(mode="after")
    def _pitches_exist(self) -> Ingest:
        if self.pitch_low + self.pitches > 128:
            raise ValueError(f"pitch_low {self.pitch_low} + pitches {self.pitches} > 128, the number of MIDI pitches")
        return self


class View(Section):
    """What a model sees of the rolls: windows of `steps` steps."""

    steps: Positive = 64
    hop: Positive | Literal["bar"] = "bar"  # steps from one window's start to the next, or: one at every bar line
    planes: Literal["frame", "onset+frame"] = "onset+frame"
    merge_parts: bool = False  # the union of the parts, drums left out
    min_fill: Fraction = 0.75  # a window at a piece's end is padded with silence if at least this much is music

    @property
    def n_planes(self) -> int:
        """How many planes a window has per part."""
        return 2 if self.planes == "onset+frame" else 1


class Fit(Section):
    """How a model is fitted to its windows."""

    epochs: Positive = 5
    max_steps: Positive | None = None  # a budget in optimiser steps; None: epochs alone decide
    batch_size: Positive = 64  # windows per optimiser step, whatever the number of processes
    accumulate: Positive = 1  # slices of a batch, taken in turn or shared by processes; each has noise of its own
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: Muon for the matrices of layers, AdamW for all else
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0  # with 0 AdamW is Adam
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # steps in which the learning rate rises to its value
    decay: bool = False  # whether it then falls to 0 over the budget, along a cosine
    clip_norm: Annotated[float, Field(gt=0)] | None = None  # the most a gradient's norm may be; None: any
    average: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the weights over steps: what they keep of it in each
    anneal_steps: Annotated[int, Field(ge=0)] = 0  # steps in which the weight of the KL term rises to beta
    transpose: Annotated[int, Field(ge=0, le=64)] = 0  # semitones up or down, at most, by which windows are moved
    patience: Positive | None = 4  # epochs without a better validation loss before stopping; None: never

    @model_validator(mode="after")
    def _slices_are_even(self) -> Fit:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}")
        return self


class Dense(Fit):
    """The article's layers, for the models `autoencoder` and `mlp`."""

    hidden: tuple[Positive, ...] = (256, 128, 64)
    latent: Positive = 16
    reconstruction: Literal["bce", "mse"] = "bce"  # summed over the window
    beta: Annotated[float, Field(ge=0)] = 1.0  # weight of the KL term (`mlp` only)


Share = Annotated[float, Field(ge=0, lt=1)]


class Transformer(Fit):
    """The layers of model `transformer`."""

    width: Positive = 128  # of the vector of a step
    channels: Positive = 16  # of a step's field, at each pitch
    layers: Positive = 2
    heads: Positive = 4
    cell: Positive = 16  # hidden units that decide a cell
    latent: Positive = 128
    draft: Annotated[int, Field(ge=0)] = 0  # hidden units of a draft of each beat; 0: none
    draft_steps: Annotated[int, Field(ge=0)] = 4000  # that fit the draft, and with it what a latent holds
    context: Annotated[int, Field(ge=0)] = 32  # steps before the window that the decoder sees
    drop_context: Share = 0.25  # share of the windows in training that see none of them
    dropout: Share = 0.1
    drop_window: Share = 0.3  # share of the windows of which it sees nothing: all has to come through the latent
    drop_steps: Share = 0.3  # share of the steps, and of the notes, that the decoder does not see in training:
    drop_notes: Share = 0.1  # it leans on its latent, and learns no piece by heart
    free_nats: Annotated[float, Field(ge=0)] = 0.1  # of KL that each latent dimension may hold at no cost
    beta: Annotated[float, Field(ge=0)] = 0.07  # weight of the KL term
    prior_steps: Positive = 400  # of the prior fitted to the latents afterwards

    epochs: Positive = 4
    batch_size: Positive = 32
    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: Annotated[float, Field(gt=0)] = 5e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    decay: bool = True
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    average: Annotated[float, Field(ge=0, lt=1)] = 0.99
    anneal_steps: Annotated[int, Field(ge=0)] = 320
    transpose: Annotated[int, Field(ge=0, le=64)] = 6

    @model_validator(mode="after")
    def _heads_divide(self) -> Transformer:
        for name in ("width", "channels"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"{name} {getattr(self, name)} is no multiple of heads {self.heads}, which share it")
        return self


ModelName = Literal["transformer", "mlp", "autoencoder"]


class Train(Section):
    """Stage `train`: the model and how it is fitted."""

    model: ModelName = "transformer"
    compare: tuple[ModelName, ...] = ("mlp", "autoencoder")  # trained beside it, for the report's comparisons
    seed: Seed = 0
    warm_start: str | None = None  # folder of a model whose weights are the first ones; relative to the params file
    view: View = View()
    transformer: Transformer = Transformer()
    dense: Dense = Dense()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "32", "bf16"] = "auto"  # of products in training; auto: bf16 where it is fast
    compile: Literal["auto"] | bool = "auto"  # by torch.compile, which needs a compiler; auto: on a GPU

    @field_validator("precision", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) else value  # 32 is a number in YAML

    def network(self, name: str) -> Dense | Transformer:
        """The section of the model of this name."""
        return self.transformer if name == "transformer" else self.dense

    @model_validator(mode="after")
    def _no_model_twice(self) -> Train:
        if len({self.model, *self.compare}) != 1 + len(self.compare):
            raise ValueError(f"model {self.model!r} and compare {list(self.compare)} name a model twice")
        return self


class Job(Section):
    """What every job of samples has, whatever its mode."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]  # also the folder of its .mid files
    mode: str
    count: Positive
    model: ModelName | None = None  # one of train.compare; None: train.model
    # None: a cell sounds if likelier than the threshold; a number: drawn at that temperature; "auto": 1.0 for the
    # transformer, whose cells depend on each other, and None for dense layers, whose cells do not
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] | None = "auto"
    top_p: Annotated[float, Field(gt=0.5, le=1)] = 0.9  # with a temperature: outcomes less likely than 1 - top_p never
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.3  # a cell sounds where its probability is above this
    # normal: latents as a standard normal has them; fitted: as the prior that is fitted to the training latents;
    # "auto": fitted where the model has such a prior
    prior: Literal["auto", "normal", "fitted"] = "auto"
    transpose: Annotated[int, Field(ge=-24, le=24)] = 0  # semitones by which the music is moved in the end
    tempo_qpm: Annotated[float, Field(ge=4, le=960)] | None = None  # None: the median of the training pieces
    programs: dict[str, Annotated[int, Field(ge=0, le=127)]] = {}  # part -> General MIDI program; others: most used
    midi_files: bool = True  # also write .mid files beside the catalog


_PARENT = re.compile(
    r"(split):(train|valid|test)|(piece|file):(.+?)(?:@([1-9]\d{0,6}))?|(sample):([a-z0-9][a-z0-9-]*-\d{7,18})"
)


class Parent(NamedTuple):
    """Where a job's music comes from, as its text says it."""

    kind: str  # split, piece, file or sample
    name: str  # of the split, the piece (its id, or its path in the corpus), the file or the sample
    bar: int  # at which the window starts, from 1

    @classmethod
    def parse(cls, text: str) -> Parent:
        """The parent that a text names.

        Raises:
            ValueError: it names none.
        """
        found = _PARENT.fullmatch(text)
        if found is None:
            raise ValueError(
                f"parent {text!r:.80} is none of split:train|valid|test (a window of any of its pieces, drawn anew for "
                "each sample), piece:ID-OR-PATH[@BAR], file:PATH[@BAR] (bars count from 1), sample:JOB-0000012"
            )
        split, of_split, kind, name, bar, sample, of_sample = found.groups()
        return cls(split or kind or sample, of_split or name or of_sample, int(bar or 1))


def _checked_parent(text: str) -> str:
    Parent.parse(text)
    return text


ParentText = Annotated[str, AfterValidator(_checked_parent)]
HELD_OUT_WINDOW = ("split:test",)


class FromOne(Job):
    """A mode whose samples each come from one parent: sample i from the one with number i modulo their number."""

    parents: Annotated[tuple[ParentText, ...], Field(min_length=1)] = HELD_OUT_WINDOW


class Sample(Job):
    """Latents drawn from the prior."""

    mode: Literal["sample"] = "sample"


class Reconstruct(FromOne):
    """Windows encoded and decoded: what a latent keeps."""

    mode: Literal["reconstruct"] = "reconstruct"


class Vary(FromOne):
    """Music near a parent."""

    mode: Literal["vary"] = "vary"
    # standard deviations of the prior by which a latent moves: 0.1 almost the same, 0.5 a sibling, 1 a cousin, 3 a
    # stranger; two numbers: drawn evenly between them
    radius: Annotated[Range, AfterValidator(_not_negative)] = 0.5


class Blend(Job):
    """Music between two or more parents."""

    mode: Literal["blend"] = "blend"
    parents: Annotated[tuple[ParentText, ...], Field(min_length=2)] = HELD_OUT_WINDOW * 2
    # slerp: from the first parent to the second along the sphere, in `steps` samples; barycentre: any number of parents
    # by weights
    method: Literal["slerp", "barycentre"] = "slerp"
    steps: Annotated[int, Field(ge=2)] = 8  # of a path, both ends included (slerp)
    weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None  # one per parent (barycentre); None: drawn evenly

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
    """A parent with some of its attributes changed, the others kept."""

    mode: Literal["edit"] = "edit"
    # attribute -> change, or two numbers between which it is drawn evenly: density, polyphony, note_length relative
    # (0.2: 20 % more); syncopation in shares of the notes; register in semitones; key in fifths (1: one sharp more);
    # balance:<part> in shares of the notes
    changes: Annotated[dict[str, Range], Field(min_length=1)] | None = None  # None: all that the model offers, as usual
    together: bool = False  # all changes in each sample; else sample i has the one with number i modulo their number

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


class Continue(FromOne):
    """What could come after a parent's window."""

    mode: Literal["continue"] = "continue"
    windows: Positive = 1  # of new music, one after the other
    lead: bool = True  # the parent's window goes before them in the sample
    one_key: bool = True  # stays in the key of the parent's window


class Song(Job):
    """Long pieces: windows that follow each other."""

    mode: Literal["song"] = "song"
    bars: Positive = 64  # a multiple of the bars of a window
    # letters, a section each, equally long: a letter that comes again is a variation of its first section; None: one
    # section
    form: Annotated[str, Field(pattern=r"^[A-Z]{1,64}$")] | None = None
    radius: Annotated[float, Field(ge=0)] = 0.3  # of the variations, as in vary
    one_key: bool = True  # stays in the key of its first window


class Ensemble(Job):
    """Several instruments at once."""

    mode: Literal["ensemble"] = "ensemble"
    # joint: all parts from one latent; merged: each from a sample of its own, moved to one key and its own register
    method: Literal["joint", "merged"] = "joint"


_MODES: dict[str, type[Job]] = {
    "sample": Sample,
    "reconstruct": Reconstruct,
    "vary": Vary,
    "blend": Blend,
    "edit": Edit,
    "continue": Continue,
    "song": Song,
    "ensemble": Ensemble,
}


def _job(values: Any) -> Any:
    """A job of the class of its mode, `sample` where it names none."""
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
        Continue(name="continue", count=64),
        Song(name="song", count=32),
        Song(name="aaba", count=16, form="AABA"),
        Ensemble(name="joint", count=96),
        Ensemble(name="merged", count=96, method="merged"),
    )
    samples_per_part: Positive = 1024  # rows of one catalog file

    @model_validator(mode="after")
    def _no_name_twice(self) -> Generate:
        names = [job.name for job in self.jobs]
        if len(set(names)) != len(names):
            raise ValueError(f"two jobs have one name: {sorted(n for n in names if names.count(n) > 1)[0]!r}")
        taken = sorted({"held-out", "value", "bernoulli", "markov"} & set(names))
        if taken:
            raise ValueError(f"no job may be named {taken[0]!r}: the tables of stage `evaluate` have such a column")
        if any(re.fullmatch(r"kept(-\d+)?", name) for name in names):
            raise ValueError("no job may be named 'kept': so is what people keep in the explorer")
        return self


class Evaluate(Section):
    """Stage `evaluate`: measures and distances."""

    seed: Seed = 0
    repeats: Positive = 20  # random halves of the held-out pieces for the real-vs-real floor
    bootstrap: Annotated[int, Field(ge=0)] = 200  # rounds of the bootstrap that gives distances their intervals
    training_windows: Positive = 8192  # at most, evenly spaced: searched for neighbours, counted by trivial generators
    beats_per_bar: Positive = 4  # for the measures that need bars, alike for samples and real windows


class Report(Section):
    """Stage `report`: the page."""

    samples: Positive = 4096  # in the page, at most; of a larger catalog the first of each job
    rolls_per_job: Positive = 6  # that the gallery shows of each job at first; also windows that are rebuilt
    seed: Seed = 0  # of the lot that says which windows are rebuilt


class Params(Section):
    """All sections, in the order of the stages."""

    compute: Compute = Compute()
    fetch: Fetch = Fetch()
    ingest: Ingest = Ingest()
    train: Train = Train()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()

    @model_validator(mode="after")
    def _jobs_name_trained_models(self) -> Params:
        trained = {self.train.model, *self.train.compare}
        for job in self.generate.jobs:
            if job.model is not None and job.model not in trained:
                raise ValueError(
                    f"generate job {job.name!r} asks for model {job.model!r}, but train fits {sorted(trained)}; "
                    "add it to train.compare"
                )
        return self


# --- when a model takes another's place -------------------------------------------------------------------------------
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


def load(path: Path) -> Params:
    """The parameters in the YAML file at `path`; relative paths start at the folder of that file.

    Raises:
        ParamsError: the file is missing, is not YAML, or breaks a rule; the message lists every broken rule.
    """
    return _anchored(parse(_read(path) or {}, str(path)), path.parent)


def load_rules(path: Path) -> Rules:
    """The sections `gate` and `drift` of a YAML file; its other sections are not ours.

    Raises:
        ParamsError: as `load`.
    """
    values = _read(path) or {}
    ours = {name: values[name] for name in Rules.model_fields if name in values} if isinstance(values, dict) else values
    return _parsed(Rules, ours, str(path))


def _read(path: Path) -> Any:
    """What is in a YAML file."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; name one with --params, or run from the project's root") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {error}") from error


def _anchored(params: Params, folder: Path) -> Params:
    """The same, with `fetch.path` and parents that are files as seen from where we run; absolute ones stay."""
    fetch, generate = params.fetch, params.generate
    if fetch.path is not None:
        fetch = fetch.model_copy(update={"path": str(folder / fetch.path)})
    jobs = tuple(_anchored_job(job, folder) for job in generate.jobs)
    return params.model_copy(update={"fetch": fetch, "generate": generate.model_copy(update={"jobs": jobs})})


def _anchored_job(job: Job, folder: Path) -> Job:
    parents = getattr(job, "parents", ())
    moved = tuple(
        f"file:{folder / text.removeprefix('file:')}" if text.startswith("file:") else text for text in parents
    )
    return job.model_copy(update={"parents": moved}) if moved != parents else job


def parse(values: Any, origin: str) -> Params:
    """The parameters in nested mappings; `origin` opens the message when a rule is broken."""
    return _parsed(Params, values, origin)


SomeSection = TypeVar("SomeSection", bound=Section)


def _parsed(kind: type[SomeSection], values: Any, origin: str) -> SomeSection:
    """The sections in nested mappings."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        rules = [
            f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()
        ]
        raise ParamsError("\n".join([f"{origin}: {len(rules)} value(s) break a rule:", *rules])) from None
