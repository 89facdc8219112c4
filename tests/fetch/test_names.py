"""Tests of midivae.fetch.names: names of any bytes become text that prints and safe, different paths."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from midivae.fetch import archive, names


@given(st.binary(), st.binary())
def test_printable_names_are_reversible(name: bytes, other: bytes) -> None:
    text = names.printable(name)
    assert text.isprintable()
    assert unquote_to_bytes(text) == name
    assert (text == names.printable(other)) == (name == other)


NAME_BYTES = st.lists(st.sampled_from([b"a", b"A", b"/", b".", b"..", b"~2", b"%", b"\xff", b".mid", b"x" * 150]))


@given(st.lists(NAME_BYTES.map(lambda parts: b"".join(parts) + b".mid"), max_size=20))
def test_every_name_gets_a_path_of_its_own_below_the_folder(found: list[bytes]) -> None:
    taken: dict[str, int] = {}
    allowed = [name for name in found if archive.refusal(name) is None]
    paths = [names.unique(names.safe_path(name), taken) for name in allowed]
    assert len({path.casefold() for path in paths}) == len(paths)
    folders = {str(parent).casefold() for path in paths for parent in Path(path).parents}
    for path in paths:
        assert path.endswith(".mid")
        assert len(path.encode()) < 1100
        assert path.casefold() not in folders  # a file cannot be where a folder must be
        assert not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in path.split("/"))


def test_a_million_equal_names_take_linear_time() -> None:
    taken: dict[str, int] = {}
    assert [names.unique("a.mid", taken) for _ in range(20_000)][-1] == "a~20000.mid"
