"""The explorer: a person moves between pieces, turns knobs, listens, and keeps what is good.

What a person has found is a `Find`: a model, one to four parents on the corners of a square, a point on it, a radius
with a seed, and changes of attributes. It decides the sample, and nothing else does:

    1. Each parent is a window: of a piece, of an uploaded file, or a sample. Its latent is the mean of its posterior; a
       sample of this model has its own.
    2. The point gives weights (`weights_of`). Two parents are two ends of a line (`latent.slerp`), more a
       `latent.barycentre`; a parent that has all the weight is that parent, to the last bit.
    3. `latent.vary` moves the result by the radius, in a direction that the seed draws.
    4. `Controls.moved` changes attributes; of the strengths in `modes` the one is kept that misses least.

Moves are made where modes make them, in `latent.Space`, and the cells are drawn with numbers of the seed. The point
lies on a grid of `GRID` steps each way and radius, tempo and changes are rounded, so that the columns of the catalog
hold them to the last bit: a row that was kept can be opened again (`Explorer.reopened`) and is the same music.

Kept samples are not among `data/samples`, which stage `generate` writes and DVC tracks, but in `data/kept`: job `kept`,
mode `explore`, columns as ever, and the uploaded files among their parents. `midivae catalog --data data` reads both.
The folder is published whole: a reader sees it before or after, never between.

One sample soon is worth more here than many: a sample is decoded in a block of its own instead of one of
`coding.BLOCK`, so it may differ in a few cells from one that a job makes of the same latent.

Shapes:
    M  parents    Z  latent    T  steps    N  parts    P  pitches    S  strengths of an edit, and none

Offers: `Find`, `weights_of`, `point_of`; `Explorer`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import tempfile
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, Float64
from pydantic import AfterValidator, Field, ValidationError

from midivae import models
from midivae.catalog import catalog, playback
from midivae.champion.versions import FACTS
from midivae.config.params import Compute, Ingest, Job, ModelName, Params, Sample
from midivae.errors import CorruptError, InputError, ParamsError
from midivae.generate import modes
from midivae.generate import parents as gathering
from midivae.generate.modes import Draws, Made
from midivae.generate.stage import Desk
from midivae.models import coding, latent
from midivae.models.base import read_config
from midivae.models.latent import Controls
from midivae.music import midi, roll
from midivae.render import pictures
from midivae.storage import folders, schema, tables
from midivae.storage.files import copy_file, file_sha256, write_bytes
from midivae.workers.parallel import Beat, fan_out

log = logging.getLogger(__name__)

GRID = 256  # steps of the square, each way: products of two coordinates are exact in 32 bits
JOB = "kept"
FOLDER = catalog.KEPT
MAX_UPLOAD = 2 * 2**20  # bytes of a MIDI file; a symphony has a tenth
LISTED = 60  # rows that a search shows
_UPLOADS = 64  # files that are remembered
_REMEMBERED = 256  # parents; and finds, so that what is kept is what was heard
_FILE = re.compile(r"[A-Za-z0-9_-]{1,40}-([0-9a-f]{16})\.mid")
_PARENT = re.compile(
    rf"piece:[0-9a-f]{{16}}@[1-9]\d{{0,5}}|file:{_FILE.pattern}@[1-9]\d{{0,5}}|sample:[a-z0-9][a-z0-9-]{{0,62}}-\d{{7,18}}"
)


# --- what was found ---------------------------------------------------------------------------------------------------
def _parent(text: str) -> str:
    if _PARENT.fullmatch(text) is None:
        raise ValueError(f"parent {text!r:.80} is none of piece:ID@BAR, file:NAME@BAR of an upload, sample:JOB-0000012")
    return text


def _on_grid(value: float) -> float:
    return round(value * GRID) / GRID


def _to_cents(value: float) -> float:
    return round(value, 2)


def _to_digits(value: float) -> float:
    return float(f"{value:.6g}")


Unit = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_on_grid)]
Change = Annotated[float, Field(gt=-100, lt=100, allow_inf_nan=False), AfterValidator(_to_digits)]


class Find(Job):
    """All that decides one sample of the explorer."""

    name: str = JOB
    mode: Literal["explore"] = "explore"
    count: Literal[1] = 1
    parents: Annotated[tuple[Annotated[str, AfterValidator(_parent)], ...], Field(min_length=1, max_length=4)]
    at: tuple[Unit, Unit] = (0.5, 0.5)  # from the left, and from the top
    radius: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), AfterValidator(_to_cents)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the direction, and of the cells
    changes: Annotated[dict[str, Change], Field(max_length=32)] = Field(default_factory=dict)
    tempo_qpm: Annotated[float, Field(ge=20, le=400, allow_inf_nan=False), AfterValidator(_to_cents)] | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Find:
        """The find that a page asks for.

        Raises:
            ParamsError: it breaks a rule.
        """
        asked = {name: values[name] for name in _ASKED if name in values}
        strange = sorted(set(values) - set(_ASKED))
        if strange:
            raise ParamsError(f"find: unknown {strange[0]!r:.40}; there are {', '.join(_ASKED)}")
        try:
            found = cls.model_validate(asked)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
            raise ParamsError(f"find: {'; '.join(lines)[:400]}") from None
        changes = {name: change for name, change in sorted(found.changes.items()) if change}
        # what a point leaves open, such as how high on a line it lies, decides nothing: one find, one hash
        at = point_of(weights_of(len(found.parents), found.at).tolist())
        return found.model_copy(update={"changes": changes, "at": at})


_ASKED = ("model", "parents", "at", "radius", "seed", "changes", "tempo_qpm")


def weights_of(parents: int, at: tuple[float, float]) -> Float64[np.ndarray, " M"]:
    """What each corner weighs at a point: bilinear. They sum to 1.

    One parent: alone. Two: the left and the right end of a line. Three: the corners above, and the edge below.
    """
    x, y = at
    weights = {
        1: (1.0,),
        2: (1 - x, x),
        3: ((1 - x) * (1 - y), x * (1 - y), y),
        4: ((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y),
    }
    return np.array(weights[parents], np.float64)


def point_of(weights: Sequence[float]) -> tuple[float, float]:
    """A point that gives these weights: inverts `weights_of`; what they leave open is 1/2."""
    if len(weights) == 1:
        return 0.5, 0.5
    if len(weights) == 2:
        return _on_grid(weights[1]), 0.5
    below = sum(weights[2:])
    right = weights[1] / (1 - below) if below < 1 else 0.5
    if len(weights) == 4:
        right = weights[1] + weights[3]
    return _on_grid(right), _on_grid(below)


# --- what came of it --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Found:
    """A sample, and where it comes from."""

    made: Made
    weights: Float64[np.ndarray, " M"]
    labels: tuple[str, ...]
    row: pa.Table  # of the catalog, as the first of its job

    @property
    def file(self) -> bytes:
        """As a MIDI file."""
        data: bytes = self.row.column("midi")[0].as_py()["bytes"]
        return data


@dataclass(frozen=True)
class _Corner:
    """A parent, as one model sees it."""

    label: str
    z: Float32[np.ndarray, " Z"]


@dataclass(frozen=True)
class _Check:
    """A file that a person gave us, to be looked at where it can do no harm."""

    data: bytes
    ingest: Ingest


def _look_at(check: _Check, _beat: Beat) -> dict[str, Any]:
    """What is in a MIDI file, in a child process.

    Raises:
        InputError: it cannot be read, is too long, or none of its notes belongs to a part of the rolls.
    """
    ingest = check.ingest
    notes = midi.read(check.data, ingest.limits)
    _, steps = gathering.usable(notes, ingest)
    return {"steps": steps, "notes": len(notes.pitch)}


# --- the explorer -----------------------------------------------------------------------------------------------------
class Explorer:
    """The models of a data folder, the music that samples come from, and what was kept.

    Methods may be called by several threads at once; one of them computes at a time.
    """

    def __init__(self, params: Params, data: Path, kept: Path | None = None) -> None:
        """Loads the model in `data/model`; those in `compare` when they are asked for.

        Args:
            params: what stages `ingest` and `evaluate` were told.
            data: the folder of all stages.
            kept: where samples are kept; None: `data/kept`.

        Raises:
            InputError: a stage has not run, or `data` is a published version, which nobody writes to.
            SchemaError, CorruptError: what is there is of another version, or damaged.
        """
        data = data.resolve()
        if kept is None and (data / FACTS).is_file():
            raise InputError(f"{data}: a published version, to which nobody writes; name another place with --keep")
        self._data, self.kept = data, (data / FOLDER if kept is None else kept).absolute()
        main = read_config(data / "model").name
        beside = sorted(path.parent.name for path in (data / "model" / "compare").glob("*/config.json"))
        self.models = (main, *(name for name in beside if name != main))
        there = params.train.model_copy(update={"model": main, "compare": self.models[1:]})
        self._params = params.model_copy(update={"train": there})
        self._scratch = tempfile.TemporaryDirectory(prefix="midivae-explore-")
        self._uploads: OrderedDict[str, str] = OrderedDict()  # file -> what its person calls it
        self._desks: dict[str, Desk] = {}
        self._directions: dict[Desk, Controls | None] = {}
        self._corners: OrderedDict[tuple[str, str], _Corner] = OrderedDict()
        self._finds: OrderedDict[str, Found] = OrderedDict()
        self._busy, self._keeping = threading.RLock(), threading.Lock()
        self._pieces = _accepted(data / "rolls")
        self._desk(main)

    def close(self) -> None:
        """Forgets the uploads."""
        self._scratch.cleanup()

    # --- models
    def _desk(self, name: str | None) -> Desk:
        name = name or self.models[0]
        if name not in self.models:
            raise ParamsError(f"no model {name!r:.40} in {self._data / 'model'}; there are {', '.join(self.models)}")
        if name not in self._desks:
            main = name == self.models[0]
            job = Sample(name=JOB, count=1, model=None if main else _model_name(name))
            self._desks[name] = Desk(job, self._params, self._data)
        return self._desks[name]

    def _controls(self, desk: Desk) -> Controls | None:
        """The directions of a model that has some."""
        if desk not in self._directions:
            there = (desk.folder / latent.FILE).is_file()
            self._directions[desk] = Controls.read(desk.folder) if there else None
        return self._directions[desk]

    def about(self, name: str | None = None) -> dict[str, Any]:
        """What a page has to know of a model."""
        with self._busy:
            desk = self._desk(name)
            controls = self._controls(desk)
        setting, layout = desk.setting, desk.setting.layout
        knobs = []
        for each in controls.offered if controls is not None else ():
            low, high = controls.usual(each) if controls is not None else (0.0, 0.0)
            knobs.append({"name": each, "low": low, "high": high, "relative": each in latent.RELATIVE})
        return {
            "model": name or self.models[0],
            "models": list(self.models),
            "model_sha256": desk.model_sha256,
            "parts": list(layout.parts),
            "colours": pictures.part_colours(len(layout.parts)),
            "programs": [max(0, each) for each in setting.model.config.programs],
            "pitch_low": layout.pitch_low,
            "pitches": layout.pitches,
            "steps": setting.model.config.view.steps,
            "steps_per_beat": layout.steps_per_beat,
            "beats_per_bar": self._params.evaluate.beats_per_bar,
            "tempo_qpm": setting.model.config.tempo_qpm,
            "knobs": knobs,
            "pieces": len(self._pieces),
            "kept": str(self.kept),
        }

    # --- parents
    def pieces(self, text: str = "", split: str = "") -> list[dict[str, Any]]:
        """Pieces of the corpus whose path, id or key has all these words, at most `LISTED`."""
        words = text[:200].casefold().split()
        found = []
        for row in self._pieces:
            here = f"{row['path']} {row['piece_id']} {row['key'] or ''}".casefold()
            if split in ("", row["split"]) and all(word in here for word in words):
                found.append(row)
                if len(found) == LISTED:
                    break
        return found

    def any_pieces(self, count: int, seed: int) -> list[str]:
        """Parents drawn by lot, from held-out music as far as it goes."""
        config = self._desk(None).setting.model.config
        bar = self._params.evaluate.beats_per_bar * config.layout.steps_per_beat
        whole = -(-config.view.steps // bar)  # bars of a window
        rows = [row for row in self._pieces if (row["bars"] or 0) >= whole] or self._pieces
        rng = np.random.default_rng(seed)
        drawn = rng.permutation(len(rows)).tolist()
        chosen = sorted(drawn, key=lambda i: rows[i]["split"] != "test")[:count]
        starts = {i: rng.integers(1, max(1, (rows[i]["bars"] or 1) - whole) + 1) for i in chosen}
        return [f"piece:{rows[i]['piece_id']}@{start}" for i, start in starts.items()]

    def samples(self, where: str = "") -> list[dict[str, Any]]:
        """Samples of the catalog for which a filter holds, at most `LISTED`.

        Raises:
            ParamsError: the filter is not understood.
            InputError: there is no catalog.
        """
        columns = ["sample_id", "job", "mode", "model", "key", "notes", "polyphony", "novelty"]
        rows = catalog.query(self._data, where=where[:1000] or None, limit=LISTED, columns=columns)
        return [{str(name): _plain(value) for name, value in row.items()} for row in rows.to_dict("records")]

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Takes a MIDI file as a parent; it is read by a child process first, which may come to grief.

        Returns:
            parent (as in a find), and name.

        Raises:
            InputError: it is too large, or of no use, with the reason.
        """
        if len(data) > MAX_UPLOAD:
            raise InputError(f"{len(data)} bytes; a MIDI file may have {MAX_UPLOAD}")
        ingest = self._params.ingest
        limits = ingest.limits
        ((_, outcome),) = fan_out(
            _look_at,
            [_Check(data, ingest)],
            Compute(workers=1),
            time_limit_s=limits.time_s,
            memory_bytes=limits.memory_bytes,
            label="explore: upload",
        )
        if outcome.failure is not None:
            raise InputError(f"the reader {outcome.failure.kind} at this file; it cannot be used")
        shown, file = _shown(name), _file_of(name, data)
        with self._busy:
            write_bytes(Path(self._scratch.name) / file, data)
            self._uploads[file] = shown
            while len(self._uploads) > _UPLOADS:
                old, _ = self._uploads.popitem(last=False)
                (Path(self._scratch.name) / old).unlink(missing_ok=True)
        return {"parent": f"file:{file}@1", "name": shown, **(outcome.value or {})}

    def named(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """What people call these parents, and how many bars they have."""
        of_id = {row["piece_id"]: row for row in self._pieces}
        names: list[dict[str, Any]] = []
        for text in texts:
            kind, _, rest = _parent_of(text).partition(":")
            bare = rest.partition("@")[0]
            if kind == "piece" and bare in of_id:
                row = of_id[bare]
                names.append({"name": row["path"], "bars": row["bars"], "key": row["key"], "split": row["split"]})
            elif kind == "file":
                names.append({"name": self._uploads.get(bare, bare), "bars": None, "key": None, "split": "upload"})
            else:
                names.append({"name": bare, "bars": None, "key": None, "split": kind})
        return names

    def _corner(self, name: str, desk: Desk, text: str) -> _Corner:
        """A parent, from memory where it was asked for before."""
        key = (name, text)
        if key not in self._corners:
            self._corners[key] = self._gathered(desk, text)
            while len(self._corners) > _REMEMBERED:
                self._corners.popitem(last=False)
        self._corners.move_to_end(key)
        return self._corners[key]

    def _gathered(self, desk: Desk, text: str) -> _Corner:
        model, real = desk.setting.model, text
        scratch = Path(self._scratch.name)
        if text.startswith("file:"):
            file, _, bar = text.removeprefix("file:").partition("@")
            real = f"file:{self._path_of(file)}@{bar}"
        folder = scratch / hashlib.sha256(f"{desk.model_sha256} {text}".encode()).hexdigest()[:32]
        folder.mkdir(exist_ok=True)
        view = model.config.view
        known = lambda sample_id: self._known(desk, sample_id)  # noqa: E731
        try:
            gathering.gather([real], folder, self._data / "rolls", self._params.ingest, view, known)
        except (InputError, ParamsError) as error:
            raise type(error)(str(error).replace(f"{scratch}/", "")) from None
        pool = gathering.Pool.open(folder)
        z, _ = modes.encoded(model, pool, np.zeros(1, np.int64))
        return _Corner(pool.labels[0], z[0])

    def _path_of(self, file: str) -> Path:
        """Where an uploaded file lies, or one that was uploaded for a sample that was kept."""
        if file in self._uploads:
            return Path(self._scratch.name) / file
        path, found = self.kept / "parents" / file, _FILE.fullmatch(file)
        if found is None or not path.is_file() or not file_sha256(path).startswith(found[1]):
            raise InputError(f"parent file:{file}: not here any more; upload it again")
        return path

    def _known(self, desk: Desk, sample_id: str) -> gathering.Known:
        """A sample of the catalog: its music, and its latents where they are of this model."""
        row = self._row(sample_id)
        layout = catalog.layout(self._data, row["job"]) if row["job"] != JOB else self._layout_of_kept()
        n_steps = np.array([row["n_steps"]], np.int64)
        played = playback.play([row["midi"]["bytes"]], np.array([int(row["notes"])], np.int64), n_steps, layout)
        if played.reasons:
            raise InputError(f"parent sample:{sample_id}: {played.reasons[0]}")
        z = np.array(row["z"], np.float32) if row["model_sha256"] == desk.model_sha256 else None
        return gathering.Known.of(played.planes()[0], z, row["method"], row["transpose"], row["lead_steps"])

    def _row(self, sample_id: str) -> dict[str, Any]:
        """A row of the catalog.

        Raises:
            InputError: there is none of this id.
        """
        files = [*sorted((self.kept / "catalog").glob("*-of-*.parquet"))]
        files += sorted((self._data / "samples" / "catalog").glob("*-of-*.parquet"))
        for file in files:
            rows = tables.scan(
                [file], schema.CATALOG, schema.CATALOG.columns.names, pc.equal(pc.field("sample_id"), sample_id)
            )
            if len(rows):
                row: dict[str, Any] = rows.slice(0, 1).to_pylist()[0]
                return row
        raise InputError(f"parent sample:{sample_id}: not in the catalog; `midivae catalog` lists what is")

    def _layout_of_kept(self) -> roll.Layout:
        text = tables.read_extra(self._catalog, schema.CATALOG, "layout")
        return roll.Layout.from_json(text)

    # --- a sample
    def make(self, find: Find) -> Found:
        """The sample at a find.

        Raises:
            ParamsError: it names what is not there.
            InputError: a parent cannot be had.
        """
        find = self._resolved(find)
        key = find.digest()
        with self._busy:
            if key not in self._finds:
                self._finds[key] = self._made(find)
                while len(self._finds) > _REMEMBERED:
                    self._finds.popitem(last=False)
            self._finds.move_to_end(key)
            return self._finds[key]

    def _resolved(self, find: Find) -> Find:
        """With its model by name: one find, one hash."""
        return find if find.model else find.model_copy(update={"model": _model_name(self.models[0])})

    def _made(self, find: Find) -> Found:
        desk = self._desk(find.model)
        corners = [self._corner(find.model or self.models[0], desk, text) for text in find.parents]
        weights = weights_of(len(corners), find.at)
        setting = desk.setting
        cells = setting.model.config.window_shape if setting.chance.temperature is not None else None
        draws = Draws(find.seed, "explore", [0], setting.model.latent, cells)
        noise = draws.noise()
        z = self._point(desk, np.stack([corner.z for corner in corners]), weights, find.radius, noise)
        z, planes, edits = self._edited(desk, z, find.changes, draws.cells())
        labels = tuple(corner.label for corner in corners)
        origin: dict[str, list[Any]] = {
            "parents": [list(labels)],
            "weights": [weights.tolist()],
            "radius": [find.radius],
            "edits": [edits],
            "method": [{1: None, 2: "slerp"}.get(len(corners), "barycentre")],
        }
        made = Made(z, planes, origin)
        return Found(made, weights, labels, desk.rows(find, find.seed, range(1), made))

    def _point(
        self,
        desk: Desk,
        z: Float32[np.ndarray, "M Z"],
        weights: Float64[np.ndarray, " M"],
        radius: float,
        noise: Float32[np.ndarray, "1 Z"],
    ) -> Float32[np.ndarray, "1 Z"]:
        """The latent of a point between parents, or near it."""
        space = desk.setting.space
        alone = np.flatnonzero(weights == 1)
        if len(alone) and not radius:
            return z[alone]
        if len(alone):
            here = space.noise(z[alone])
        elif len(z) == 2:
            at = space.noise(z)
            here = latent.slerp(at[:1], at[1:], weights[1:])
        else:
            here = latent.barycentre(space.noise(z)[None], weights[None])
        return space.latent(latent.vary(here, np.array([radius]), noise))

    def _edited(
        self,
        desk: Desk,
        z: Float32[np.ndarray, "1 Z"],
        changes: Mapping[str, float],
        uniform: Float32[np.ndarray, "1 T N K P"] | None,
    ) -> tuple[Float32[np.ndarray, "1 Z"], Bool[np.ndarray, "1 T N 2 P"], str | None]:
        """The latent with attributes changed, its music, and what was asked and measured as JSON."""
        setting = desk.setting
        if not changes:
            return z, coding.decode(setting.model, z, setting.chance, uniform, block=1), None
        controls = self._controls(desk)
        if controls is None:
            raise ParamsError(f"model {setting.model.name!r} has no directions of attributes; leave the knobs alone")
        strange = sorted(set(changes) - set(controls.offered))
        if strange:
            raise ParamsError(f"no knob {strange[0]!r:.40}; this model has {', '.join(controls.offered) or 'none'}")

        def play(moved: Float32[np.ndarray, "S 1 Z"]) -> Bool[np.ndarray, "S 1 T N 2 P"]:
            """All at once: it takes little longer than one."""
            numbers = None if uniform is None else np.repeat(uniform, len(moved), axis=0)
            return coding.decode(setting.model, moved[:, 0], setting.chance, numbers, block=len(moved))[:, None]

        wanted = {name: np.array([change]) for name, change in changes.items()}
        every = {name: np.ones(1, bool) for name in changes}
        best = modes.edited(controls, setting.layout, z, wanted, every, play)
        return best.z, best.planes, best.as_json(0, changes)

    # --- what is kept
    @property
    def _catalog(self) -> Path:
        return self.kept / "catalog" / f"{JOB}-00000-of-00001.parquet"

    def keep(self, find: Find) -> dict[str, Any]:
        """Adds a sample to what is kept; one that is there stays as it is.

        Returns:
            sample_id, and new.

        Raises:
            InputError, CorruptError: what was kept before cannot be read; it stays as it is.
        """
        find = self._resolved(find)
        found = self.make(find)
        desk = self._desk(find.model)
        with self._keeping, _alone(self.kept):
            before = self._before(desk)
            same = pc.and_(
                pc.equal(before["params_sha256"], found.row["params_sha256"][0]),
                pc.equal(before["model_sha256"], found.row["model_sha256"][0]),
            )
            there = before.filter(same)
            if len(there):
                return {"sample_id": there["sample_id"][0].as_py(), "new": False}
            index = int(pc.max(before["index"]).as_py()) + 1 if len(before) else 0
            row = desk.rows(find, find.seed, range(index, index + 1), found.made)
            self._publish(pa.concat_tables([before, row.cast(before.schema)]), desk, find)
            return {"sample_id": row["sample_id"][0].as_py(), "new": True}

    def _before(self, desk: Desk) -> pa.Table:
        """What is kept; rows of another layout would make the file of no use to anybody."""
        if not self._catalog.is_file():
            return schema.CATALOG.columns.empty_table()
        wrong = folders.verify(self.kept)  # what is damaged must not get new hashes
        if wrong:
            raise CorruptError("\n".join([f"{self.kept}: not as it was written; move it aside, or mend it:", *wrong]))
        if tables.read_extra(self._catalog, schema.CATALOG, "layout") != desk.extra["layout"]:
            raise InputError(f"{self.kept}: has samples of another layout; move it aside, or name another with --keep")
        return tables.read(self._catalog, schema.CATALOG).replace_schema_metadata(None)

    def _publish(self, rows: pa.Table, desk: Desk, find: Find) -> None:
        files = [text.removeprefix("file:").partition("@")[0] for text in find.parents if text.startswith("file:")]
        with folders.publishing(self.kept) as staging:
            for path in sorted((self.kept / "parents").glob("*.mid")):
                copy_file(path, staging / "parents" / path.name)
            for file in files:
                write_bytes(staging / "parents" / file, self._path_of(file).read_bytes())
            tables.write(staging / "catalog" / self._catalog.name, rows, schema.CATALOG, desk.extra)

    def all_kept(self) -> list[dict[str, Any]]:
        """What is kept, the newest first."""
        if not self._catalog.is_file():
            return []
        columns = ["sample_id", "model", "key", "notes", "parents", "radius"]
        rows: list[dict[str, Any]] = tables.read(self._catalog, schema.CATALOG, columns).to_pylist()
        return rows[::-1]

    def reopened(self, sample_id: str) -> dict[str, Any]:
        """The find of a sample that was kept, as a page asks for it.

        Raises:
            InputError: it was not kept here, or by another model than the one of this name.
        """
        row = self._row(sample_id)
        if row["mode"] != "explore":
            raise InputError(f"{sample_id}: made by mode {row['mode']}, not kept in the explorer; take it as a parent")
        if row["model"] not in self.models or self._desk(row["model"]).model_sha256 != row["model_sha256"]:
            raise InputError(f"{sample_id}: model {row['model']!r} has other weights by now; take it as a parent")
        tempo = round(float(row["tempo_qpm"]), 2)
        usual = self._desk(row["model"]).setting.model.config.tempo_qpm
        return {
            "model": row["model"],
            "parents": row["parents"],
            "at": list(point_of(row["weights"])),
            "radius": round(float(row["radius"]), 2),
            "seed": row["seed"],
            "changes": json.loads(row["edits"])["asked"] if row["edits"] else {},
            "tempo_qpm": None if tempo == round(usual, 2) else tempo,
        }


# --- small things -----------------------------------------------------------------------------------------------------
def shown(found: Found) -> dict[str, Any]:
    """A sample as a page shows and plays it: its notes, and what is known of it."""
    row = found.row.slice(0, 1).to_pylist()[0]
    _, part, pitch, onset, offset = roll.cell_runs(found.made.planes)
    return {
        "notes": np.stack([part, pitch, onset, offset], axis=1).tolist(),  # pitch counts from pitch_low, times in steps
        "steps": row["n_steps"],
        "tempo_qpm": round(float(row["tempo_qpm"]), 2),
        "weights": found.weights.tolist(),
        "labels": list(found.labels),
        "edits": json.loads(row["edits"]) if row["edits"] else None,
        "key": row["key"],
        "figures": {name: _plain(row[name]) for name in ("notes", "density", "polyphony", "note_length", "novelty")},
        "model_sha256": row["model_sha256"],
        "params_sha256": row["params_sha256"],
    }


def _accepted(rolls: Path) -> list[dict[str, Any]]:
    """The pieces that can be parents, in the order of their paths."""
    columns = ["path", "piece_id", "split", "bars", "key", "accepted", "copy_of"]
    table = tables.read(rolls / "pieces.parquet", schema.PIECES, columns)
    table = table.filter(pc.and_(table["accepted"], pc.is_null(table["copy_of"]))).drop_columns(["accepted", "copy_of"])
    rows: list[dict[str, Any]] = table.sort_by("path").to_pylist()
    if not rows:
        raise InputError(f"{rolls}: no piece was accepted; rerun stage `ingest` with other files")
    return rows


def _model_name(name: str) -> ModelName:
    if name not in models.KINDS:
        raise ParamsError(f"no model {name!r:.40} is known; there are {', '.join(models.KINDS)}")
    return name  # type: ignore[return-value]


def _parent_of(text: str) -> str:
    try:
        return _parent(text)
    except ValueError as error:
        raise ParamsError(str(error)) from None


def _shown(name: str) -> str:
    """A file's name as it may be shown: its last part, without what steers a terminal or turns text round."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(each for each in last if unicodedata.category(each)[0] != "C")[:120] or "upload"


def _file_of(name: str, data: bytes) -> str:
    """What an upload is called here: a few plain letters of its name, and the hash of its bytes."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", _shown(name).rpartition(".")[0] or name).strip("_")[:40] or "upload"
    return f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.mid"


def _plain(value: Any) -> Any:
    """A value in the types of JSON."""
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else float(f"{value:.5g}")
    return value.item() if isinstance(value, np.generic) else value


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Meanwhile no other process adds to what is kept."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (kept.parent / f".{kept.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
