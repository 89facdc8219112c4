"""Stage `ingest`: MIDI files to piano rolls.

stage        The stage: reads `data/corpus` and writes `data/rolls`.
duplicates   Which pieces are the same music, and which nearly.
"""
