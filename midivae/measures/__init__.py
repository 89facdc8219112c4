"""Measures of rolls, and of sets of numbers.

features    Features, attributes, chroma, keys and hashes of rolls.
harmony     Which chord follows which, and how far parts are from each other.
longform    Keys, self-similarity and seams of long music.
likeness    How alike two rolls are, and the nearest of many.
distances   Distances between two sets of numbers.
baselines   Trivial generators, which a model must beat.
control     What was asked for beside what came, and paths between parents.
"""
