"""Measures of rolls: cases worked by hand, how they behave under transposition and shift, and MusPy as a judge."""

from __future__ import annotations

import math
import tracemalloc

import muspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from measures.rolls import BAND, ONE, SATB, Note, music, roll
from midivae.measures import features
from midivae.measures.hashes import bar_hashes
from midivae.measures.keys import key_names
from midivae.measures.notes import chroma
from midivae.music.roll import Layout, cell_runs
from midivae.storage.schema import FEATURES

pytestmark = pytest.mark.numerical


def measured(notes: list[Note], layout: Layout = ONE, steps: int = 32) -> dict[str, float]:
    """The measures of one roll, in bars of four beats."""
    return {name: float(v[0]) for name, v in features.measure(roll(notes, layout, steps), layout, 4).items()}


# --- worked by hand ---------------------------------------------------------------------------------------------------
def test_two_bars_worked_by_hand() -> None:
    # Bar 1: C4 for a beat, C4 again for a beat (abutting: only the onset tells them apart), E4 with the second.
    # Bar 2: G4 on its first step for two beats, beginning alone; then nothing.
    m = measured([(0, 60, 0, 4), (0, 60, 4, 8), (0, 64, 4, 8), (0, 67, 16, 24)])
    assert list(m) == list(FEATURES)
    assert m["notes"] == 4
    assert m["density"] == 0.5  # 4 notes in 32 steps = 8 beats
    assert (m["pitch_low"], m["pitch_high"], m["pitch_range"]) == (60, 67, 7)
    assert m["polyphony"] == pytest.approx(20 / 16)  # 4 steps of 1, 4 of 2, 8 of 1, over 16 steps that sound
    assert m["note_length"] == 1.25  # beats: (1 + 1 + 1 + 2) / 4
    assert m["pitch_class_entropy"] == pytest.approx(1.5)  # C 1/2, E 1/4, G 1/4: 1/2 * 1 + 2 * 1/4 * 2 bits
    assert m["scale_consistency"] == 1
    assert m["groove_consistency"] == pytest.approx(1 - 1 / 16)  # onsets at {0, 4} and {0}: one step of 16 differs
    assert m["empty_bar_rate"] == 0
    assert m["used_pitch_classes"] == 1.5  # C and E, then G
    assert m["qualified_note_share"] == 1
    assert m["empty_beat_rate"] == 4 / 8  # beats 3 and 4, 7 and 8
    assert m["pitch_count"] == 3
    # the line: C, then E above the second C, then G: 4 and 3 semitones
    assert m["pitch_interval"] == 3.5
    assert m["inter_onset_interval"] == 2  # beats: onsets on steps 0, 4 and 16
    assert m["register"] == pytest.approx((8 * 60 + 4 * 64 + 8 * 67) / 20)
    assert m["syncopation"] == 0


def test_empty_bars_are_the_empty_ones_and_held_notes_fill() -> None:
    # four bars: a note held from bar 1 into bar 2 (no onset there), bar 3 and 4 silent
    assert measured([(0, 60, 8, 20)], steps=64)["empty_bar_rate"] == 0.5


def test_what_is_left_after_the_last_whole_bar_is_in_no_bar() -> None:
    # 20 steps are one whole bar and a beat: nothing to compare, and the one bar is empty although a note follows
    m = measured([(0, 60, 16, 20)], steps=20)
    assert math.isnan(m["groove_consistency"])
    assert m["empty_bar_rate"] == 1
    assert math.isnan(measured([(0, 60, 0, 4)], steps=12)["empty_bar_rate"])  # no whole bar at all


def test_what_is_off_the_beat() -> None:
    # quavers: every other one is off the beat, though nothing is syncopated; drums count
    quavers: list[Note] = [(1, 60, step, step + 2) for step in range(0, 32, 2)]
    assert measured(quavers, BAND)["syncopation"] == 0.5
    drums: list[Note] = [(0, 36, step, step + 1) for step in range(0, 32, 4)]
    assert measured([*quavers, *drums], BAND)["syncopation"] == pytest.approx(8 / 24)
    # three notes, one of them on the third sixteenth of a beat
    assert measured([(0, 60, 0, 6), (0, 62, 6, 8), (0, 64, 8, 12)])["syncopation"] == pytest.approx(1 / 3)


def test_fragments_are_notes_of_one_step() -> None:
    # lengths 1, 2, 3 and a repeated note of 1 and 1: two of five are qualified
    notes: list[Note] = [(0, 60, 0, 1), (0, 60, 4, 6), (0, 60, 8, 11), (0, 62, 12, 13), (0, 62, 13, 14)]
    assert measured(notes)["qualified_note_share"] == pytest.approx(2 / 5)
    # MuseGAN's own grid: 24 steps to a beat, three steps or more
    fine = Layout(("merged",), 36, 48, 24)
    assert features.shortest_qualified(24) == 3
    planes = roll([(0, 60, 0, 2), (0, 62, 5, 8), (0, 64, 10, 34)], fine, 48)
    assert features.measure(planes, fine, 4)["qualified_note_share"][0] == pytest.approx(2 / 3)
    # a window shorter than the least length has no qualified note
    assert features.qualified_note_share(np.ones((1, 1, 1, 3), bool), np.ones((1, 1, 1, 3), bool), 2)[0] == 0


def test_pitch_classes_are_counted_in_bars_that_have_any() -> None:
    # C and C an octave up: one class; E and G with C: three; a silent bar is not in the mean
    notes: list[Note] = [(0, 60, 0, 4), (0, 72, 0, 4), (0, 64, 16, 20), (0, 67, 16, 20), (0, 48, 16, 20)]
    assert measured(notes, steps=48)["used_pitch_classes"] == 2
    # a note held from bar to bar sounds in both
    assert measured([(0, 60, 8, 24), (0, 62, 24, 32)])["used_pitch_classes"] == 1.5


def test_intervals_are_those_of_each_parts_upper_line() -> None:
    # soprano C5 D5 C5: 2 and 2; bass C3 G3: 7, its chord tones below the line aside
    soprano: list[Note] = [(0, 72, 0, 4), (0, 74, 4, 8), (0, 72, 8, 12)]
    bass: list[Note] = [(3, 48, 0, 8), (3, 43, 0, 8), (3, 55, 8, 12), (3, 36, 8, 12)]
    assert measured([*soprano, *bass], SATB)["pitch_interval"] == pytest.approx((2 + 2 + 7) / 3)
    assert math.isnan(measured([(0, 72, 0, 4), (3, 48, 4, 8)], SATB)["pitch_interval"])  # a note in each line
    # a repeated note is an interval of 0; one that is held is none
    assert measured([(0, 72, 0, 4), (0, 72, 4, 8), (0, 76, 8, 12)])["pitch_interval"] == 2


def test_intervals_in_time_are_between_distinct_onsets() -> None:
    # onsets on steps 0, 0, 0, 6 and 8: 6 and 2 steps; Yang & Lerch's code would also count 0 twice
    chord: list[Note] = [(0, 60, 0, 4), (1, 64, 0, 4), (2, 67, 0, 4), (0, 62, 6, 8), (1, 65, 8, 12)]
    assert measured(chord, SATB)["inter_onset_interval"] == 1
    assert math.isnan(measured(chord[:3], SATB)["inter_onset_interval"])


# --- attributes -------------------------------------------------------------------------------------------------------
def attributes(notes: list[Note], layout: Layout = SATB, steps: int = 32) -> dict[str, float]:
    return {name: float(v[0]) for name, v in features.attributes(roll(notes, layout, steps), layout).items()}


def test_attributes_worked_by_hand() -> None:
    a = attributes([(0, 72, 0, 4), (0, 74, 4, 8), (3, 48, 0, 8), (1, 67, 2, 8)])
    shared = ["density", "polyphony", "note_length", "syncopation", "register"]
    assert list(a) == [*shared, "fifths_x", "fifths_y", *(f"balance:{part}" for part in SATB.parts)]
    assert [a[f"balance:{part}"] for part in SATB.parts] == [0.5, 0.25, 0, 0.25]
    assert a["syncopation"] == 0.25
    # C at 0 degrees twice, D two fifths up at 60, G one up at 30
    assert a["fifths_x"] == pytest.approx((2 + math.cos(math.pi / 3) + math.cos(math.pi / 6)) / 4)
    assert a["fifths_y"] == pytest.approx((math.sin(math.pi / 3) + math.sin(math.pi / 6)) / 4)
    silent = attributes([])
    assert silent["density"] == 0
    assert all(math.isnan(value) for name, value in silent.items() if name != "density")


def test_balance_is_between_parts_that_have_pitches() -> None:
    trio = Layout(("drums", "piano", "bass"), 36, 48, 4)
    a = attributes([(0, 40, 0, 1), (0, 40, 4, 5), (1, 60, 0, 4), (2, 40, 0, 4), (2, 40, 4, 8)], trio)
    assert a["balance:piano"] == pytest.approx(1 / 3)
    assert a["balance:bass"] == pytest.approx(2 / 3)
    assert "balance:drums" not in a
    assert not any(name.startswith("balance") for name in attributes([(1, 60, 0, 4)], BAND))  # one part alone
    assert not any(name.startswith("balance") for name in attributes([(0, 60, 0, 4)], ONE))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(48, 71), st.integers(0, 47)), max_size=30))
def test_attributes_are_the_features_of_the_same_name(cells: list[tuple[int, int, int]]) -> None:
    planes = roll([(part, pitch, at, min(48, at + 3)) for part, pitch, at in cells], SATB, 48)
    a, m = features.attributes(planes, SATB), features.measure(planes, SATB, 4)
    for name in set(a) & set(FEATURES):
        np.testing.assert_array_equal(a[name].astype(np.float32), m[name], err_msg=name)
        assert a[name].dtype == np.float64
    assert len(set(a) & set(FEATURES)) == 5


def test_attributes_of_no_rolls_and_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(v.shape == (0,) for v in features.attributes(roll([], SATB)[:0], SATB).values())
    rng = np.random.default_rng(0)
    planes = np.repeat(rng.random((20, 32, 4, 1, 48)) < 0.02, 2, axis=3)
    whole = features.attributes(planes, SATB)
    monkeypatch.setattr("midivae.measures.notes._BLOCK_CELLS", 3 * planes[0].size)
    for name, values in features.attributes(planes, SATB).items():
        np.testing.assert_array_equal(values, whole[name])


def test_held_into_the_window_is_a_note_of_the_window() -> None:
    planes = roll([(0, 60, 0, 4)])
    planes[0, 0, 0, 0] = False  # a frame without its onset, as where a window cuts a note
    assert features.measure(planes, ONE, 4)["notes"][0] == 1
    assert key_names(planes, ONE) == key_names(roll([(0, 60, 0, 4)]), ONE)


def test_an_onset_without_a_frame_sounds_for_its_step() -> None:
    planes = roll([(0, 60, 0, 1)])
    planes[0, 0, 0, 1] = False
    m = features.measure(planes, ONE, 4)
    assert (m["notes"][0], m["note_length"][0], m["polyphony"][0]) == (1, 0.25, 1)


def test_a_unison_is_two_notes_and_one_pitch() -> None:
    m = measured([(0, 60, 0, 4), (1, 60, 0, 4)], SATB)
    assert m["notes"] == 2
    assert m["polyphony"] == 1
    assert m["note_length"] == 1


def test_drums_have_rhythm_and_no_pitch() -> None:
    piano: list[Note] = [(1, 60, 0, 8), (1, 64, 8, 16)]
    drums: list[Note] = [(0, 36, step, step + 1) for step in range(0, 32, 4)]
    alone, band = measured(piano, BAND), measured(piano + drums, BAND)
    pitched = {"pitch_low", "pitch_high", "pitch_range", "polyphony", "note_length", "pitch_count", "pitch_interval"}
    pitched |= {"used_pitch_classes", "qualified_note_share", "register"}
    for name in pitched | {"pitch_class_entropy", "scale_consistency"}:
        assert band[name] == alone[name], name
    assert (alone["notes"], band["notes"]) == (2, 10)
    assert (alone["empty_bar_rate"], band["empty_bar_rate"]) == (0.5, 0)
    # piano: onsets at {0, 8} and {}: 2 of 16 differ; with drums both bars have {0, 4, 8, 12}
    assert (alone["groove_consistency"], band["groove_consistency"]) == (pytest.approx(14 / 16), 1)
    assert key_names(roll(drums, BAND), BAND) == [None]
    only = measured(drums, BAND)
    assert math.isnan(only["polyphony"])
    assert only["density"] == 1


def test_silence_has_no_values_and_raises_nothing() -> None:
    m = measured([])
    assert (m["notes"], m["density"], m["pitch_count"]) == (0, 0, 0)
    assert (m["empty_bar_rate"], m["empty_beat_rate"]) == (1, 1)
    valued = {"notes", "density", "pitch_count", "empty_bar_rate", "empty_beat_rate"}
    assert all(math.isnan(v) for name, v in m.items() if name not in valued)
    assert key_names(roll([]), ONE) == [None]
    assert not bar_hashes(roll([]), ONE, 16).any()


def test_no_rolls_at_all() -> None:
    none = roll([])[:0]
    assert all(v.shape == (0,) for v in features.measure(none, ONE, 4).values())
    assert key_names(none, ONE) == []
    assert bar_hashes(none, ONE, 16).shape == (0, 2)


def test_sums_do_not_wrap_at_256() -> None:
    # 96 pitches x 4 parts on every step: 384 cells a step and 300 notes in a part would wrap in uint8
    wide = Layout(("a", "b", "c", "d"), 16, 96, 4)
    full = np.ones((1, 80, 4, 2, 96), bool)  # every cell an onset: a note per step, pitch and part
    m = features.measure(full, wide, 4)
    assert m["notes"][0] == 80 * 4 * 96
    assert m["polyphony"][0] == 96
    assert m["note_length"][0] == 0.25
    repeated = measured([(0, 60, step, step + 1) for step in range(300)] + [(0, 62, 0, 300)], steps=300)
    assert repeated["notes"] == 301
    assert repeated["polyphony"] == 2
    p = np.array([300, 1]) / 301
    assert repeated["pitch_class_entropy"] == pytest.approx(-(p * np.log2(p)).sum())


# --- properties -------------------------------------------------------------------------------------------------------
@given(music())
def test_notes_are_those_of_cell_runs(notes: list[Note]) -> None:
    planes = roll(notes, SATB, 48)
    _, _, row, onset, offset = cell_runs(planes)
    m = features.measure(planes, SATB, 4)
    assert m["notes"][0] == len(row)
    if len(row):
        assert m["note_length"][0] == pytest.approx((offset - onset).mean() / 4)
        np.testing.assert_array_equal(chroma(planes, SATB)[0], np.bincount((row + SATB.pitch_low) % 12, minlength=12))


@given(music(), st.integers(-12, 12))
def test_transposition_moves_pitches_and_nothing_else(notes: list[Note], by: int) -> None:
    here = measured(notes, SATB, 48)
    moved = measured([(part, pitch + by, a, b) for part, pitch, a, b in notes], SATB, 48)
    for name in FEATURES:
        shift = by if name in {"pitch_low", "pitch_high", "register"} else 0
        np.testing.assert_allclose(moved[name], here[name] + shift, rtol=1e-6, err_msg=name)


@given(music(steps=32), st.integers(0, 16))
def test_a_shift_in_time_changes_only_what_looks_at_bars(notes: list[Note], by: int) -> None:
    here = measured(notes, SATB, 48)
    later = measured([(part, pitch, a + by, b + by) for part, pitch, a, b in notes], SATB, 48)
    unmoved = set(FEATURES) - {"groove_consistency"}
    unmoved -= {"empty_bar_rate", "used_pitch_classes"} if by % 16 else set()
    unmoved -= {"empty_beat_rate", "syncopation"} if by % 4 else set()
    for name in unmoved:
        np.testing.assert_allclose(later[name], here[name], rtol=1e-6, err_msg=name)


@given(music(), st.permutations(range(4)))
def test_the_order_of_parts_does_not_matter(notes: list[Note], order: list[int]) -> None:
    planes = roll(notes, SATB, 48)
    here, other = features.measure(planes, SATB, 4), features.measure(planes[:, :, order], SATB, 4)
    for name in FEATURES:
        np.testing.assert_array_equal(other[name], here[name])
    np.testing.assert_array_equal(bar_hashes(planes[:, :, order], SATB, 16), bar_hashes(planes, SATB, 16))


@given(music())
def test_a_doubled_part_adds_notes_and_no_polyphony(notes: list[Note]) -> None:
    planes = roll(notes, SATB, 48)
    doubled = np.concatenate([planes, planes], axis=2)
    here = features.measure(planes, SATB, 4)
    twice = features.measure(doubled, Layout(tuple("abcdefgh"), 36, 48, 4), 4)
    factor = {"notes": 2, "density": 2}
    for name in FEATURES:
        np.testing.assert_allclose(twice[name], factor.get(name, 1) * here[name], rtol=1e-6, err_msg=name)


def test_a_roll_alone_or_in_a_large_batch_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    planes = np.repeat(rng.random((40, 32, 4, 1, 48)) < 0.02, 2, axis=3)
    one_block = features.measure(planes, SATB, 4), bar_hashes(planes, SATB, 16)
    monkeypatch.setattr("midivae.measures.notes._BLOCK_CELLS", 3 * planes[0].size)
    many = features.measure(planes, SATB, 4), bar_hashes(planes, SATB, 16)
    for name in FEATURES:
        np.testing.assert_array_equal(many[0][name], one_block[0][name])
        np.testing.assert_array_equal(features.measure(planes[7:8], SATB, 4)[name][0], one_block[0][name][7])
    np.testing.assert_array_equal(many[1], one_block[1])


def test_memory_stays_flat() -> None:
    planes = np.zeros((1000, 64, 4, 2, 48), bool)
    planes[:, ::4, :, :, 10] = True
    tracemalloc.start()
    features.measure(planes, SATB, 4)
    bar_hashes(planes, SATB, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < planes.nbytes / 2


# --- MusPy as an independent judge ------------------------------------------------------------------------------------
def to_muspy(planes: np.ndarray, layout: Layout, steps: int) -> muspy.Music:
    """The same notes for MusPy, one time step per step."""
    _, part, row, onset, offset = cell_runs(planes)
    tracks = [
        muspy.Track(
            is_drum=name == "drums",
            notes=[
                muspy.Note(int(a), int(r) + layout.pitch_low, int(b - a), 64)
                for n, r, a, b in zip(part, row, onset, offset, strict=True)
                if n == index
            ],
        )
        for index, name in enumerate(layout.parts)
    ]
    assert steps >= offset.max(initial=0)
    return muspy.Music(resolution=layout.steps_per_beat, tracks=tracks)


@settings(deadline=None)
@given(music(parts=3, steps=47))
def test_agrees_with_muspy(notes: list[Note]) -> None:
    layout = Layout(("drums", "piano", "bass"), 36, 48, 4)
    planes = roll(notes, layout, 48)
    judge = to_muspy(planes, layout, 48)
    m = {name: float(values[0]) for name, values in features.measure(planes, layout, 4).items()}
    assert m["notes"] == sum(len(track.notes) for track in judge.tracks)
    np.testing.assert_allclose(m["pitch_class_entropy"], muspy.pitch_class_entropy(judge), atol=1e-6)
    np.testing.assert_allclose(m["scale_consistency"], muspy.scale_consistency(judge), rtol=1e-6)
    assert m["pitch_count"] == muspy.n_pitches_used(judge)
    if any(track.notes for track in judge.tracks):
        np.testing.assert_allclose(m["polyphony"], muspy.polyphony(judge), rtol=1e-6)
    # known to differ: MusPy's range is 0 where there is no pitch, which is also that of one pitch
    if any(track.notes for track in judge.tracks if not track.is_drum):
        assert m["pitch_range"] == muspy.pitch_range(judge)
    else:
        assert math.isnan(m["pitch_range"])


@settings(deadline=None)
@given(music(parts=3, steps=47))
def test_groove_agrees_with_muspy_where_the_music_fills_the_roll(notes: list[Note]) -> None:
    # MusPy's bars end with the music: a note inside the last bar, ending before its end, makes both the same bars
    layout = Layout(("drums", "piano", "bass"), 36, 48, 4)
    planes = roll([*notes, (1, 60, 40, 42)], layout, 48)
    m = features.measure(planes, layout, 4)
    judge = to_muspy(planes, layout, 48)
    np.testing.assert_allclose(m["groove_consistency"][0], muspy.groove_consistency(judge, 16), rtol=1e-6)


def test_where_muspy_counts_a_bar_that_is_not_there() -> None:
    # two bars, four quarters in each, the last ends on the bar line: both bars are alike, and both are full.
    notes: list[Note] = [(0, 60, step, step + 4) for step in range(0, 32, 4)]
    judge = to_muspy(roll(notes), ONE, 32)
    # MusPy makes 32 // 16 + 1 = 3 bars of it: the second pair compares 4 onsets with none
    assert muspy.groove_consistency(judge, 16) == pytest.approx(1 - 4 / 32)
    assert measured(notes)["groove_consistency"] == 1
    # one full bar and a silent one: MusPy lets the note that ends at 16 fill the second bar, and finds none empty
    half: list[Note] = [(0, 60, 0, 16)]
    assert muspy.empty_measure_rate(to_muspy(roll(half), ONE, 32), 16) == 0
    assert measured(half)["empty_bar_rate"] == 0.5
    # the same for beats: one of a beat, three of silence, one: MusPy fills the beat after each
    beats: list[Note] = [(0, 60, 0, 4), (0, 60, 16, 20)]
    assert muspy.empty_beat_rate(to_muspy(roll(beats, steps=20), ONE, 20)) == pytest.approx(2 / 6)
    assert measured(beats, steps=20)["empty_beat_rate"] == pytest.approx(3 / 5)


# --- distributions ----------------------------------------------------------------------------------------------------
def test_distributions_by_hand() -> None:
    # soprano: C a beat, E half a beat, C a beat; bass: C for two beats, with a G above it, its upper line; a drum
    layout = Layout(("drums", "soprano", "bass"), 36, 48, 4)
    notes: list[Note] = [(1, 72, 0, 4), (1, 76, 4, 6), (1, 72, 8, 12), (2, 48, 0, 8), (2, 55, 0, 8), (2, 53, 8, 9)]
    found = features.vectors(roll([*notes, (0, 40, 0, 1)], layout), layout)
    assert list(found) == list(features.VECTORS)
    classes = {0: 3 / 6, 4: 1 / 6, 7: 1 / 6, 5: 1 / 6}
    assert found["pitch_class_histogram"][0] == pytest.approx([classes.get(tone, 0) for tone in range(12)])
    # quarters 2, eighths 1, halves 2, sixteenths 1
    lengths = dict.fromkeys(range(12), 0.0) | {2: 2 / 6, 3: 1 / 6, 1: 2 / 6, 4: 1 / 6}
    assert found["note_length_histogram"][0] == pytest.approx(list(lengths.values()))
    steps = found["pitch_class_transitions"][0].reshape(12, 12)
    assert {(a, b): pytest.approx(steps[a, b]) for a, b in np.argwhere(steps)} == {
        (0, 4): 1 / 3,
        (4, 0): 1 / 3,
        (7, 5): 1 / 3,  # G to F, not from the C below
    }
    steps = found["note_length_transitions"][0].reshape(12, 12)
    assert {(int(a), int(b)) for a, b in np.argwhere(steps)} == {(2, 3), (3, 2), (1, 4)}


def test_lengths_belong_to_the_nearest_class() -> None:
    fine = Layout(("merged",), 36, 48, 24)
    lengths = [96, 48, 24, 12, 6, 72, 36, 18, 9, 32, 16, 8]  # Yang & Lerch's twelve, at 24 steps to a beat
    for index, length in enumerate(lengths):
        found = features.vectors(roll([(0, 60, 0, length)], fine, 96), fine)["note_length_histogram"][0]
        assert found.argmax() == index and found[index] == 1
    # half a step more changes nothing; five beats are nearest to four
    assert features.vectors(roll([(0, 60, 0, 25)], fine, 96), fine)["note_length_histogram"][0, 2] == 1
    assert features.vectors(roll([(0, 60, 0, 20)], ONE, 32), ONE)["note_length_histogram"][0, 0] == 1


@given(music(), st.integers(-12, 12))
def test_distributions_agree_with_the_features_and_move_with_the_music(notes: list[Note], by: int) -> None:
    planes = roll(notes, SATB, 48)
    found = features.vectors(planes, SATB)
    for rows in found.values():
        assert np.isnan(rows).all() or rows.sum() == pytest.approx(1, abs=1e-5)
    moved = features.vectors(roll([(part, pitch + by, a, b) for part, pitch, a, b in notes], SATB, 48), SATB)
    np.testing.assert_allclose(
        moved["pitch_class_histogram"], np.roll(found["pitch_class_histogram"], by, axis=1), atol=1e-6
    )
    for name in ("note_length_histogram", "note_length_transitions"):
        np.testing.assert_array_equal(moved[name], found[name])
    turned = np.roll(found["pitch_class_transitions"].reshape(-1, 12, 12), (by, by), axis=(1, 2)).reshape(-1, 144)
    np.testing.assert_allclose(moved["pitch_class_transitions"], turned, atol=1e-6)
    # the mean interval exists where there is a step from note to note
    interval = features.measure(planes, SATB, 4)["pitch_interval"]
    assert math.isnan(interval[0]) == np.isnan(found["pitch_class_transitions"]).all()


def test_distributions_of_no_rolls_and_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [v.shape for v in features.vectors(roll([], SATB)[:0], SATB).values()] == [
        (0, 12),
        (0, 12),
        (0, 144),
        (0, 144),
    ]
    rng = np.random.default_rng(0)
    planes = np.repeat(rng.random((20, 32, 4, 1, 48)) < 0.02, 2, axis=3)
    whole = features.vectors(planes, SATB)
    monkeypatch.setattr("midivae.measures.notes._BLOCK_CELLS", 3 * planes[0].size)
    for name, rows in features.vectors(planes, SATB).items():
        np.testing.assert_array_equal(rows, whole[name])
