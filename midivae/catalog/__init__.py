"""The catalog of samples, as people read it.

read       The samples that a query asks for, latents, layouts, MIDI bytes.
query      The language of filters and sorts.
export     Writes samples as .mid files.
playback   The rolls of samples, from their MIDI bytes.
ranking    Which samples to hear first.
"""
