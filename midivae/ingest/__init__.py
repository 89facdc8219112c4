"""Stage `ingest`: MIDI files to piano rolls.

stage        The stage: reads `data/corpus` and writes `data/rolls`.
shards       The unit of work: the files whose hashes begin alike, and their tables in the work directory.
facts        One file: its bytes to a roll, and what is known of it.
sketches     What of a piece is compared to find duplicates.
duplicates   Which pieces are the same music, and which nearly.
pieces       The table of pieces: clusters of duplicates, and splits.
"""
