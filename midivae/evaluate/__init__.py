"""Stage `evaluate`: the samples beside held-out music.

stage                The stage: reads samples, rolls and models and writes `data/evaluation`.
context              What sets are measured against: the training pieces, the held-out windows, the encoder.
windows              Sets of music as blocks of windows.
measured_set         A set with everything that is measured of its windows.
samples              The jobs of a catalog, measured.
held_out_distances   How far a set is from held-out music, beside how far that is from itself.
by_mode              What each mode of generation promises: a table per question.
parents              How far samples are from their parents.
songs                Songs beside whole pieces.
seams                Where new music meets that of its parent.
ensembles            How far parts are from each other.
latents              Where models put held-out windows.
verdict              The verdict on the article.
summaries            Tables that summarise sets.
metrics              The content of metrics.json.
"""
