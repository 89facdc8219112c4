"""Stage `evaluate`: the samples beside held-out music.

stage           The stage: reads samples, rolls and models and writes `data/evaluation`.
samples         The jobs of a catalog as sets to be measured.
set_measures    All that is measured of a set, block by block.
set_distances   How far a set is from held-out music, beside how far that is from itself.
by_mode         What is asked of each mode of generation: one table per question.
"""
