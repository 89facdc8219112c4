"""Models that follow each other: what the nights need.

gate       Whether a model takes the champion's place.
drift      Whether new music is unlike the champion's.
order      More samples of the champion.
inbox      Takes new files from a folder.
versions   The versions that people read, and which one is current.
"""
