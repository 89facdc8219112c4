"""Measures of rolls: cases worked by hand, how they behave under transposition and shift, and MusPy as a judge."""

from __future__ import annotations

import math
import tracemalloc

import muspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from midivae.measures import features
from midivae.music.roll import FRAME, ONSET, Layout, cell_runs
from midivae.storage.schema import FEATURES

pytestmark = pytest.mark.numerical

Note = tuple[int, int, int, int]  # part, pitch, onset step, offset step
SATB = Layout(("soprano", "alto", "tenor", "bass"), 36, 48, 4)
BAND = Layout(("drums", "piano"), 36, 48, 4)
ONE = Layout(("merged",), 36, 48, 4)


def roll(notes: list[Note], layout: Layout = ONE, steps: int = 32) -> np.ndarray:
    """A batch of one roll."""
    planes = np.zeros((1, steps, len(layout.parts), 2, layout.pitches), bool)
    for part, pitch, onset, offset in notes:
        planes[0, onset:offset, part, 1, pitch - layout.pitch_low] = True
        planes[0, onset, part, 0, pitch - layout.pitch_low] = True
    return planes


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


@given(st.lists(st.integers(0, 11), min_size=1, max_size=20), st.integers(0, 11))
def test_a_fifth_up_is_30_degrees_on_the_circle(classes: list[int], fifths_up: int) -> None:
    x, y = features.fifths(np.bincount(classes, minlength=12)[None])[0]
    moved = features.fifths(np.bincount([(c + 7 * fifths_up) % 12 for c in classes], minlength=12)[None])[0]
    turn = complex(x, y) * complex(math.cos(math.pi * fifths_up / 6), math.sin(math.pi * fifths_up / 6))
    np.testing.assert_allclose(moved, [turn.real, turn.imag], atol=1e-12)


def test_attributes_of_no_rolls_and_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(v.shape == (0,) for v in features.attributes(roll([], SATB)[:0], SATB).values())
    rng = np.random.default_rng(0)
    planes = np.repeat(rng.random((20, 32, 4, 1, 48)) < 0.02, 2, axis=3)
    whole = features.attributes(planes, SATB)
    monkeypatch.setattr(features, "_BLOCK_CELLS", 3 * planes[0].size)
    for name, values in features.attributes(planes, SATB).items():
        np.testing.assert_array_equal(values, whole[name])


def test_held_into_the_window_is_a_note_of_the_window() -> None:
    planes = roll([(0, 60, 0, 4)])
    planes[0, 0, 0, 0] = False  # a frame without its onset, as where a window cuts a note
    assert features.measure(planes, ONE, 4)["notes"][0] == 1
    assert features.keys(planes, ONE) == features.keys(roll([(0, 60, 0, 4)]), ONE)


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
    assert features.keys(roll(drums, BAND), BAND) == [None]
    only = measured(drums, BAND)
    assert math.isnan(only["polyphony"])
    assert only["density"] == 1


def test_silence_has_no_values_and_raises_nothing() -> None:
    m = measured([])
    assert (m["notes"], m["density"], m["pitch_count"]) == (0, 0, 0)
    assert (m["empty_bar_rate"], m["empty_beat_rate"]) == (1, 1)
    valued = {"notes", "density", "pitch_count", "empty_bar_rate", "empty_beat_rate"}
    assert all(math.isnan(v) for name, v in m.items() if name not in valued)
    assert features.keys(roll([]), ONE) == [None]
    assert not features.bar_hashes(roll([]), ONE, 16).any()


def test_no_rolls_at_all() -> None:
    none = roll([])[:0]
    assert all(v.shape == (0,) for v in features.measure(none, ONE, 4).values())
    assert features.keys(none, ONE) == []
    assert features.bar_hashes(none, ONE, 16).shape == (0, 2)


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


# --- keys -------------------------------------------------------------------------------------------------------------
def counts(**notes: int) -> np.ndarray:
    """Notes per pitch class from names of tones ("Fs" for F sharp)."""
    names = ["C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B"]
    return np.array([[notes.get(name, 0) for name in names]])


@pytest.mark.parametrize(
    ("tones", "key", "consistency"),
    [
        (counts(C=4, D=2, E=3, F=2, G=4, A=1, B=1), "C major", 1.0),
        # the same seven tones, played around A and E: the relative minor, where a first-of-the-list rule says C major
        (counts(A=4, B=2, C=3, D=2, E=4, F=1, G=1), "A minor", 1.0),
        # G major with one C sharp among 18 notes
        (counts(G=5, A=2, B=3, C=1, D=4, E=1, Fs=1, Cs=1), "G major", 17 / 18),
        # C minor with its leading tone: B is not in the natural minor, as in MusPy
        (counts(C=5, D=2, Ds=3, F=2, G=4, Gs=1, B=1), "C minor", 17 / 18),
    ],
)
def test_keys_worked_by_hand(tones: np.ndarray, key: str, consistency: float) -> None:
    index, share = features.best_scale(tones)
    assert features.KEYS[index[0]] == key
    assert share[0] == pytest.approx(consistency)


@pytest.mark.parametrize("low", [36, 41, 0])
def test_pitch_classes_do_not_depend_on_where_the_roll_begins(low: int) -> None:
    layout = Layout(("merged",), low, 84, 4)
    chord = roll([(0, pitch, 0, 4) for pitch in (67, 71, 74, 78, 67 - 12)], layout)  # G B D F sharp, and G again
    assert features.chroma(chord, layout)[0].tolist() == counts(G=2, B=1, D=1, Fs=1)[0].tolist()
    assert features.keys(chord, layout) == ["G major"]


def test_evenly_spread_notes_and_none() -> None:
    index, share = features.best_scale(np.array([[5] * 12, [0] * 12]))
    assert (index[0], share[0]) == (0, pytest.approx(7 / 12))  # all 24 tie in everything: the first
    assert index[1] == -1
    assert math.isnan(share[1])


def test_keys_are_24_with_the_tonic_at_the_index_modulo_12() -> None:
    assert len(set(features.KEYS)) == 24
    assert [features.KEYS[i] for i in (0, 7, 9 + 12, 1, 13)] == [
        "C major",
        "G major",
        "A minor",
        "Db major",
        "C# minor",
    ]
    tonic_triads = [[i % 12, (i + (4 if i < 12 else 3)) % 12, (i + 7) % 12] for i in range(24)]
    weights = np.zeros((24, 12), int)
    for key, triad in enumerate(tonic_triads):
        weights[key, triad] = [3, 1, 2]
    assert features.best_scale(weights)[0].tolist() == list(range(24))


@given(hnp.arrays(np.int64, (12,), elements=st.integers(0, 40)), st.integers(0, 11))
def test_key_moves_with_the_music(tones: np.ndarray, by: int) -> None:
    here, moved = features.best_scale(tones[None]), features.best_scale(np.roll(tones, by)[None])
    np.testing.assert_allclose(here[1], moved[1])
    if here[0][0] >= 0 and all(not np.array_equal(tones, np.roll(tones, k)) for k in range(1, 12)):
        # a chroma without a symmetry of its own: no tie is left to the order of the list
        mode = here[0] // 12
        assert moved[0].tolist() == (12 * mode + (here[0] + by) % 12).tolist()


# --- transposition ----------------------------------------------------------------------------------------------------
def test_transposed_by_hand() -> None:
    # pitches 36 to 83: G4 (67) two semitones up is A4 (69); B5 (83) would leave the roll, and comes back as C#5 (73);
    # C2 (36) down two semitones is Bb2 (46)
    planes = np.zeros((2, 1, 4, 2, 48), bool)
    for pitch in (67, 83):
        planes[0, 0, 1, :, pitch - 36] = True
    planes[1, 0, 2, :, 0] = True
    moved = features.transposed(planes, SATB, np.array([2, -2]))
    assert sorted(np.flatnonzero(moved[0, 0, 1, FRAME]) + 36) == [69, 73]
    assert (np.flatnonzero(moved[1, 0, 2, ONSET]) + 36).tolist() == [46]
    assert moved.sum() == planes.sum()


def test_drums_stay_where_they_are() -> None:
    layout = Layout(("drums", "piano"), 36, 48, 4)
    planes = np.random.default_rng(0).random((2, 8, 2, 2, 48)) < 0.1
    moved = features.transposed(planes, layout, np.array([5, -7]))
    assert np.array_equal(moved[:, :, 0], planes[:, :, 0])
    assert not np.array_equal(moved[:, :, 1], planes[:, :, 1])


@given(st.integers(-24, 24), st.integers(0, 2**31))
def test_transposition_moves_pitch_classes_and_can_be_undone(shift: int, seed: int) -> None:
    planes = np.zeros((1, 8, 4, 2, 48), bool)
    planes[..., 24:30] = np.random.default_rng(seed).random((1, 8, 4, 2, 6)) < 0.3  # room for a dozen below and above
    by = np.array([shift])
    moved = features.transposed(planes, SATB, by)
    chroma = [features.chroma(each, SATB)[0] for each in (planes, moved)]
    assert np.array_equal(np.roll(chroma[0], shift), chroma[1])
    if abs(shift) <= 18:
        assert np.array_equal(features.transposed(moved, SATB, -by), planes)


# --- properties -------------------------------------------------------------------------------------------------------
@st.composite
def music(draw: st.DrawFn, parts: int = 4, steps: int = 48, low: int = 48, high: int = 71) -> list[Note]:
    """Up to 40 notes, some bars often empty."""
    note = st.builds(
        lambda part, pitch, onset, length: (part, pitch, onset, min(steps, onset + length)),
        st.integers(0, parts - 1),
        st.integers(low, high),
        st.integers(0, steps - 1),
        st.integers(1, 20),
    )
    return draw(st.lists(note, max_size=40))


@given(music())
def test_notes_are_those_of_cell_runs(notes: list[Note]) -> None:
    planes = roll(notes, SATB, 48)
    _, _, row, onset, offset = cell_runs(planes)
    m = features.measure(planes, SATB, 4)
    assert m["notes"][0] == len(row)
    if len(row):
        assert m["note_length"][0] == pytest.approx((offset - onset).mean() / 4)
        np.testing.assert_array_equal(
            features.chroma(planes, SATB)[0], np.bincount((row + SATB.pitch_low) % 12, minlength=12)
        )


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
    np.testing.assert_array_equal(
        features.bar_hashes(planes[:, :, order], SATB, 16), features.bar_hashes(planes, SATB, 16)
    )


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
    one_block = features.measure(planes, SATB, 4), features.bar_hashes(planes, SATB, 16)
    monkeypatch.setattr(features, "_BLOCK_CELLS", 3 * planes[0].size)
    many = features.measure(planes, SATB, 4), features.bar_hashes(planes, SATB, 16)
    for name in FEATURES:
        np.testing.assert_array_equal(many[0][name], one_block[0][name])
        np.testing.assert_array_equal(features.measure(planes[7:8], SATB, 4)[name][0], one_block[0][name][7])
    np.testing.assert_array_equal(many[1], one_block[1])


def test_memory_stays_flat() -> None:
    planes = np.zeros((1000, 64, 4, 2, 48), bool)
    planes[:, ::4, :, :, 10] = True
    tracemalloc.start()
    features.measure(planes, SATB, 4)
    features.bar_hashes(planes, SATB, 16)
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


# --- hashes of bars ---------------------------------------------------------------------------------------------------
def hashes(notes: list[Note], layout: Layout = SATB, steps: int = 32) -> list[int]:
    values: list[int] = features.bar_hashes(roll(notes, layout, steps), layout, 16)[0].tolist()
    return values


TUNE: list[Note] = [(0, 72, 0, 4), (0, 72, 4, 8), (1, 67, 0, 8), (3, 48, 0, 16)]


def mixed(word: int) -> int:
    """The finaliser of splitmix64, in Python's integers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return word ^ word >> 31


def test_hashes_are_the_same_on_every_machine() -> None:
    # TUNE again, as pitches above its lowest, 48: the words of 128 bits of each step, onsets and then frames
    onsets = {0: [24, 19, 0], 4: [24]}
    total = 0
    for step in range(16):
        sounding = [0] + ([24, 19] if step < 8 else [])
        for plane, pitches in enumerate((onsets.get(step, []), sounding)):
            word = sum(1 << pitch for pitch in pitches)
            for half in range(2):
                nth = 4 * step + 2 * plane + half + 1
                salt = mixed(nth * 0x9E3779B97F4A7C15 % 2**64)
                total += mixed((word >> 64 * half) % 2**64 ^ salt)
    assert hashes(TUNE) == [total % 2**64, 0]
    assert hashes(TUNE)[0] == 308157785569460461  # and so it stays: catalogs and known bars outlive a release


@pytest.mark.parametrize(
    "same",
    [
        [(part, pitch + 5, a, b) for part, pitch, a, b in TUNE],  # transposed
        [(part, pitch - 12, a, b) for part, pitch, a, b in TUNE],
        [(3 - part, pitch, a, b) for part, pitch, a, b in TUNE],  # other parts
        [*TUNE, (2, 67, 0, 8)],  # a unison
    ],
)
def test_same_music_has_the_same_hash(same: list[Note]) -> None:
    assert hashes(same) == hashes(TUNE)


@pytest.mark.parametrize(
    "other",
    [
        [(0, 72, 0, 8), (1, 67, 0, 8), (3, 48, 0, 16)],  # the repeated note held
        [*TUNE[:3], (3, 48, 0, 15)],  # a step shorter
        [*TUNE[:3], (3, 49, 0, 16)],  # another bass
        [(part, pitch, a + 1, min(16, b + 1)) for part, pitch, a, b in TUNE],  # later
        [*TUNE, (2, 60, 15, 16)],  # a note more
    ],
)
def test_other_music_has_another_hash(other: list[Note]) -> None:
    assert hashes(other)[0] not in (0, hashes(TUNE)[0])


def test_drums_are_not_in_the_hash() -> None:
    piano: list[Note] = [(1, 60, 0, 8)]
    assert hashes([*piano, (0, 38, 4, 5)], BAND) == hashes(piano, BAND)
    assert hashes([(0, 38, 4, 5)], BAND) == [0, 0]


def test_a_bar_is_the_same_whether_its_first_notes_were_struck_or_held() -> None:
    held = hashes([(0, 60, 8, 24), (0, 64, 24, 32)])
    struck = hashes([(0, 60, 0, 4), (0, 60, 16, 24), (0, 64, 24, 32)])
    assert held[1] == struck[1]


def test_a_frame_that_follows_silence_starts_a_note_in_the_hash_too() -> None:
    planes = roll([(0, 60, 2, 6), (0, 60, 8, 10)])
    without_onset = planes.copy()
    without_onset[0, 8, 0, 0] = False
    np.testing.assert_array_equal(features.bar_hashes(without_onset, ONE, 16), features.bar_hashes(planes, ONE, 16))


@given(music(parts=1, steps=16, low=48, high=71), st.integers(-12, 12), st.integers(0, 2))
def test_hashes_follow_the_bar_not_its_place(notes: list[Note], by: int, bar: int) -> None:
    here = hashes(notes, ONE, 48)
    there = hashes([(part, pitch + by, a + 16 * bar, b + 16 * bar) for part, pitch, a, b in notes], ONE, 48)
    assert there[bar] == here[0]
    assert (here[0] == 0) == (not notes)


def test_hashes_do_not_depend_on_the_range_of_the_roll() -> None:
    # shifts on both sides of 64 rows, up to the last of 128 pitches
    narrow = hashes(TUNE)
    full = Layout(SATB.parts, 0, 128, 4)
    for by in (-48, -1, 0, 15, 16, 17, 55):
        moved = [(part, pitch + by, a, b) for part, pitch, a, b in TUNE]
        assert hashes(moved, full) == narrow, by


def test_bars_that_differ_in_a_few_bits_do_not_collide() -> None:
    # sparse bars of 14 pitches x 16 steps, the lowest pitch always row 0: the hard case for a weak hash
    rng = np.random.default_rng(1)
    bars = rng.random((40_000, 16, 1, 1, 14)) < 0.02
    bars[:, 0, 0, 0, 0] = True
    planes = np.repeat(bars, 2, axis=3)
    layout = Layout(("merged",), 60, 14, 4)
    found = features.bar_hashes(planes, layout, 16)[:, 0]
    assert len(np.unique(found)) == len(np.unique(bars.reshape(len(bars), -1), axis=0))
    # every bit of the hash is set in about half of the bars
    ones = np.unpackbits(np.unique(found).view(np.uint8).reshape(-1, 8), axis=1).mean(axis=0)
    assert np.abs(ones - 0.5).max() < 0.02


def test_novelty_is_the_share_of_filled_bars_not_known() -> None:
    known = np.array([3, 5, 2**63 + 1], np.uint64)
    bars = np.array([[3, 5, 0], [3, 4, 0], [7, 2**63, 1], [0, 0, 0], [2**64 - 1, 3, 3]], np.uint64)
    np.testing.assert_allclose(features.novelty(bars, known), [0, 0.5, 1, math.nan, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(features.novelty(bars[:2], known[:0]), [1, 1])


# --- phrases ----------------------------------------------------------------------------------------------------------
def test_phrases_are_bars_on_end_shifted_together() -> None:
    bar: list[Note] = [(0, 60, 0, 8), (0, 64, 8, 16)]

    def song(*keys: int) -> np.ndarray:
        notes = [(part, pitch + key, a + 16 * i, b + 16 * i) for i, key in enumerate(keys) for part, pitch, a, b in bar]
        return roll(notes, ONE, 16 * len(keys))

    ones = features.phrase_hashes(song(0, 0, 5), ONE, 16, 1)
    np.testing.assert_array_equal(ones, features.bar_hashes(song(0, 0, 5), ONE, 16))
    assert len(set(ones[0].tolist())) == 1  # each bar is the same, transposition aside
    twos = features.phrase_hashes(song(0, 0, 5, 5), ONE, 16, 2)[0]
    assert twos.shape == (3,)
    assert twos[0] == twos[2] != twos[1]  # 0 0 and 5 5 are one phrase, 0 5 is another
    assert features.phrase_hashes(song(3, 8), ONE, 16, 2)[0, 0] == twos[1]
    later = features.phrase_hashes(song(0, 0, 5, 9, 9, 2), ONE, 16, 2)[0]  # steps 0, 5, 4, 0 and -7
    assert [later[0] == each for each in later.tolist()] == [True, False, False, True, False]
    assert (later[1], later[2]) == (twos[1], features.phrase_hashes(song(1, 5), ONE, 16, 2)[0, 0])
    assert features.phrase_hashes(song(0, 0), ONE, 16, 4).shape == (1, 0)
    np.testing.assert_array_equal(
        features.phrase_hashes(song(1, 2, 3, 4), ONE, 16, 4), features.bar_hashes(song(1, 2, 3, 4), ONE, 64)
    )


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
    monkeypatch.setattr(features, "_BLOCK_CELLS", 3 * planes[0].size)
    for name, rows in features.vectors(planes, SATB).items():
        np.testing.assert_array_equal(rows, whole[name])
