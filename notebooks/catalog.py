"""The catalog of samples in a notebook: query, plot, select and export samples.

`marimo edit notebooks/catalog.py` opens it with its code, `marimo run notebooks/catalog.py` as a page without code.
`python notebooks/catalog.py --data data --out picked` runs it as a program that writes figures and files to a folder.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(app_title="The catalog of samples")


@app.cell
def _():
    import json
    import pathlib

    import marimo as mo
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd

    from midivae.catalog import export, playback, read

    return export, json, mo, np, pathlib, pd, playback, plt, read


@app.cell
def _(mo):
    mo.md(
        """
        # The catalog of samples
        `midivae generate` wrote one row per sample. This notebook reads, plots and selects them. When you change a
        query, everything that depends on it runs again.
        """
    )


@app.cell
def _(mo, pathlib):
    # the options `--data` and `--out` of the command line
    data = pathlib.Path(str(mo.cli_args().get("data") or "data"))
    out = pathlib.Path(str(mo.cli_args().get("out") or "picked"))
    out.mkdir(parents=True, exist_ok=True)
    return data, out


@app.cell
def _(read, data):
    samples = read.samples(data)  # all columns but latents and MIDI bytes
    samples.groupby(["job", "mode"], sort=False)[["notes", "density", "polyphony", "novelty"]].mean().round(2)
    return (samples,)


@app.cell
def _(mo):
    mo.md(
        """
        ## Distributions of features
        Each plot shows a feature of the samples of each job, and in grey the same feature of held-out music. Samples
        outside the grey area are unlike the corpus.
        """
    )


@app.cell
def _(mo, samples):
    _names = list(samples["job"].value_counts().index)
    jobs = mo.ui.multiselect(_names, value=_names[:3], label="Jobs")  # the largest jobs at first
    jobs
    return (jobs,)


@app.cell
def _(data, jobs, np, out, pd, plt, samples):
    held_out = pd.read_parquet(data / "evaluation" / "features_real.parquet")

    def distribution(axes, feature):
        """Shares of values in common bins; they extend the range of held-out music by half of it on each side."""
        real = held_out[feature].dropna()
        low, high = real.quantile([0.01, 0.99])
        every = pd.concat([real, samples[feature].dropna()])
        edges = np.linspace(max(low - (high - low) / 2, every.min()), min(high + (high - low) / 2, every.max()), 25)
        axes.hist(real, edges, weights=np.full(len(real), 1 / len(real)), color="0.85", label="held-out")
        for job in jobs.value:
            values = samples.loc[samples["job"] == job, feature].dropna()
            if len(values):
                axes.stairs(np.histogram(values.clip(edges[0], edges[-1]), edges)[0] / len(values), edges, label=job)
        axes.set_xlabel(feature)

    features, _axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
    for _place, _feature in zip(_axes.flat, ["density", "register", "note_length", "scale_consistency"], strict=True):
        distribution(_place, _feature)
    _axes.flat[0].set_ylabel("share of the samples")
    features.legend(*_axes.flat[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    features.savefig(out / "features.png", dpi=110)
    features


@app.cell
def _(mo):
    mo.md(
        """
        ## Requested and measured changes
        A row of mode `edit` has both in its column `edits`. On the line they are equal.
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
    # 1: a larger requested change always gives a larger measured change
    ranks = asked.groupby("attribute").apply(lambda rows: rows["asked"].corr(rows["measured"], "spearman"))
    ranks.round(2) if len(asked) else "no job of mode edit in this catalog"
    return (asked,)


@app.cell
def _(asked, mo, out, plt):
    mo.stop(asked.empty)
    control, _axes = plt.subplots(1, asked["attribute"].nunique(), figsize=(12, 3), layout="constrained", squeeze=False)
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
        A path of mode `blend`. The first and the last picture are its two parents as the model rebuilds them. The plots
        below show the distance of each picture to the first: of the latents, and of the cells of the rolls.
        """
    )


@app.cell
def _(read, data, mo, np, out, playback, plt):
    path = read.samples(data, where="method = 'slerp'", sort="sample_id", latents=True)
    mo.stop(path.empty, "no path of mode blend in this catalog")
    _weight = np.array(path["weights"].tolist())[:, 1]
    _end = int(np.flatnonzero(_weight == 1)[0]) + 1  # the first path ends where its second parent has weight 1
    path, _weight = path.iloc[:_end], _weight[:_end]
    _files = read.samples(data, where="method = 'slerp'", sort="sample_id", columns=["midi"], limit=_end)
    rolls = playback.play(
        [file["bytes"] for file in _files["midi"]],
        path["notes"].to_numpy(np.int64),
        path["n_steps"].to_numpy(np.int64),
        read.layout(data, path["job"].iloc[0]),
    ).planes(slice(0, _end))
    _sounding = rolls.any(axis=(2, 3))  # [B, T, P]: in any part, onset or frame
    _z = read.latents(path)
    _apart = np.linalg.norm(_z - _z[0], axis=1)
    _differ = (_sounding ^ _sounding[0]).sum(axis=(1, 2)) / (_sounding | _sounding[0]).sum(axis=(1, 2)).clip(1)

    blend = plt.figure(figsize=(12, 4.5), layout="constrained")
    _grid = blend.add_gridspec(2, _end, height_ratios=[1, 1.2])
    for _i, _roll in enumerate(_sounding):
        _place = blend.add_subplot(_grid[0, _i])
        _place.imshow(_roll.T, origin="lower", aspect="auto", cmap="Blues", interpolation="nearest")
        _place.set(title=f"{_weight[_i]:.2f}", xticks=[], yticks=[])
    _left, _right = blend.add_subplot(_grid[1, : _end // 2]), blend.add_subplot(_grid[1, _end // 2 :])
    _left.plot(_weight, _apart, marker="o")
    _left.set(xlabel="weight of the second parent", ylabel="latents: distance")
    _right.plot(_weight, _differ, marker="o")
    _right.set(xlabel="weight of the second parent", ylabel="rolls: share of cells that differ")
    blend.savefig(out / "blend.png", dpi=110)
    blend


@app.cell
def _(mo):
    mo.md(
        """
        ## Select and export
        The same query as on the command line: the ten samples with the most new bars. `export` writes a `.mid` file for
        each of them, and `catalog.csv`.
        """
    )


@app.cell
def _(export, read, data, out):
    picked = read.samples(data, where="scale_consistency > 0.9 AND notes > 0", sort="-novelty", limit=10)
    written = export.to_folder(data, picked, out)
    picked[["sample_id", "mode", "key", "notes", "polyphony", "novelty"]]
    return picked, written


@app.cell
def _(mo, out, written):
    mo.md(f"{written} samples are in `{out}`.")


if __name__ == "__main__":
    app.run()
