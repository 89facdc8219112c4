"""Stage `fetch`: a corpus of MIDI files on disk.

stage      The stage: takes a source and writes `data/corpus`.
corpora    The corpora that can be named instead of located, from `corpora.yaml`.
download   Files from the web, checked by their hash.
archive    Files from zip and tar archives, which are not trusted.
musicxml   Engraved scores to notes.
"""
