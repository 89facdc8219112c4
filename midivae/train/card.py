"""The model card: a page for people, in the format of the Hugging Face hub.

Offers: `write_card`, `read_sources`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from midivae import __version__
from midivae.config.train import Train
from midivae.models.base import CARD
from midivae.storage import tables
from midivae.storage.files import write_bytes
from midivae.storage.schema import CORPUS
from midivae.train.fit import Trained


def write_card(
    folder: Path,
    trained: Trained,
    metrics: Mapping[str, Any],
    settings: Train,
    sources: Sequence[Mapping[str, object]],
) -> None:
    """Writes the card of a model.

    Args:
        folder: of the model.
        trained: the model.
        metrics: as in `metrics.json`.
        settings: of the stage.
        sources: from `read_sources`.
    """
    # names and licences come from the corpus: they are text and never markup
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midivae.train.card"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    config = trained.model.config
    card = environment.get_template("model_card.md").render(
        config=config,
        inputs=math.prod(config.window_shape),
        latent=trained.model.latent,
        coarse=trained.model.coarse,
        metrics=metrics,
        params=json.dumps(_params(trained, settings), indent=2),
        sources=sources,
        version=__version__,
    )
    write_bytes(folder / CARD, card.encode())


def _params(trained: Trained, settings: Train) -> dict[str, Any]:
    """The parameters that made a model, with the precision that was used."""
    config = trained.model.config
    sections = {"view": config.view.model_dump(mode="json"), "network": config.network.model_dump(mode="json")}
    start = {"warm_start": settings.warm_start} if settings.warm_start is not None else {}
    return {"seed": settings.seed, "precision": trained.precision, **start, **sections}


def read_sources(corpus: Path) -> list[dict[str, object]]:
    """Name, licence and number of files of each source of the corpus; empty if there is no such table."""
    if not corpus.is_file():
        return []
    table = tables.read(corpus, CORPUS, ["source", "licence"])
    counted = table.group_by(["source", "licence"], use_threads=False).aggregate([([], "count_all")])
    return [
        {"name": _cell(row["source"]), "licence": _cell(row["licence"] or "not stated"), "files": row["count_all"]}
        for row in counted.sort_by("source").to_pylist()
    ]


def _cell(text: str) -> str:
    """Text without line breaks and bars, which would end its cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "/")
