"""The music of one file, and the forms that it takes.

notes     The notes of a file, as columns.
grid      Ticks to steps and back, and bar lines.
midi      Bytes of a MIDI file to notes and back.
parts     Which part of a roll a note belongs to.
roll      Notes to piano rolls and back.
raster    The compiled loop that sets the cells of a roll.
"""
