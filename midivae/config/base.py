"""What all params share: the base class of sections, the types of values, and how a YAML file is read and checked.

Offers: `Section`; `Fraction`, `Positive`, `Seed`, `Range`; `read_yaml`; `validated` and `broken_rules`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from midivae.errors import ParamsError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _ascending(value: object) -> object:
    if isinstance(value, tuple) and value[0] > value[1]:
        raise ValueError(f"from {value[0]:g} to {value[1]:g}: the lower number goes first")
    return value


Range = Annotated[float | tuple[float, float], AfterValidator(_ascending)]  # a number, or drawn evenly between two


class Section(BaseModel):
    """Base class of all sections: frozen; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self, exclude: set[str] | None = None) -> str:
        """A short hash of the values: the same values give the same hash on every machine."""
        text = json.dumps(self.model_dump(mode="json", exclude=exclude), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_yaml(path: Path) -> dict[str, Any]:
    """The values in a YAML file; an empty file has none.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds no mapping of names to values.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; run from the project's root, or name the file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(values or {}, dict):
        raise ParamsError(f"{path}: holds a {type(values).__name__}; it must be a mapping of names to values")
    return values or {}


Model = TypeVar("Model", bound=BaseModel)


def validated(kind: type[Model], values: Any, origin: str) -> Model:
    """The model of these values; `origin` opens the message when a rule is broken.

    Raises:
        ParamsError: a value breaks a rule; the message lists every broken rule.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        rules = broken_rules(error)
        raise ParamsError("\n  ".join([f"{origin}: {len(rules)} value(s) break a rule:", *rules])) from None


def broken_rules(error: ValidationError) -> list[str]:
    """A sentence for each broken rule: the name of the value, the rule, and the value."""
    return [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()]
