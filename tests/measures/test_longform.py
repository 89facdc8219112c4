"""Long form: keys of windows, overlaps of neighbouring frames, seams; by hand and by numerical integration."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from midivae.measures import longform
from midivae.music.roll import Layout

pytestmark = pytest.mark.numerical

LAYOUT = Layout(("drums", "piano"), 36, 48, 4)
BAR = 16
SCALE = [0, 2, 4, 5, 7, 9, 11]


def scale_bars(tonic: int, bars: int, tones: list[int] | None = None) -> np.ndarray:
    """Bars of quarters up and down a major scale, its tonic twice as often as the others."""
    planes = np.zeros((bars * BAR, 2, 2, 48), bool)
    walk = tones or [0, 2, 4, 5, 7, 9, 11, 12, 7, 4, 0, 0]
    for beat in range(4 * bars):
        row = 12 + tonic + walk[beat % len(walk)]
        planes[4 * beat, 1, :, row] = True
        planes[4 * beat + 1 : 4 * beat + 4, 1, 1, row] = True
    return planes


# --- key --------------------------------------------------------------------------------------------------------------
def test_windows_in_the_key_of_the_whole() -> None:
    # 12 bars of D major, 4 of E flat major, 3 that fill no window; the whole is in D
    planes = np.concatenate([scale_bars(2, 12), scale_bars(3, 4), scale_bars(2, 3)])
    found = longform.key_stability(planes, LAYOUT, BAR)
    assert (found.windows, found.same) == (4, 3)
    assert found.share == 0.75
    assert longform.key_stability(scale_bars(7, 16), LAYOUT, BAR).share == 1


def test_relative_keys_have_one_scale() -> None:
    minor = [9, 11, 12, 14, 16, 9, 16, 9, 12, 16, 9, 9]  # the tones of C major around A
    planes = np.concatenate([scale_bars(0, 12), scale_bars(0, 4, [tone - 12 for tone in minor])])
    found = longform.key_stability(planes, LAYOUT, BAR)
    assert (found.windows, found.same, found.same_scale) == (4, 3, 4)
    assert found.scale_share == 1


def test_windows_without_pitches_have_no_key() -> None:
    planes = scale_bars(0, 12)
    planes[:, 0, :, 5] = True  # drums all the time
    planes[4 * BAR : 8 * BAR, 1] = False
    assert longform.key_stability(planes, LAYOUT, BAR).windows == 2
    silent = longform.key_stability(planes & False, LAYOUT, BAR)
    assert silent.windows == 0 and math.isnan(silent.share) and math.isnan(silent.scale_share)
    assert longform.key_stability(planes[:BAR], LAYOUT, BAR).windows == 0


# --- self-similarity --------------------------------------------------------------------------------------------------
def test_music_that_repeats_itself_overlaps_with_itself() -> None:
    found = longform.self_similarity(scale_bars(0, 12, [0, 4, 7, 12]), LAYOUT, BAR)
    # frames begin on bars 0, 2 ... 8: five frames, four pairs
    np.testing.assert_allclose(found.pitch, np.ones(4))
    np.testing.assert_allclose(found.duration, np.ones(4))


def test_frames_by_hand() -> None:
    # bars 1 to 4 on one pitch, 5 and 6 a third higher: of 4 bars from bar 3, half of the notes each way
    planes = np.concatenate([scale_bars(0, 4, [0]), scale_bars(4, 2, [0])])
    found = longform.self_similarity(planes, LAYOUT, BAR)
    narrow = 1 / math.sqrt(12)
    # means 0 and 2, deviations 0 and 2
    assert found.pitch == pytest.approx([NormalDist(0.0, narrow).overlap(NormalDist(2.0, 2.0))])
    assert found.duration == pytest.approx([1])


def test_an_overlap_is_the_integral_of_the_lower_density() -> None:
    # pitches 0 and 4 in turn, mean 2 and deviation 2, against pitch 0 alone: two crossings, where the formula of
    # Mittal's code, which takes the one between the means, leaves out a part
    planes = np.concatenate([scale_bars(0, 4, [0]), scale_bars(0, 2, [4]), scale_bars(0, 2, [0])])
    found = longform.self_similarity(planes, LAYOUT, BAR)
    x = np.linspace(-25, 25, 200_001)
    p, q = (
        np.exp(-0.5 * ((x - m) / s) ** 2) / (s * math.sqrt(2 * math.pi)) for m, s in ((0, 1 / math.sqrt(12)), (2, 2))
    )
    assert found.pitch[0] == pytest.approx(np.minimum(p, q).sum() * (x[1] - x[0]), abs=1e-4)


def test_drums_and_empty_frames_are_left_out() -> None:
    planes = scale_bars(0, 16, [0, 4, 7, 12])
    planes[4 * BAR : 12 * BAR, 1] = False
    planes[::2, 0, :, 3] = True
    # frames from bars 0, 2 ... 12; from 4, 6 and 8 on nothing begins: of pairs that follow, (0, 2) and (10, 12) remain
    assert len(longform.self_similarity(planes, LAYOUT, BAR).pitch) == 2
    assert len(longform.self_similarity(planes[:BAR], LAYOUT, BAR).pitch) == 0
    assert len(longform.self_similarity(planes & False, LAYOUT, BAR).pitch) == 0


def test_likeness_by_hand() -> None:
    # means 0.5 and 0.8: 1 - 0.3 / 0.8; variances 0.01 and 0.04: 1 - 0.03 / 0.04
    found = longform.likeness(np.array([0.4, 0.6]), np.array([0.6, 1.0]))
    assert found.consistency == pytest.approx(0.625)
    assert found.variance == pytest.approx(0.25)
    # a loop for ever, all overlaps 1, has nothing of the variance
    loop = longform.likeness(np.ones(5), np.array([0.6, 1.0]))
    assert (loop.consistency, loop.variance) == (pytest.approx(0.75), 0)
    far = longform.likeness(np.array([0.0, 4.0]), np.array([0.6, 1.0]))
    assert (far.consistency, far.variance) == (0, 0)
    assert math.isnan(longform.likeness(np.ones(1), np.ones(5)).consistency)


# --- seams ------------------------------------------------------------------------------------------------------------
def test_seams_by_hand() -> None:
    c, d, dense = scale_bars(0, 2), scale_bars(2, 2), scale_bars(0, 2).copy()
    dense[2::4, 1, 0] |= dense[2::4, 1, 1]  # every quarter struck again on its second half
    found = longform.seams(np.stack([c, c, c, c]), np.stack([c, d, dense, c & False]), LAYOUT)
    assert found.density[:3].tolist() == [0, 0, 1]
    assert found.same_key[:3].tolist() == [1, 0, 1]
    assert found.fifths[0] == 0 and found.fifths[2] == pytest.approx(0)
    # two fifths round: 60 degrees, at the distance from the middle that the scale has
    x, y = (
        longform.features.attributes(c[None], LAYOUT)["fifths_x"],
        longform.features.attributes(c[None], LAYOUT)["fifths_y"],
    )
    assert found.fifths[1] == pytest.approx(float(np.hypot(x, y)[0]) * 2 * math.sin(math.pi / 6))
    assert found.density[3] == 1 and math.isnan(found.fifths[3]) and math.isnan(found.same_key[3])
