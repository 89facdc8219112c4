"""The catalog of samples in a notebook: query it, draw it, pick from it, export what was picked.

To look at and change, `marimo edit notebooks/catalog.py`; as a page without code, `marimo run notebooks/catalog.py`; as
a program that draws into a folder, `python notebooks/catalog.py --data data --out picked`.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="The catalog of samples")


@app.cell
def _():
    import json
    from pathlib import Path

    import marimo as mo
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd

    from midivae import catalog

    return Path, catalog, json, mo, np, pd, plt


@app.cell
def _(mo):
    mo.md(
        """
        # The catalog of samples
        `midivae generate` wrote a row per sample. Here they are read, drawn and picked. Everything below runs again
        when you change a query, so change them.
        """
    )


@app.cell
def _(Path, mo):
    # `--data` and `--out` on the command line; the project's own folder without them
    data = Path(str(mo.cli_args().get("data") or "data"))
    out = Path(str(mo.cli_args().get("out") or "picked"))
    out.mkdir(parents=True, exist_ok=True)
    return data, out


@app.cell
def _(catalog, data):
    samples = catalog.read(data)  # all columns but latents and MIDI bytes
    samples.groupby(["job", "mode"], sort=False)[["notes", "density", "polyphony", "novelty"]].mean().round(2)
    return (samples,)


@app.cell
def _(mo):
    mo.md(
        """
        ## What they are like
        A feature of each job's samples beside the same feature of music that no training saw. What lies elsewhere than
        the grey area is not like the corpus.
        """
    )


@app.cell
def _(data, np, out, pd, plt, samples):
    held_out = pd.read_parquet(data / "evaluation" / "features_real.parquet")

    def distribution(axes, feature):
        """Shares of values in common bins, a line per job of single windows."""
        jobs = {job: rows[feature].dropna() for job, rows in samples.groupby("job", sort=False)}
        real = held_out[feature].dropna()
        edges = np.histogram_bin_edges(pd.concat([real, *jobs.values()]).clip(*_range(real)), bins=24)
        axes.hist(real, edges, weights=np.full(len(real), 1 / len(real)), color="0.85", label="held-out")
        for job, values in jobs.items():
            if len(values):
                share = np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values)
                axes.stairs(share, edges, label=job)
        axes.set_xlabel(feature)

    def _range(values):
        """Where values lie, and as far again on either side."""
        low, high = values.quantile([0.01, 0.99])
        return low - (high - low) / 2, high + (high - low) / 2

    features, _axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for _place, _feature in zip(_axes.flat, ["density", "register", "note_length", "scale_consistency"], strict=True):
        distribution(_place, _feature)
    _axes.flat[0].set_ylabel("share of the samples")
    features.legend(*_axes.flat[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    features.savefig(out / "features.png", dpi=110)
    features
    return (held_out,)


@app.cell
def _(mo):
    mo.md(
        """
        ## What was asked, and what came
        A row of mode `edit` has both in its column `edits`. On the line, what came is what was asked.
        """
    )


@app.cell
def _(json, pd, samples):
    edits = samples.loc[samples["mode"] == "edit", "edits"].map(json.loads)
    asked = pd.DataFrame(
        [
            {"attribute": name, "asked": change, "measured": edit["measured"][name]}
            for edit in edits
            for name, change in edit["asked"].items()
        ],
        columns=["attribute", "asked", "measured"],
    ).dropna()
    # 1: whoever asks for more always gets more
    ranks = asked.groupby("attribute")[["asked", "measured"]].corr("spearman").unstack()["asked"]["measured"]
    ranks.round(2) if len(asked) else "no job of mode edit in this catalog"
    return (asked,)


@app.cell
def _(asked, mo, out, plt):
    mo.stop(asked.empty)
    control, _axes = plt.subplots(
        1, asked["attribute"].nunique(), figsize=(12, 3), layout="constrained", squeeze=False
    )
    for _place, (_attribute, _rows) in zip(_axes.flat, asked.groupby("attribute"), strict=True):
        _place.axline((0, 0), slope=1, color="0.7")
        _place.scatter(_rows["asked"], _rows["measured"], s=8)
        _place.set(title=_attribute, xlabel="asked")
    _axes.flat[0].set_ylabel("measured")
    control.savefig(out / "control.png", dpi=110)
    control


@app.cell
def _(mo):
    mo.md(
        """
        ## From one piece to another
        A path of mode `blend`: the share of the second parent grows, and the pitches go from the one to the other.
        """
    )


@app.cell
def _(catalog, data, mo, np, out, plt):
    path = catalog.query(data, where="method == 'slerp'", sort="sample_id", latents=True)
    mo.stop(path.empty, "no job of mode blend in this catalog")
    _share = path["weights"].map(lambda weights: weights[1])
    path = path.iloc[: int((_share == 1).to_numpy().argmax()) + 1]  # the first of its paths ends where B has all
    _z = catalog.latents(path)
    _from_a = np.linalg.norm(_z - _z[0], axis=1)
    blend, (_left, _right) = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
    _left.plot(_share[: len(path)], _from_a / _from_a[-1], marker="o")
    _left.set(xlabel="share of parent B", ylabel="distance of latents from A, of that to B")
    for _feature in ("density", "register", "note_length"):
        _values = path[_feature]
        _right.plot(_share[: len(path)], _values / _values.iloc[0], marker="o", label=_feature)
    _right.set(xlabel="share of parent B", ylabel="relative to A")
    _right.legend()
    blend.savefig(out / "blend.png", dpi=110)
    blend


@app.cell
def _(mo):
    mo.md(
        """
        ## Pick and export
        A query as the command line has it, and the ten with least in common with the training pieces. `export` writes
        a `.mid` file for each, and `catalog.csv`.
        """
    )


@app.cell
def _(catalog, data, out):
    picked = catalog.query(data, where="scale_consistency > 0.9 and notes > 0", sort="-novelty", limit=10)
    written = catalog.export(data, picked, out)
    picked[["sample_id", "mode", "key", "notes", "polyphony", "novelty"]]
    return picked, written


@app.cell
def _(mo, out, written):
    mo.md(f"{written} samples are in `{out}`.")


if __name__ == "__main__":
    app.run()
