"""The catalog of samples, as people read it: `from midivae import catalog`.

catalog    Filters, sorts and exports the samples.
playback   The rolls of samples, from their MIDI bytes.
ranking    Which samples to hear first.
"""

from midivae.catalog.catalog import export, latents, layout, midi_bytes, query, read

__all__ = ["export", "latents", "layout", "midi_bytes", "query", "read"]
