"""Stage `generate`: jobs of samples.

stage     The stage: reads `data/model` and `data/rolls` and writes `data/samples`.
modes     What each mode of generation does to latents and music.
parents   The music that samples are made from.
"""
