"""Measures of rolls, and of sets of numbers.

notes          Notes of rolls: how often each pitch class starts, transposition, melodic lines.
features       Features, attributes and distributions of rolls.
keys           The key of music, and its place on the circle of fifths.
hashes         Hashes of bars, by which the same music is found again, and novelty.
harmony        Measures of harmony and form: all of the three below.
chords         Kinds of chords, and how probable a chord is after another.
counterpoint   How parts fit together: crossings, parallels, dissonances, steps of melodies, tonal distance.
cadences       Held chords, basses that fall a fifth, and how music ends.
longform       Keys, self-similarity and seams of long music.
likeness       How alike two rolls are, and the nearest of many.
distances      Distances between two sets of numbers.
baselines      Trivial generators, which a model must beat.
control        What was asked for beside what came, and paths between parents.
"""
