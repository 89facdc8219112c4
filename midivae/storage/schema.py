"""Every table's Arrow schema, name and version: stages share nothing but these tables and other files.

A table on disk carries `midivae.table` and `midivae.version` in its Parquet metadata; `tables.read` refuses any
other name or version. Raise the version when a column changes its name, type or meaning.

Offers: one `Table` per kind of file. Comments of columns have unit and meaning; `null`: a value may be missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Table:
    """One kind of table: its name, its version and its columns."""

    name: str
    version: int
    columns: pa.Schema
    blobs: tuple[str, ...] = ()  # columns of compressed bytes, which Parquet must not compress again
    varied: tuple[str, ...] = ()  # columns whose values rarely repeat, so that a dictionary saves nothing

    @property
    def schema(self) -> pa.Schema:
        """The columns, with name and version in the metadata."""
        return self.columns.with_metadata({"midivae.table": self.name, "midivae.version": str(self.version)})


_Field = tuple[str, pa.DataType] | tuple[str, pa.DataType, str]


def _table(
    name: str, version: int, *fields: _Field, blobs: tuple[str, ...] = (), varied: tuple[str, ...] = ()
) -> Table:
    """A table of (name, type) pairs; a third item "null" marks a column with missing values."""
    columns = pa.schema([pa.field(field[0], field[1], nullable=len(field) > 2) for field in fields])
    return Table(name, version, columns, blobs, varied)


STRINGS = pa.list_(pa.field("item", pa.string(), nullable=False))
INTS = pa.list_(pa.field("item", pa.int32(), nullable=False))
FLOATS = pa.list_(pa.field("item", pa.float32(), nullable=False))
# a file as `datasets` and other readers expect it: its bytes, and its path below the folder of the catalog
MIDI = pa.struct([pa.field("bytes", pa.binary(), nullable=False), pa.field("path", pa.string())])

CORPUS = _table(
    "corpus",
    1,
    ("path", pa.string()),  # below data/corpus/midi, with forward slashes
    ("sha256", pa.string()),  # of the MIDI file
    ("bytes", pa.int64()),
    ("source", pa.string()),  # name of the corpus, or of the folder or archive
    ("origin", pa.string()),  # the file it was made from, as a path in the source
    ("licence", pa.string(), "null"),  # as the source states it
    ("split", pa.string(), "null"),  # train, valid or test, if the corpus has its own split
)

# the facts of one file, which depend on its bytes alone; kept in the work directory, one row per distinct content
_FACTS: tuple[_Field, ...] = (
    ("accepted", pa.bool_()),
    ("reason", pa.string(), "null"),  # code, if rejected: see docs/ingest.md
    ("detail", pa.string(), "null"),  # the reason in a sentence; of accepted files what is wrong with them, if anything
    ("format", pa.int32(), "null"),  # of the MIDI file: 0 or 1
    ("tracks_declared", pa.int32(), "null"),  # tracks that its header says it has
    ("tracks", pa.int32(), "null"),  # tracks with notes
    ("notes_found", pa.int64(), "null"),  # notes in the file: kept + unassigned + out_of_range + merged
    ("notes_kept", pa.int64(), "null"),  # notes in the roll
    ("notes_unassigned", pa.int64(), "null"),  # notes of tracks that belong to no part
    ("notes_out_of_range", pa.int64(), "null"),  # notes below or above the roll's pitches
    ("notes_merged", pa.int64(), "null"),  # notes that start at the step of another note of that part and pitch
    ("notes_unended", pa.int64(), "null"),  # notes that no note-off ends; they are among the others
    ("off_grid", pa.float64(), "null"),  # mean distance of note onsets from the grid, in steps
    ("steps", pa.int32(), "null"),  # length of the roll
    ("bars", pa.int32(), "null"),
    ("duration_s", pa.float64(), "null"),
    ("tempo_qpm", pa.float64(), "null"),  # quarter notes per minute: the tempo that lasts longest
    ("time_signature", pa.string(), "null"),  # the one that lasts longest, "4/4"
    ("key", pa.string(), "null"),  # best of 24 by scale consistency, "G major"
)
FACTS = _table(
    "facts",
    2,
    ("piece_id", pa.string()),
    ("sha256", pa.string()),
    ("music", pa.uint64(), "null"),  # hash of the notes on the grid, without tempo, names and transposition
    ("sketch", pa.binary(), "null"),  # uint16 values of which near duplicates share many (ingest/duplicates.py)
    *_FACTS,
    blobs=("sketch",),  # nearly random
    varied=("piece_id", "sha256", "music"),
)

# one row per file found, accepted or not: found == accepted + rejected
PIECES = _table(
    "pieces",
    2,
    ("path", pa.string()),  # as in corpus
    ("piece_id", pa.string()),  # first 16 hex digits of the file's sha256; key of the shards
    ("sha256", pa.string()),
    ("bytes", pa.int64()),
    ("copy_of", pa.string(), "null"),  # path of the file with the same bytes that represents this one
    ("cluster", pa.string(), "null"),  # piece_id that represents all duplicates of this music
    ("split", pa.string(), "null"),  # train, valid or test
    ("shard", pa.int32()),  # number of the part-*.parquet that holds the roll, if accepted
    *_FACTS,
    varied=("path", "piece_id", "sha256"),
)

# one row per accepted piece; "midivae.layout" in the metadata describes `planes` (roll.Layout)
SHARD = _table(
    "shard",
    1,
    ("piece_id", pa.string()),
    ("parts", STRINGS),
    ("n_steps", pa.int32()),
    # zstd frame of uint8 [bytes of a step, n_steps]: the bits of a step are [part, (onset, frame), pitch], padded
    # to whole bytes (music/roll.py)
    ("planes", pa.binary()),
    ("bar_starts", INTS),  # first step of each bar
    ("tempo_qpm", pa.float32()),
    ("programs", INTS),  # General MIDI program of most notes of each part; -1: no notes
    blobs=("planes",),
    varied=("piece_id", "n_steps", "bar_starts"),
)

# the bars of the training pieces, for novelty; kept in the work directory
BARS = _table(
    "bars",
    1,
    ("hash", pa.uint64()),  # hashes.bar_hashes; sorted, without duplicates and empty bars
)

# the windows that a job's samples are made from (generate/parents.py); kept in the work directory
PARENTS = _table(
    "parents",
    1,
    ("parent", pa.int32()),  # index of the job's parent that names this window
    ("label", pa.string()),  # as in the catalog
    ("start", pa.int64()),  # first row of the window in the matrix of steps, a file in the same folder
    ("stop", pa.int64()),  # end row of its piece
    ("first", pa.int64()),  # first row of its piece
    ("z", FLOATS, "null"),  # the latent of a sample; null: not encoded yet
)

# measures of a roll (measures/features.py); one float column per name; null: no value (a silent roll)
FEATURES: tuple[str, ...] = (
    "notes",  # onsets
    "density",  # onsets per beat
    "pitch_low",  # lowest MIDI pitch
    "pitch_high",
    "pitch_range",  # semitones from lowest to highest
    "polyphony",  # mean number of sounding pitches, over the steps with at least one
    "note_length",  # mean length of a note, in beats
    "pitch_class_entropy",  # bits, 0 to log2(12)
    "scale_consistency",  # share of notes in the best of 24 scales
    "groove_consistency",  # 1 - mean share of steps whose onset pattern differs between successive bars
    "empty_bar_rate",  # share of bars without a sounding note
    "used_pitch_classes",  # mean number of sounding pitch classes per bar, over the bars with at least one
    "qualified_note_share",  # share of notes of two steps or longer (a thirty-second note, on a fine grid)
    "empty_beat_rate",  # share of beats without a sounding note
    "pitch_count",  # different pitches that sound
    "pitch_interval",  # mean size of the interval from one note of a part's line to the next, in semitones
    "inter_onset_interval",  # mean time between steps on which notes start, in beats
    "register",  # mean MIDI pitch over sounding cells
    "syncopation",  # share of notes that start off the beat
)

# measures of harmony and form (measures/harmony.py), likewise; shares are from 0 to 1
HARMONY: tuple[str, ...] = (
    "triad_share",  # of the chords on beats: triads
    "seventh_share",  # seventh chords; they may lack their fifth
    "no_tertian_share",  # not built of thirds
    "chromatic_share",  # of the notes: outside `key`; in minor the raised seventh is inside
    "dissonant_leap_share",  # of the dissonances over the bass on beats: left by more than a whole tone
    "parallel_share",  # of the moves of the outer pitches: parallel fifths and octaves
    "crossing_share",  # of the steps: a part is below one that should be lower
    "repeat_share",  # of the intervals from note to note of the parts' lines: the same pitch again
    "step_share",  # seconds
    "wide_leap_share",  # more than an octave
    "held_chords",  # chords held for two beats or longer, per 4 bars
    "bass_fifths",  # how often the bass falls a fifth or rises a fourth (V-I), per 4 bars
)
# of whole pieces (measures/cadences.py): 1 yes, 0 no
ENDINGS: tuple[str, ...] = (
    "ends_on_triad",  # the last chord is a triad, which may lack its fifth
    "ends_with_v_i",  # the bass falls a fifth or rises a fourth to its last note
    "ends_on_tonic",  # the last bass note is the tonic of `key`
)

HELD_OUT = "held-out"  # name of held-out music in the tables of the evaluation, which otherwise have names of jobs

# one row per window of held-out music, measured like samples
WINDOWS = _table(
    "windows",
    3,
    ("piece_id", pa.string()),
    ("start_step", pa.int32()),  # in the piece
    ("n_steps", pa.int32()),
    *((name, pa.float32(), "null") for name in (*FEATURES, *HARMONY)),
    ("key", pa.string(), "null"),
    ("novelty", pa.float32(), "null"),  # share of the bars with music that are in no training piece
)

# one row per window of every set and of held-out music: the nearest training window (likeness.nearest)
NEIGHBOURS = _table(
    "neighbours",
    1,
    ("set", pa.string()),  # job, held-out, bernoulli or markov
    ("id", pa.string()),  # sample_id; of held-out music the piece_id
    ("start_step", pa.int32()),  # of the window, in the sample or the piece
    ("piece_id", pa.string(), "null"),  # of the nearest window; null: the window has no music
    ("piece_start_step", pa.int32(), "null"),  # its first step
    ("semitones", pa.int32(), "null"),  # transposition upwards that makes it nearest, 0 to 11
    ("distance", pa.float32(), "null"),  # share of cells (beat, pitch class) that differ; 0: a copy
)

# one row per sample
CATALOG = _table(
    "catalog",
    4,
    ("sample_id", pa.string()),  # job and index: "sample-0000012"
    ("job", pa.string()),
    # sample, reconstruct, vary, blend, edit, continue, song or ensemble; explore: kept in the explorer
    ("mode", pa.string()),
    ("index", pa.int64()),  # 0-based, in the job
    ("seed", pa.int64()),  # of the stage; the generator of the sample has the key (seed, job, index)
    ("model", pa.string()),  # mlp, autoencoder ...
    ("model_sha256", pa.string()),  # of model.safetensors
    ("params_sha256", pa.string()),  # first 16 hex digits, of the job's parameters
    ("temperature", pa.float32(), "null"),  # null: thresholded
    ("prior", pa.string()),  # over the latents: normal or fitted
    ("method", pa.string(), "null"),  # blend: slerp or barycentre; song: its form; ensemble: joint or merged
    # the latent, without its fine dimensions where fidelity is 0; several latents (windows, merged parts) are
    # concatenated
    ("z", FLOATS),
    ("parents", STRINGS),  # "piece:<piece_id>@<bar>", "sample:<sample_id>", "file:<name>@<bar>"; bars count from 1
    ("weights", FLOATS),  # of the parents in a blend
    ("radius", pa.float32(), "null"),  # vary, explore: distance from the parent, in standard deviations of the prior
    # edit: JSON {"asked": {attribute: change}, "measured": {attribute: change, of every attribute}}, see
    # models/controls.py
    ("edits", pa.string(), "null"),
    ("fidelity", pa.float32(), "null"),  # share of the fine latent dimensions that are used; null: one latent
    ("transpose", pa.int32()),  # semitones by which the decoded music was transposed
    ("lead_steps", pa.int32()),  # continue: number of first steps that are the parent's; otherwise 0
    ("tail_steps", pa.int32()),  # number of last steps that are the parent's, if a gap in it is filled; otherwise 0
    ("tempo_qpm", pa.float32()),
    ("parts", STRINGS),
    ("programs", INTS),  # per part
    ("n_steps", pa.int32()),
    ("steps_per_beat", pa.int32()),
    ("duration_s", pa.float32()),
    *((name, pa.float32(), "null") for name in (*FEATURES, *HARMONY)),
    *((name, pa.float32(), "null") for name in ENDINGS),  # mode song; null in all others, whose music has no end
    ("key", pa.string(), "null"),  # of the best scale, "G major"; null: silent
    ("novelty", pa.float32(), "null"),  # share of the bars with music that are in no training piece
    ("midi", MIDI),
)
