"""The samples that a person keeps: job `kept` of a catalog of its own, `data/kept`.

They are not in `data/samples`, because stage `generate` replaces that folder and DVC tracks it. The columns are those
of every catalog, and `midivae catalog --data data` reads both. The uploaded files among the parents lie in `parents/`.
The folder is published whole: a reader sees it before or after a change, never between.

Offers: `Kept`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from midivae.errors import CorruptError, InputError
from midivae.explorer.settings import JOB, UPLOAD_NAME, Settings
from midivae.generate.context import Samples
from midivae.generate.rows import LoadedJob
from midivae.storage import folders, schema, tables
from midivae.storage.files import copy_file, file_sha256, make_folder, write_bytes, writing
from midivae.storage.paths import catalog_file


class Kept:
    """The folder of kept samples, which may not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._catalog = folder / "catalog" / catalog_file(JOB, 0, 1)

    def add(
        self, settings: Settings, samples: Samples, loaded: LoadedJob, uploads: Mapping[str, Path]
    ) -> dict[str, Any]:
        """Adds a sample; one that is there stays as it is.

        Args:
            settings: the settings of the sample.
            samples: the sample.
            loaded: its model.
            uploads: the uploaded files among its parents.

        Returns:
            sample_id, and whether it is new.

        Raises:
            InputError, CorruptError: what is there cannot be read, or has another layout; it stays as it is.
        """
        make_folder(self.folder.parent)
        with writing(self.folder), FileLock(self.folder.parent / f".{self.folder.name}.lock"):
            rows = self._rows(loaded)
            index = int(pc.max(rows["index"]).as_py()) + 1 if len(rows) else 0
            row = loaded.rows(settings, settings.seed, range(index, index + 1), samples)
            same = [pc.equal(rows[name], row[name][0]) for name in ("params_sha256", "model_sha256")]
            present = rows.filter(pc.and_(*same))
            if len(present):
                return {"sample_id": present["sample_id"][0].as_py(), "new": False}
            self._publish(pa.concat_tables([rows, row.cast(rows.schema)]), loaded.extra, uploads)
            return {"sample_id": row["sample_id"][0].as_py(), "new": True}

    def _rows(self, loaded: LoadedJob) -> pa.Table:
        """The rows so far. All have one layout, which is stored once for the file."""
        if not self._catalog.is_file():
            return schema.CATALOG.columns.empty_table()
        damaged = folders.verify(self.folder)  # publishing again would give damaged files new hashes
        if damaged:
            lines = [f"{self.folder}: files differ from their hashes; move the folder away, or restore it:", *damaged]
            raise CorruptError("\n".join(lines))
        if tables.read_extra(self._catalog, schema.CATALOG, "layout") != loaded.extra["layout"]:
            raise InputError(
                f"{self.folder}: has samples of another layout; move it away, or name another folder with --keep"
            )
        return tables.read(self._catalog, schema.CATALOG).replace_schema_metadata(None)

    def _publish(self, rows: pa.Table, extra: dict[str, str], uploads: Mapping[str, Path]) -> None:
        with folders.publishing(self.folder) as staging:
            for path in sorted((self.folder / "parents").glob("*.mid")):
                copy_file(path, staging / "parents" / path.name)
            for name, path in uploads.items():
                write_bytes(staging / "parents" / name, path.read_bytes())
            tables.write(staging / "catalog" / self._catalog.name, rows, schema.CATALOG, extra)

    def list(self) -> list[dict[str, Any]]:
        """Some columns of all kept samples, the newest first."""
        if not self._catalog.is_file():
            return []
        columns = ["sample_id", "model", "key", "notes", "parents", "radius"]
        rows: list[dict[str, Any]] = tables.read(self._catalog, schema.CATALOG, columns).to_pylist()
        return rows[::-1]

    def upload(self, name: str) -> Path | None:
        """An uploaded file among the parents of a kept sample; None if there is none of this name and hash."""
        path, match = self.folder / "parents" / name, UPLOAD_NAME.fullmatch(name)
        if match is None or not path.is_file() or not file_sha256(path).startswith(match[1]):
            return None
        return path
