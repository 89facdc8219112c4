"""The music of one file, and the forms that it takes.

notes     The notes of a file, as columns.
grid      Ticks to steps and back, and bar lines.
midi      Bytes of a MIDI file to notes and back.
parts     Which part of a roll a note belongs to.
roll      Notes to piano rolls and back.
raster    The compiled loop that sets the cells of a roll.
smf         Reads and writes Standard MIDI Files by the standard; ingest still uses `midi`.
smf_events   The compiled pass over the events of a file.
smf_columns   The compiled pass that joins tracks and builds the columns of notes.
smf_tables   The codes and tables that both passes share.
smf_write   Notes to the bytes of a file.
"""
