"""Stage `fetch`: a corpus of MIDI files on disk.

stage       The stage: takes a source and writes `data/corpus`.
corpora     The corpora that can be named instead of located, from `corpora.yaml`.
download    Files from the web, kept in the work directory and checked by their hash.
transfer    One file over HTTP: continues after a cut, and is retried.
archive     Files from zip and tar archives, which are not trusted.
chorales    Bach's chorales, the default corpus, converted from scores.
musicxml    Engraved scores to notes.
names       Which names are MIDI files; safe paths for names of any bytes.
own_split   The split that a corpus brings.
collected   The corpus while it is written: files, table and counts.
"""
