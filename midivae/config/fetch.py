"""Params of stage `fetch`: where the MIDI files come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from midivae.config.base import Positive, Section


class ArchiveLimits(Section):
    """An archive beyond one of these limits is refused."""

    max_members: Positive = 1_000_000
    max_member_bytes: Positive = 32 * 2**20
    max_total_bytes: Positive = 64 * 2**30
    max_ratio: Positive = 200  # unpacked bytes / packed bytes of one member


class Download(Section):
    """How files are downloaded."""

    timeout_s: Annotated[float, Field(gt=0)] = 30.0  # without a byte from the server; then the download is tried again
    attempts: Positive = 5  # attempts in a row without progress; then the download fails
    max_bytes: Positive = 16 * 2**30  # of a file whose size the server does not tell


BUILT_IN = ("bach-chorales", "folder", "archive", "url")  # sources other than the corpora of the registry


class Fetch(Section):
    """Stage `fetch`: where the MIDI files come from."""

    # one of BUILT_IN, or the name of a corpus in the registry (fetch/corpora.py)
    source: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$")] = "bach-chorales"
    path: str | None = None  # the folder or archive; relative paths start where midivae is run
    url: str | None = None  # for `url`: an archive or a MIDI file
    # hash of the file at `url`; None: not checked at first, then remembered
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    licence: str | None = None  # written to corpus.parquet for `folder`, `archive` and `url`
    accept_licence: str | None = None  # name of the restricted corpus whose licence is accepted
    limits: ArchiveLimits = ArchiveLimits()
    download: Download = Download()
    time_limit_s: Annotated[float, Field(gt=0)] = 60.0  # to convert one score

    @model_validator(mode="after")
    def _path_where_needed(self) -> Fetch:
        needs, may = self.source in ("folder", "archive"), self.source not in ("bach-chorales", "url")
        if (needs and self.path is None) or (self.path is not None and not may):
            raise ValueError(
                "`path` goes with source `folder` or `archive`, and only with them, or with a corpus by name whose "
                "archive you have"
            )
        return self

    @model_validator(mode="after")
    def _url_where_needed(self) -> Fetch:
        if (self.source == "url") != (self.url is not None):
            raise ValueError("`url` goes with source `url`, and only with it")
        if self.sha256 is not None and self.url is None:
            raise ValueError("`sha256` goes with `url`")
        if self.url is not None and not self.url.lower().startswith(("http://", "https://")):
            raise ValueError(f"`url` {self.url!r} is neither http nor https; for a file of yours set `path`")
        return self
