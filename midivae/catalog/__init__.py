"""The catalog of samples, as people read it.

files      Where the files of a catalog are.
read       The samples that a query asks for, latents, layouts, MIDI bytes.
query      SQL over the catalog: conditions, and whole queries.
export     Writes samples as .mid files.
playback   The rolls of samples, from their MIDI bytes.
ranking    Which samples to hear first.
"""
