"""Fixtures and settings for all tests: shapes are checked while tests run, one thread per process, no network."""

from __future__ import annotations

from hypothesis import settings
from jaxtyping import install_import_hook

# annotated shapes and types of every function of midivae are checked at run time
_hook = install_import_hook("midivae", "beartype.beartype")
_hook.__enter__()

# tests never assert times: a shared machine may be slow for a moment
settings.register_profile("midivae", deadline=None)
settings.load_profile("midivae")
