"""Music as sound and pictures.

audio      MIDI files to sound files.
pictures   Rolls as pictures.
plot       A MIDI file as a picture for pages and papers.
charts     Curves and distributions as pictures.
"""
