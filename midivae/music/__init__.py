"""The music of one file, and the forms that it takes.

notes     The notes of a file, as columns.
grid      Ticks to steps and back, and bar lines.
parts     Which part of a roll a note belongs to.
roll      Notes to piano rolls and back.
raster    The compiled loop that sets the cells of a roll.
smf       Bytes of a Standard MIDI File to notes and back.
smf_events   The compiled pass over the events of a file.
smf_columns   The compiled pass that joins tracks and builds the columns of notes.
smf_tables   The codes and tables that both passes share.
smf_write   Notes to the bytes of a file.
reasons   Why a MIDI file is not used.
"""
