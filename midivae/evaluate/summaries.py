"""Tables that summarise sets: models, harmony, features and distributions/* as CSV, features_real and neighbours.

Offers: `character`, `model_table`, `harmony_table`, `feature_table`, `histogram`; `held_out_table`, `neighbour_table`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from midivae.evaluate import held_out_distances
from midivae.evaluate.context import PHRASES, Context
from midivae.evaluate.held_out_distances import Floor, Row, SetFeatures, mean
from midivae.evaluate.latents import Latents
from midivae.evaluate.measured_set import MeasuredSet
from midivae.measures import baselines
from midivae.storage.schema import FEATURES, HARMONY, HELD_OUT

_MEANS = ("notes", "density", "polyphony", "note_length", "pitch_class_entropy", "scale_consistency")
_WHOLE_NUMBERS = ("notes", "pitch_low", "pitch_high", "pitch_range", "pitch_count")
_BINS = 40
_QUANTILES = {"min": 0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1}


# --- models.csv -------------------------------------------------------------------------------------------------------
def character(measured: MeasuredSet) -> Row:
    """What the windows of a set are like: the share of silence, and means over the others."""
    windows, distance = measured.windows, measured.windows.distance
    present = distance[~np.isnan(distance)]
    return {
        "silent_share": measured.features.silent_share,
        **{name: mean(measured.features[name]) for name in _MEANS},
        "novelty": mean(measured.novelty),
        **{f"novelty_{bars}_bars": mean(windows.phrases[bars]) for bars in PHRASES[1:]},
        "neighbour_distance": mean(distance),
        "copied_share": float((present == 0).mean()) if len(present) else np.nan,
        "diversity": measured.diversity.rolls,
        "distinct_bars": measured.diversity.distinct_bars,
        "diversity_windows": measured.diversity.windows,
        "chord_nats": mean(windows.nats),
        "tonal_distance": mean(windows.tonal),
    }


def model_table(
    sets: Sequence[MeasuredSet], compared: Mapping[str, list[Row]], latents: Sequence[Latents], floor: Floor
) -> list[Row]:
    """Rows of models.csv: held-out music, the trivial generators, then each job."""
    by_model = {model.model: model for model in latents}
    trivial = [measured.features for measured in sets if measured.name in baselines.NAMES]
    rows = []
    for measured in sets:
        features = measured.features
        row: Row = {"set": measured.name, "model": features.model, "windows": len(features), **character(measured)}
        if measured.name in compared:
            row |= {"valid_midi_share": float(measured.valid.mean()), **_frechets(compared[measured.name])}
            n = held_out_distances.drawable(features, floor)
            for other in trivial:
                row[f"frechet_{other.name}"] = mean(held_out_distances.frechet_of(other, floor, n).distance)
        spread = by_model.get(features.model)
        row |= {"latent_sd": spread.sd if spread else np.nan, "latent_gap_nats": spread.gap_nats if spread else np.nan}
        rows.append(row)
    return rows


def _frechets(rows: Sequence[Row]) -> Row:
    """The distances of whole vectors, each with its floor."""
    columns: Row = {}
    for name, size in (("frechet", "n"), ("frechet_mu", "n_mu")):
        (row,) = (row for row in rows if row["distance"] == name)
        columns |= {name: row["mean"], f"{name}_sd": row["sd"]}
        columns |= {f"{name}_real_to_real": row["real_mean"], f"{name}_real_to_real_sd": row["real_sd"]}
        columns[size] = row["n"]
    return columns


# --- harmony.csv ------------------------------------------------------------------------------------------------------
HARMONY_COLUMNS = ("set", "mode", "windows", "chord_nats", *HARMONY)


def harmony_table(sets: Sequence[MeasuredSet], modes: Mapping[str, str]) -> list[Row]:
    """Rows of harmony.csv: means of the measures of harmony and form in each set; `modes` are those of the jobs."""
    return [
        {
            "set": measured.name,
            "mode": modes.get(measured.name, ""),
            "windows": len(measured.windows),
            "chord_nats": mean(measured.windows.nats),
            **{name: mean(measured.windows.harmony[name]) for name in HARMONY},
        }
        for measured in sets
    ]


# --- features.csv and distributions -----------------------------------------------------------------------------------
def feature_table(features: SetFeatures) -> list[Row]:
    """Rows of features.csv: what values each feature has in a set."""
    return [_quantiles(features.name, feature, features[feature]) for feature in FEATURES]


def _quantiles(name: str, feature: str, values: np.ndarray) -> Row:
    present = values[~np.isnan(values)]
    row: Row = {"set": name, "feature": feature, "values": len(present), "missing": len(values) - len(present)}
    shares = list(_QUANTILES.values())
    quantiles = np.quantile(present, shares) if len(present) else np.full(len(shares), np.nan)
    spread = float(present.std()) if len(present) else np.nan
    return row | {"mean": mean(present), "sd": spread} | dict(zip(_QUANTILES, quantiles.tolist(), strict=True))


def histogram(feature: str, sets: Sequence[SetFeatures]) -> list[Row]:
    """Rows of distributions/<feature>.csv: the middle of each bin, and each set's share of values in it."""
    present = {rows.name: rows[feature][~np.isnan(rows[feature])] for rows in sets}
    edges = _edges(present[HELD_OUT], np.concatenate(list(present.values())), feature in _WHOLE_NUMBERS)
    shares = {
        name: np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
        for name, values in present.items()
    }
    middle = (edges[:-1] + edges[1:]) / 2
    return [{"value": middle[i], **{name: share[i] for name, share in shares.items()}} for i in range(len(middle))]


def _edges(held_out: np.ndarray, values: np.ndarray, whole: bool) -> Float[np.ndarray, " _"]:
    """Edges of at most `_BINS` bins; those of whole numbers hold equally many of them.

    They reach beyond held-out music by at most its own range. Values further out, such as the note counts of a bad
    model, count in the last bin, so that the shape of music stays visible.
    """
    if len(values) == 0:
        return np.array([0.0, 1.0])
    low, high = float(values.min()), float(values.max())
    if len(held_out) and held_out.max() > held_out.min():
        reach = float(held_out.max() - held_out.min())
        low, high = max(low, float(held_out.min()) - reach), min(high, float(held_out.max()) + reach)
    if not whole:
        return np.linspace(low, high if high > low else low + 1, _BINS + 1)
    width = max(1, int(np.ceil((high - low + 1) / _BINS)))
    n_bins = int((high - low) // width) + 1
    return low - 0.5 + width * np.arange(n_bins + 1)


# --- tables in Parquet ------------------------------------------------------------------------------------------------
def held_out_table(measured: MeasuredSet) -> pa.Table:
    """The held-out windows as rows of `schema.WINDOWS`."""
    windows = measured.windows
    columns = dict(zip(FEATURES, windows.measures.T, strict=True)) | windows.harmony
    return pa.table(
        {
            "piece_id": pa.array(measured.ids, pa.string()),
            "start_step": pa.array(measured.start, pa.int32()),
            "n_steps": pa.array(np.full(len(windows), windows.packed.shape[1]), pa.int32()),
            **{name: pa.array(column, pa.float32(), from_pandas=True) for name, column in columns.items()},
            "key": pa.array(windows.keys, pa.string()),
            "novelty": pa.array(measured.novelty, pa.float32(), from_pandas=True),
        }
    )


def neighbour_table(sets: Sequence[MeasuredSet], context: Context) -> pa.Table:
    """The nearest training window of every window, as rows of `schema.NEIGHBOURS`; held-out music is the first set."""
    tables = []
    known = len(context.starts) > 0
    for measured in sets:
        windows = measured.windows
        at, none = windows.neighbour, windows.neighbour < 0
        piece_ids = context.piece_ids[at].tolist() if known else [None] * len(at)
        tables.append(
            pa.table(
                {
                    "set": pa.array([measured.name] * len(at), pa.string()),
                    "id": pa.array(measured.ids, pa.string()),
                    "start_step": pa.array(measured.start, pa.int32()),
                    "piece_id": pa.array(piece_ids, pa.string(), mask=none),
                    "piece_start_step": pa.array(context.starts[at] if known else at, pa.int32(), mask=none),
                    "semitones": pa.array(windows.semitones, pa.int32(), mask=none),
                    "distance": pa.array(windows.distance, pa.float32(), from_pandas=True),
                }
            )
        )
    return pa.concat_tables(tables)
