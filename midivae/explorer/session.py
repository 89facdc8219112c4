"""A session of the explorer: models, parents, and the samples that are made of them.

How settings become a sample:

    1. Each parent is a window: of a piece, of an uploaded file, or a sample. Its latent is the mean of its posterior; a
       sample of this model keeps its own latent.
    2. The point gives the weights of the parents. Two parents are blended by `slerp`, more by
       `barycentre`. A parent with all the weight stays as it is, to the last bit.
    3. `vary` moves the result by the radius, in a direction that the seed draws.
    4. `edit.edited` changes attributes: it decodes several strengths of the change and takes the closest one.

A sample is decoded in a block of its own, not in one of `coding.BLOCK`, because the page waits for it. It may differ in
a few cells from a sample that a job makes of the same latent.

Shapes:
    M  parents    Z  latent    T  steps    N  parts    P  pitches    S  strengths of an edit, and none

Offers: `Session`, `Result`.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32
from pydantic import Field

from midivae import models
from midivae.catalog import playback, read
from midivae.champion.versions import FACTS
from midivae.config.jobs import Sample
from midivae.config.params import Params
from midivae.config.streams import Stream
from midivae.errors import FolderError, InputError, ParamsError
from midivae.explorer.kept import Kept
from midivae.explorer.point import latent_at
from midivae.explorer.settings import GRID, JOB, MOST_PARENTS, TEMPO_QPM, Parent, Settings, point_of, weights_of
from midivae.explorer.uploads import MOST_BYTES, Uploads
from midivae.generate import parents as sources
from midivae.generate.context import Draws, Samples
from midivae.generate.edit import edited
from midivae.generate.rows import LoadedJob
from midivae.models import coding
from midivae.models.base import read_config
from midivae.models.conditions import Conditions
from midivae.models.controls import RELATIVE, Controls, controls_file
from midivae.render import pictures
from midivae.storage import schema, tables
from midivae.storage.paths import KEPT, MIDI_SUFFIXES, PIECES_TABLE, catalog_files, compared_folders

LISTED = 60  # rows that a search shows
Latent = Float32[np.ndarray, "1 Z"]
Count = Annotated[int, Field(ge=0, le=MOST_PARENTS)]
Seed = Annotated[int, Field(ge=0, le=2**31)]
Parents = Annotated[list[Parent], Field(max_length=64)]
_REMEMBERED = 256  # parents, and samples: a sample that is kept is the one that was heard


@dataclass(frozen=True)
class Result:
    """A sample, and its row of the catalog as the first of its job."""

    samples: Samples
    row: pa.Table

    @property
    def file(self) -> bytes:
        """As a MIDI file."""
        data: bytes = self.row.column("midi")[0].as_py()["bytes"]
        return data


class Session:
    """The models of a data folder, the parents of samples, and the kept samples.

    Several threads may call its methods; one of them computes at a time.
    """

    def __init__(self, params: Params, data: Path, kept: Path | None = None) -> None:
        """Loads the model in `data/model`; those in `compare` are loaded when they are used.

        Args:
            params: the sections `ingest` and `evaluate` are used.
            data: the folder of all stages.
            kept: where samples are kept; None: `data/kept`.

        Raises:
            InputError: a stage has not run, or `data` is a published version, which must not change.
            SchemaError, CorruptError: a file is of another version, or damaged.
        """
        data = data.resolve()
        if kept is None and (data / FACTS).is_file():
            raise InputError(f"{data}: a published version must not change; name another folder with --keep")
        self._data, self.kept = data, Kept((data / KEPT if kept is None else kept).absolute())
        main = read_config(data / "model").name
        compared = [folder.name for folder in compared_folders(data / "model")]
        self.models = (main, *(name for name in compared if name != main))
        train = params.train.model_copy(update={"model": main, "compare": self.models[1:]})
        self._params = params.model_copy(update={"train": train})
        self._jobs: dict[str, LoadedJob] = {}
        self._controls: dict[tuple[str, bool], Controls | None] = {}  # by model, and whether of its coarse latent alone
        self._encoded = lru_cache(_REMEMBERED)(self._encode)
        self._result = lru_cache(_REMEMBERED)(self._make)
        self._lock = threading.RLock()
        self._pieces = _accepted_pieces(data / "rolls")
        self._loaded(main)
        self._scratch = tempfile.TemporaryDirectory(prefix="midivae-explore-")
        self.uploads = Uploads(Path(self._scratch.name), params.ingest)

    def close(self) -> None:
        """Deletes the uploaded files."""
        self._scratch.cleanup()

    # --- models
    def _loaded(self, name: str) -> LoadedJob:
        """A model, loaded once."""
        if name not in self.models or name not in models.KINDS:
            raise ParamsError(f"no model {name!r:.40} in {self._data / 'model'}; there are {', '.join(self.models)}")
        if name not in self._jobs:
            other = {} if name == self.models[0] else {"model": name}
            self._jobs[name] = LoadedJob(
                Sample.model_validate({"name": JOB, "count": 1, **other}), self._params, self._data
            )
            folder = self._jobs[name].folder
            for coarse in (False, True):
                is_there = (folder / controls_file(coarse)).is_file()
                self._controls[name, coarse] = Controls.read(folder, coarse) if is_there else None
        return self._jobs[name]

    def about(self, model: str = "") -> dict[str, Any]:
        """What the page shows of a model, and the limits of what it may ask for."""
        name = model or self.models[0]
        with self._lock:
            loaded = self._loaded(name)
            controls = self._controls[name, False]
        layout, config = loaded.context.layout, loaded.context.model.config
        knobs = []
        for attribute in controls.offered if controls is not None else ():
            low, high = controls.usual_range(attribute) if controls is not None else (0.0, 0.0)
            knobs.append({"name": attribute, "low": low, "high": high, "relative": attribute in RELATIVE})
        return {
            "model": name,
            "models": list(self.models),
            "parts": list(layout.parts),
            "colours": pictures.part_colours(len(layout.parts)),
            "programs": [max(0, program) for program in config.programs],
            "pitch_low": layout.pitch_low,
            "pitches": layout.pitches,
            "steps_per_beat": layout.steps_per_beat,
            "beats_per_bar": self._params.evaluate.beats_per_bar,
            "tempo_qpm": config.tempo_qpm,
            "knobs": knobs,
            "has_fidelity": loaded.context.model.coarse < loaded.context.model.latent,
            "kept": str(self.kept.folder),
            "limits": {
                "grid": GRID,
                "parents": MOST_PARENTS,
                "tempo_qpm": list(TEMPO_QPM),
                "listed": LISTED,
                "upload_bytes": MOST_BYTES,
                "upload_suffixes": list(MIDI_SUFFIXES),
            },
        }

    # --- parents
    def pieces(self, text: str = "", split: str = "") -> list[dict[str, Any]]:
        """Pieces of the corpus whose path, id and key contain all words of a text; at most `LISTED`."""
        words = text[:200].casefold().split()
        found = (
            row
            for row in self._pieces
            if split in ("", row["split"])
            and all(word in f"{row['path']} {row['piece_id']} {row['key'] or ''}".casefold() for word in words)
        )
        return list(islice(found, LISTED))

    def random_parents(self, count: Count, seed: Seed) -> list[str]:
        """Windows of random pieces; pieces of the test split come first."""
        config = self._loaded(self.models[0]).context.model.config
        bar = self._params.evaluate.beats_per_bar * config.layout.steps_per_beat
        whole = -(-config.view.steps // bar)  # bars of a window
        rows = [row for row in self._pieces if (row["bars"] or 0) >= whole] or self._pieces
        rng = Stream.EXPLORE.rng(seed)
        order = rng.permutation(len(rows)).tolist()
        drawn = sorted(order, key=lambda i: rows[i]["split"] != "test")[:count]
        bars = [rng.integers(1, max(1, (rows[i]["bars"] or 1) - whole) + 1) for i in drawn]
        return [f"piece:{rows[i]['piece_id']}@{bar}" for i, bar in zip(drawn, bars, strict=True)]

    def samples(self, where: str = "") -> list[dict[str, Any]]:
        """Samples of the catalog that match a filter; at most `LISTED`.

        Raises:
            ParamsError: the filter cannot be parsed.
            InputError: there is no catalog.
        """
        columns = ["sample_id", "job", "mode", "model", "key", "notes", "polyphony", "novelty"]
        rows = read.samples(self._data, where=where[:1000] or None, limit=LISTED, columns=columns)
        samples: list[dict[str, Any]] = json.loads(rows.to_json(orient="records", double_precision=5))
        return samples

    def names(self, parents: Parents) -> list[dict[str, Any]]:
        """Name, bars, key and split of parents."""
        pieces = {f"piece:{row['piece_id']}": row for row in self._pieces}
        names = []
        for text in parents:
            source = text.partition("@")[0]
            kind, _, name = source.partition(":")
            other = {"path": self.uploads.name_of(name), "split": "upload" if kind == "file" else kind}
            row = pieces.get(source, other)
            names.append({"name": row["path"], **{column: row.get(column) for column in ("bars", "key", "split")}})
        return names

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Takes a MIDI file as a parent; see `Uploads.add`."""
        with self._lock:
            return self.uploads.add(name, data)

    def _encode(self, name: str, text: str) -> tuple[str, Float32[np.ndarray, " Z"]]:
        """The label of a parent, and its latent for a model."""
        loaded = self._loaded(name)
        scratch = Path(self._scratch.name)
        source = text
        if text.startswith("file:"):
            file, _, bar = text.removeprefix("file:").partition("@")
            source = f"file:{self._upload_path(file)}@{bar}"
        folder = scratch / hashlib.sha256(f"{loaded.model_sha256} {text}".encode()).hexdigest()[:32]
        folder.mkdir(exist_ok=True)
        model = loaded.context.model
        rolls, ingest, view = self._data / "rolls", self._params.ingest, model.config.view
        try:
            sources.write_pool([source], folder, rolls, ingest, view, lambda sample_id: self._known(loaded, sample_id))
        except FolderError:
            raise
        except (InputError, ParamsError) as error:
            raise type(error)(str(error).replace(f"{scratch}/", "")) from None
        pool = sources.Pool.open(folder)
        z, _ = replace(loaded.context, parents=pool).encoded(np.zeros(1, np.int64))
        return pool.labels[0], z[0]

    def _upload_path(self, file: str) -> Path:
        """Where an uploaded file is, of this session or of a kept sample."""
        path = self.uploads.path_of(file) or self.kept.upload(file)
        if path is None:
            raise InputError(f"parent file:{file}: no longer stored; upload it again")
        return path

    def _known(self, loaded: LoadedJob, sample_id: str) -> sources.ParentSample:
        """A sample of the catalog: its music, and its latent if it is of this model."""
        row = self._row(sample_id)
        layout = read.layout(self.kept.folder if row["job"] == JOB else self._data, row["job"])
        n_steps = np.array([row["n_steps"]], np.int64)
        played = playback.play([row["midi"]["bytes"]], np.array([int(row["notes"])], np.int64), n_steps, layout)
        if played.reasons:
            raise InputError(f"parent sample:{sample_id}: {played.reasons[0]}")
        model = loaded.context.model
        n_kept = model.coarse if row["fidelity"] == 0 else model.latent
        z = np.array(row["z"][:n_kept], np.float32) if row["model_sha256"] == loaded.model_sha256 else None
        return sources.ParentSample.of(
            played.planes()[0], z, row["mode"], row["method"], bool(row["transpose"] or row["lead_steps"])
        )

    def _row(self, sample_id: str) -> dict[str, Any]:
        """A row of the catalog.

        Raises:
            InputError: no sample has this id.
        """
        for folder in (self.kept.folder, self._data / "samples"):
            files = catalog_files(folder / "catalog")
            if not files:
                continue
            names = schema.CATALOG.columns.names
            rows = tables.scan(files, schema.CATALOG, names, pc.equal(pc.field("sample_id"), sample_id))
            if len(rows):
                row: dict[str, Any] = rows.slice(0, 1).to_pylist()[0]
                return row
        raise InputError(f"parent sample:{sample_id}: not in the catalog; `midivae catalog` lists the samples")

    # --- samples
    def make(self, settings: Settings) -> Result:
        """The sample of some settings.

        Raises:
            ParamsError: they name a model or an attribute that does not exist.
            InputError: a parent cannot be read.
        """
        settings = self._with_model(settings)
        with self._lock:
            return self._result(settings)

    def _with_model(self, settings: Settings) -> Settings:
        """With the name of the main model instead of none, so that the same settings have the same hash."""
        return settings if settings.model else settings.model_copy(update={"model": self.models[0]})

    def _make(self, settings: Settings) -> Result:
        name = settings.model or self.models[0]
        loaded = self._loaded(name)
        labels, latents = zip(*(self._encoded(name, text) for text in settings.parents), strict=True)
        weights = weights_of(len(labels), settings.at)
        context = loaded.context
        cells = context.model.config.window_shape if context.chance.temperature is not None else None
        draws = Draws(settings.seed, "explore", [0], context.model.latent, cells)
        noise = draws.noise()
        z = latent_at(context.space, np.stack(latents), weights, settings.radius, noise)
        z, planes, edits = self._edit(name, z, settings, draws.cells())
        origin: dict[str, list[Any]] = {
            "parents": [list(labels)],
            "weights": [weights.tolist()],
            "radius": [settings.radius],
            "fidelity": [settings.fidelity if context.model.coarse < context.model.latent else None],
            "edits": [edits],
            "method": [{1: None, 2: "slerp"}.get(len(labels), "barycentre")],
        }
        samples = Samples(z if settings.fidelity else z[:, : context.model.coarse], planes, origin)
        return Result(samples, loaded.rows(settings, settings.seed, range(1), samples))

    def _edit(
        self, name: str, z: Latent, settings: Settings, uniform: Float32[np.ndarray, "1 T N K P"] | None
    ) -> tuple[Latent, Bool[np.ndarray, "1 T N 2 P"], str | None]:
        """The latent with changed attributes, its music, and the requested and measured changes as JSON."""
        context, changes = self._loaded(name).context, settings.changes
        model = context.model
        controls = self._controls[name, model.coarse < model.latent and not settings.fidelity]
        conditions = Conditions(fidelity=np.array([settings.fidelity]))
        if not changes:
            return z, coding.decode(model, z, context.chance, uniform, conditions, block=1), None
        if controls is None:
            raise ParamsError(f"model {name!r} cannot change attributes; set all changes to zero")
        unknown = sorted(set(changes) - set(controls.offered))
        if unknown:
            raise ParamsError(f"no knob {unknown[0]!r:.40}; this model has {', '.join(controls.offered) or 'none'}")

        def play(moved: Float32[np.ndarray, "S 1 Z"]) -> Bool[np.ndarray, "S 1 T N 2 P"]:
            """All strengths in one block, which takes little longer than one."""
            numbers = None if uniform is None else np.repeat(uniform, len(moved), axis=0)
            every = conditions.repeated(len(moved))
            return coding.decode(model, moved[:, 0], context.chance, numbers, every, block=len(moved))[:, None]

        wanted = {name: np.array([change]) for name, change in changes.items()}
        requested = {name: np.ones(1, bool) for name in changes}
        best = edited(controls, context.layout, z, wanted, requested, play)
        return best.z, best.planes, best.as_json(0, changes)

    # --- kept samples
    def keep(self, settings: Settings) -> dict[str, Any]:
        """Adds a sample to the kept ones; see `Kept.add`."""
        settings = self._with_model(settings)
        result = self.make(settings)
        files = [text.removeprefix("file:").partition("@")[0] for text in settings.parents if text.startswith("file:")]
        uploads = {file: self._upload_path(file) for file in files}
        return self.kept.add(settings, result.samples, self._loaded(settings.model or self.models[0]), uploads)

    def reopen(self, sample_id: str) -> dict[str, Any]:
        """The settings of a kept sample, as a request of the page.

        Raises:
            InputError: it was not kept in the explorer, or its model has changed.
        """
        row = self._row(sample_id)
        if row["mode"] != "explore":
            raise InputError(f"{sample_id}: made by mode {row['mode']}, not kept in the explorer; use it as a parent")
        if row["model"] not in self.models or self._loaded(row["model"]).model_sha256 != row["model_sha256"]:
            raise InputError(f"{sample_id}: model {row['model']!r} has other weights now; use the sample as a parent")
        tempo = round(float(row["tempo_qpm"]), 2)
        usual = self._loaded(row["model"]).context.model.config.tempo_qpm
        return {
            "model": row["model"],
            "parents": row["parents"],
            "at": list(point_of(row["weights"])),
            "radius": round(float(row["radius"]), 2),
            "fidelity": 1.0 if row["fidelity"] is None else round(float(row["fidelity"]), 2),
            "seed": row["seed"],
            "changes": json.loads(row["edits"])["asked"] if row["edits"] else {},
            "tempo_qpm": None if tempo == round(usual, 2) else tempo,
        }


# --- helpers ----------------------------------------------------------------------------------------------------------
def _accepted_pieces(rolls: Path) -> list[dict[str, Any]]:
    """The pieces that can be parents, sorted by path."""
    columns = ["path", "piece_id", "split", "bars", "key", "accepted", "copy_of"]
    table = tables.read(rolls / PIECES_TABLE, schema.PIECES, columns)
    table = table.filter(pc.and_(table["accepted"], pc.is_null(table["copy_of"]))).drop_columns(["accepted", "copy_of"])
    rows: list[dict[str, Any]] = table.sort_by("path").to_pylist()
    if not rows:
        raise InputError(f"{rolls}: no piece was accepted; run stage `ingest` with other files")
    return rows
