"""The commands that render samples: `render` to sound, `plot` to a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from midivae import errors
from midivae.cli import base


def _midi_files(names: Sequence[str], data: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of MIDI files: `names` are paths of files, or sample_ids of the catalog."""
    from midivae.catalog import read
    from midivae.storage.paths import is_midi

    paths = {name: Path(name) for name in names if is_midi(name)}
    ids = [name for name in names if name not in paths]
    samples = read.midi_bytes(data.resolve(), ids) if ids else {}
    try:
        files = [
            (paths[name].stem, paths[name].read_bytes()) if name in paths else (name, samples[name])
            for name in dict.fromkeys(names)
        ]
    except OSError as error:
        raise errors.InputError(f"{error.filename}: cannot be read ({error.strerror}); name a MIDI file") from None
    twice = [name for name, count in Counter(name for name, _ in files).items() if count > 1]
    if twice:
        raise errors.ParamsError(f"two of these would be written as {twice[0]!r}; name them one at a time")
    return files


@base.command(
    "midivae render sample-0000012 song-0000003",
    "midivae render song.mid --format flac --output .",
    "midivae render --best 3 --job song --job joint",
)
@click.argument("samples", nargs=-1, metavar="[SAMPLE]...")
@click.option("--best", type=click.IntRange(min=1), metavar="K", help="Render the K best samples of each job instead.")
@click.option("--job", "jobs", multiple=True, metavar="JOB", help="With --best: only of this job; may be repeated.")
@click.option("--format", "form", type=click.Choice(("ogg", "flac", "wav")), default="ogg", show_default=True)
@base.path_option("--output", default="audio", metavar="DIR", text="The folder of the sound files.")
@base.workers_option
@base.data_option
@base.log_options
def render(
    samples: tuple[str, ...],
    best: int | None,
    jobs: tuple[str, ...],
    form: str,
    output: Path,
    workers: int | None,
    data: Path,
) -> None:
    """Render samples to sound files.

    SAMPLE is a sample_id of the catalog, or a MIDI file. All are scaled to the same peak, and none is clipped. If a
    file cannot be rendered, the others are, and the exit code is 3. The best samples are new and similar to held-out
    music: docs/report.md describes the ranking.
    """
    from midivae.catalog import ranking
    from midivae.config.compute import Compute
    from midivae.render import audio
    from midivae.storage.files import write_bytes

    if (best is None) == (not samples):
        raise errors.ParamsError("render needs names of samples or --best K, one of the two; see `midivae catalog`")
    if jobs and best is None:
        raise errors.ParamsError("--job goes with --best K")
    names = samples if best is None else tuple(ranking.best(data.resolve(), best, jobs))
    files = [audio.Source(name, midi, form) for name, midi in _midi_files(names, data)]
    failed: list[str] = []
    for index, sound in audio.render(files, Compute(workers=workers)):
        if isinstance(sound, errors.MidivaeError):
            failed.append(str(sound))
            continue
        name = files[index].name
        path = output / f"{name}.{form}"
        write_bytes(path, sound.data)
        seconds, peak = round(sound.seconds, 3), round(sound.peak, 3)
        base.print_json({"sample": name, "file": str(path), "seconds": seconds, "peak": peak, "bytes": len(sound.data)})
    if failed:
        raise errors.InputError("\n".join([f"{len(failed)} of {len(files)} not rendered:", *sorted(failed)]))


@base.command("midivae plot song-0000003", "midivae plot song.mid --output song.svg")
@click.argument("sample", metavar="SAMPLE")
@click.option("--output", type=base.PATH, metavar="FILE", help="A .png or .svg file; without it, SAMPLE.png.")
@base.data_option
def plot(sample: str, output: Path | None, data: Path) -> None:
    """Draw the piano roll of a sample or a MIDI file.

    SAMPLE is a sample_id of the catalog, or a MIDI file. The picture has a colour per part, bar lines, pitch names, key
    and tempo.
    """
    from midivae.render import plot as picture
    from midivae.storage.files import write_bytes

    form = picture.format_of(output) if output is not None else "png"
    [(name, midi)] = _midi_files([sample], data)
    path = output or Path(f"{name}.png")
    image = picture.draw(midi, name, form)
    write_bytes(path, image)
    base.print_json({"sample": name, "file": str(path), "bytes": len(image)})


COMMANDS = (render, plot)
