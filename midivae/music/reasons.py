"""Why a MIDI file is not used: the codes of `errors.MidiError`, and what each means.

Offers: `REASONS`.
"""

REASONS = {
    # of the reader, `smf`
    "empty": "the file has no bytes",
    "too_large": "the file is larger than ingest.limits.max_bytes",
    "not_midi": "the file does not begin with a MIDI header",
    "unreadable": "the file breaks off in its header, or has something that is no event",
    "bad_format": "the file is of format 2, whose tracks are not voices of one piece, or of one that does not exist",
    "bad_resolution": "the file's header gives no ticks per quarter note",
    "bad_pitch": "a note lies outside the MIDI pitches 0 to 127",
    "bad_time": "a note lies beyond the last tick that we count",
    "too_many_tracks": "more tracks have notes than ingest.limits.max_tracks",
    "too_many_notes": "the file has more notes than ingest.limits.max_notes",
    "no_notes": "the file has no notes",
    # of stage `ingest`
    "no_part": "none of the notes belongs to a part of the roll (ingest.parts)",
    "too_long": "the roll would have more steps than ingest.limits.max_steps",
    "short": "the roll has fewer steps than ingest.limits.min_steps",
    "few_notes": "the roll has fewer notes than ingest.limits.min_notes",
    "crashed": "the reader crashed on the file",
    "timeout": "reading the file took longer than ingest.limits.time_s",
    "memory": "reading the file took more memory than ingest.limits.memory_bytes",
}
