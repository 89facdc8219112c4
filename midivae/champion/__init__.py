"""Models that follow each other: what the nights need.

gate       Whether a model takes the champion's place.
drift      Whether new music is unlike the champion's.
batch      More samples of the champion.
inbox      Moves new files from an inbox to the corpus.
versions   Published versions, and which one is current.
"""
