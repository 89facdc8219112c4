"""Measures of rolls, and of sets of numbers.

notes       Notes of rolls: how often each pitch class starts, transposition, melodic lines.
features    Features, attributes and distributions of rolls.
keys        The key of music, and its place on the circle of fifths.
hashes      Hashes of bars, by which the same music is found again, and novelty.
harmony     Which chord follows which, and how far parts are from each other.
longform    Keys, self-similarity and seams of long music.
likeness    How alike two rolls are, and the nearest of many.
distances   Distances between two sets of numbers.
baselines   Trivial generators, which a model must beat.
control     What was asked for beside what came, and paths between parents.
"""
