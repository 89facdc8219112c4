"""Where the files of a catalog are.

Offers: `catalog_of`.
"""

from __future__ import annotations

from pathlib import Path

from midivae.errors import InputError
from midivae.storage.paths import KEPT, catalog_files


def catalog_of(folder: Path) -> list[Path]:
    """The Parquet files of a catalog; `folder` is the data folder, its `samples`, or the catalog itself.

    The samples that were kept in the explorer come last.

    Raises:
        InputError: there is no catalog.
    """
    kept = catalog_files(folder / KEPT / "catalog")
    for catalog in (folder / "samples" / "catalog", folder / "catalog", folder):
        files = catalog_files(catalog)
        if files and catalog.name == "catalog":
            return files + kept
    if kept:
        return kept
    raise InputError(
        f"{folder}: no catalog of samples there or in samples/catalog; run stage `generate`, or name --data"
    )
