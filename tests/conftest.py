"""Fixtures and settings for all tests: shapes are checked while tests run, one thread per process, no network."""

from __future__ import annotations

import signal

from hypothesis import settings
from jaxtyping import install_import_hook

# annotated shapes and types of every function of midivae are checked at run time
_hook = install_import_hook("midivae", "beartype.beartype")
_hook.__enter__()

# a shell that starts a job in the background lets it ignore Ctrl-C, and so would every program that a test starts
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# tests never assert times: a shared machine may be slow for a moment
settings.register_profile("midivae", deadline=None)
settings.load_profile("midivae")
