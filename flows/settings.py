"""nightly.yaml: the folders of the nights, what is kept, and when a challenger is promoted.

Its sections `gate` and `drift` are those of `midivae.config.champion.Rules`. They are checked here too, so that a
typing error ends the night before it begins.

Offers: `Settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from midivae.config.base import Section, read_yaml, validated
from midivae.config.champion import Drift, Gate


class Settings(Section):
    """The values of nightly.yaml.

    Attributes:
        file: the file itself.
        place: folder of everything that the nights write; relative to the file.
        source: `inbox`: files that people drop into a folder; `params`: the source of `fetch`, fetched each night.
        inbox: that folder; None: `inbox` in the place.
        settle_s: seconds for which a file in the inbox must not have changed.
        published: folder of versions; None: `published` in the place.
        branch: the branch of the project to follow; None: the one that is checked out when the clone is made.
        params: values that override those of the project's params.yaml.
        warm_start: whether training starts from the champion's weights.
        lock_attempts, lock_wait_s: how often and how long a stage waits for DVC's lock.
        push: whether commits and tags are pushed to the project's repository.
        remote: of DVC, to push data to; None: none.
        keep_versions, keep_days: how many published versions are kept, and for how long.
        keep_commits: number of promoted nights whose data stay in DVC's cache.
        collect: whether DVC's cache is cleaned after each night.
        alert: a command that is run with a message as its last argument when a run fails; None: none.
    """

    file: Path = Path("nightly.yaml")
    place: Path = Path(".nightly")
    source: Literal["inbox", "params"] = "inbox"
    inbox: Path | None = None
    settle_s: Annotated[float, Field(ge=0)] = 60.0
    published: Path | None = None
    branch: str | None = None
    params: dict[str, Any] = Field(default={})
    warm_start: bool = True
    lock_attempts: Annotated[int, Field(ge=0)] = 60
    lock_wait_s: Annotated[float, Field(ge=0)] = 60.0
    push: bool = True
    remote: str | None = None
    keep_versions: Annotated[int, Field(ge=1)] = 7
    keep_days: Annotated[float, Field(ge=0)] = 7.0
    keep_commits: Annotated[int, Field(ge=1)] = 3
    collect: bool = True
    alert: tuple[str, ...] | None = None
    gate: Gate = Gate()
    drift: Drift = Drift()

    @property
    def project(self) -> Path:
        """The project's repository: where nightly.yaml lies."""
        return self.file.parent

    def under(self, name: str) -> Path:
        """A folder in the place: `clone`, `corpus`, `holdout`."""
        return self.project / self.place / name

    @property
    def clone(self) -> Path:
        """The nights' own clone of the project."""
        return self.under("clone")

    @property
    def inbox_folder(self) -> Path:
        """Where people drop files."""
        return self.under("inbox") if self.inbox is None else self.project / self.inbox

    @property
    def published_folder(self) -> Path:
        """What people read."""
        return self.under("published") if self.published is None else self.project / self.published

    @classmethod
    def load(cls, file: str | Path) -> Settings:
        """The settings in a file.

        Raises:
            ParamsError: no such file, not YAML, or a value breaks a rule.
        """
        file = Path(file).absolute()
        return validated(cls, {**read_yaml(file), "file": file}, str(file))
