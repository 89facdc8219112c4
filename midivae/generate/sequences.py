"""Modes whose samples are windows that follow each other: continue, song.

Shapes:
    B  samples    Z  latent    D  state of a prior

Offers: `continue_`, `song`; `windows_of`.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, UInt8

from midivae.config.jobs import Continue, Song
from midivae.errors import ParamsError
from midivae.generate.context import Context, Draws, Latents, Planes, Samples
from midivae.generate.one_key import Key
from midivae.generate.one_window import around
from midivae.models import WindowModel, coding
from midivae.models.conditions import Conditions
from midivae.windows.place import grid_places, places_after, without_bars

CANDIDATES = 2  # windows of a song among which one in its key is chosen


def continue_(context: Context, job: Continue, numbers: range) -> Samples:
    """New windows after a window of a parent."""
    prior = context.prior
    draws = context.draws(numbers)
    index = context.parent_windows(numbers, context.choices(numbers))
    z, music = context.encoded(index)
    key = Key.of(music, context.layout) if job.one_key else None
    begins = context.pool.begins(index)
    state = np.where(begins[:, None], coding.advance(prior, None, z, at_start=True), coding.advance(prior, None, z))
    places = without_bars(context.pool.places(index, music.shape[1]))
    lead, latents = music.shape[1], []
    for _ in range(job.windows):
        z = _next_latents(context, draws.noise(), state, key)
        state = coding.advance(prior, state, z)
        places = np.concatenate([places, places_after(places[:, -1], lead)], axis=1)
        music = _with_next_window(context, draws, z, music, places, key)
        latents.append(context.kept(z))
    start = 0 if job.lead else lead
    origin = {"parents": context.labels(index), "lead_steps": [lead - start] * len(numbers)}
    return Samples(np.concatenate(latents, axis=1), coding.complete(music[:, start:]), origin, context.bars_of(index))


def song(context: Context, job: Song, numbers: range) -> Samples:
    """Many windows; a section of the form that returns is a variation of its first appearance."""
    prior, layout = context.prior, context.layout
    draws = context.draws(numbers)
    n = len(numbers)
    sections = job.form or "A"
    length = windows_of(job, context.model) // len(sections)
    state = coding.start_state(prior, n)
    music = np.zeros((n, 0, *context.model.config.window_shape[1:2], 2, layout.pitches), bool)
    first_latents: dict[tuple[str, int], Latents] = {}  # by section and window
    latents: list[Latents] = []
    key: Key | None = None
    config = context.model.config
    steps = length * len(sections) * config.view.steps
    grid = grid_places(0, steps, config.steps_per_bar, 0, -(-steps // config.steps_per_bar))  # from start to end
    places = np.broadcast_to(grid, (n, *grid.shape))
    for place in ((section, window) for section in sections for window in range(length)):
        candidates = []
        for _ in range(1 if key is None else CANDIDATES):
            noise = draws.noise()
            if place in first_latents:
                z = around(context, first_latents[place], np.full(n, job.radius), noise)
            else:
                z = _next_latents(context, noise, state, key)
            candidates.append((z, _with_next_window(context, draws, z, music, places, key)))
        z, music = candidates[0] if key is None else key.first_within(candidates, layout, music.shape[1])
        first_latents.setdefault(place, z)
        state = coding.advance(prior, state, z)
        if job.one_key and key is None:
            key = Key.of(music, layout)
        latents.append(context.kept(z))
    return Samples(np.concatenate(latents, axis=1), music)


def windows_of(song: Song, model: WindowModel) -> int:
    """The number of windows of a song.

    Raises:
        ParamsError: its bars, or those of its sections, are not a whole number of windows.
    """
    view, sections = model.config.view, len(song.form or "A")
    bar = model.config.steps_per_bar
    steps = song.bars * bar
    if steps % (view.steps * sections):
        raise ParamsError(
            f"generate job {song.name!r}: {song.bars} bars are {steps} steps, and its {sections} section(s) must be "
            f"whole windows of {view.steps}; set bars to a multiple of {sections * math.lcm(view.steps, bar) // bar}"
        )
    return steps // view.steps


def _next_latents(context: Context, noise: Latents, state: Float32[np.ndarray, "B D"], key: Key | None) -> Latents:
    """The latents of the next windows, moved into the key that the music stays in."""
    z = coding.from_noise(context.prior, noise, state)
    return z if key is None else key.moved_into(context.controls, z)


def _with_next_window(
    context: Context, draws: Draws, z: Latents, music: Planes, places: UInt8[np.ndarray, "B _ 4"], key: Key | None
) -> Planes:
    """The music with one more window; `places`: of all its steps from the first one on."""
    context.heartbeat()
    length = getattr(context.model.config.network, "context", 0)
    done, steps = music.shape[1], context.model.config.view.steps
    past = music[:, max(0, done - length) :] if length and done else None
    uniform = draws.cells()
    if uniform is not None and key is not None:
        key.lower_outside(uniform)
    place = places[:, done - (0 if past is None else past.shape[1]) : done + steps]
    return np.concatenate([music, context.decode(z, uniform, Conditions(before=past, place=place))], axis=1)
