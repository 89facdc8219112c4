"""What became of a call in a child process.

Offers: `Failure`, `Outcome`, `FunctionError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from midivae.errors import WorkerError

FailureKind = Literal["crashed", "timeout", "memory"]
_IN_WORDS = {"crashed": "crashed", "timeout": "hung", "memory": "ran out of memory"}


@dataclass(frozen=True)
class Failure:
    """Why a call returned nothing: its process crashed, hung, or needed more memory than allowed.

    Attributes:
        kind: what happened.
        item: the argument of the last `beat`; None: there was none.
        detail: the cause in words.
    """

    kind: FailureKind
    item: int | None
    detail: str


@dataclass(frozen=True)
class Outcome:
    """The value that the function returned, or a failure."""

    value: Any | None
    failure: Failure | None = None

    def get(self) -> Any:
        """The value, for callers that cannot go on after a failure.

        Raises:
            WorkerError: there was a failure.
        """
        if self.failure is not None:
            at = "" if self.failure.item is None else f" at item {self.failure.item}"
            raise WorkerError(f"a worker process {_IN_WORDS[self.failure.kind]}{at}: {self.failure.detail}")
        return self.value


class FunctionError(NamedTuple):
    """An exception that the function raised, on its way to the caller; `traceback` is that of the child process."""

    error: Exception
    traceback: str
