"""Names of metrics."""

from __future__ import annotations

from midivae.storage.metrics import metric_name


def test_names_of_sets_and_measures() -> None:
    assert metric_name("held-out, merged", "tonal_distance") == "held_out_merged_tonal_distance"
    assert metric_name("edit", "balance:bass", "largest", "drift") == "edit_balance_bass_largest_drift"


def test_a_job_is_not_taken_for_another_whose_name_begins_alike() -> None:
    metrics = {metric_name("song-2", "frechet"): 2.0}
    assert metrics == {"song_2_frechet": 2.0}
    assert metric_name("song", "frechet") not in metrics
