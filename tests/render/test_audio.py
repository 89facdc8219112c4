"""Sound files: as long as their music, never clipped or silent; errors are reported and do not stop other files."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from four_part import piece
from pieces import notes_of
from reported import build

from midivae.catalog import read
from midivae.cli import main as cli
from midivae.config.compute import Compute
from midivae.errors import InputError
from midivae.music import smf
from midivae.music.notes import Tempo
from midivae.render import audio

HERE = Compute(workers=1)


def one(data: bytes, form: str = "wav") -> audio.Rendered | Exception:
    [(index, found)] = audio.render([audio.Source("tune", data, form)], HERE)
    assert index == 0
    return found


def heard(data: bytes) -> np.ndarray:
    sound, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    assert rate == audio.RATE
    return sound


# --- one file ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", audio.FORMATS)
def test_a_file_is_as_long_as_its_music_and_not_clipped(form: str) -> None:
    found = one(smf.write(piece(1, bars=2)), form)
    assert isinstance(found, audio.Rendered)
    # 8 beats at 96 a minute
    assert found.music_s == pytest.approx(5.0)
    sound = heard(found.data)
    assert len(sound) / audio.RATE == pytest.approx(5.0 + audio.TAIL_S, abs=0.01)
    assert 0.7 < np.abs(sound).max() < 1
    if form != "ogg":  # which changes peaks a little
        assert np.abs(sound).max() == pytest.approx(audio.PEAK, abs=1e-3)
    for second in range(5):
        assert np.abs(sound[second * audio.RATE : (second + 1) * audio.RATE]).max() > 0.01
    assert np.abs(sound[-100:]).max() < 0.01  # it has died away
    assert np.abs(sound[int(5.05 * audio.RATE) : int(5.15 * audio.RATE)]).max() > 1e-3  # and not been cut off


def test_a_loud_file_is_made_softer_until_nothing_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = notes_of([(0, 480, pitch) for pitch in range(36, 96)], programs=(30,))  # a distorted guitar
    notes = replace(loud, velocity=np.full(60, 127, np.uint8))
    seen: list[int] = []
    written = smf.write

    def write(notes: Any, end_tick: int) -> bytes:
        seen.append(int(notes.velocity.max()))
        return written(notes, end_tick)

    monkeypatch.setattr(audio.smf, "write", write)
    sound = audio._synthesise(audio.sound_font().read_bytes(), notes)
    assert seen[0] == 127
    assert seen[-1] < 127  # the first try was clipped
    assert 0.3 < np.abs(sound).max() < 1


def test_durations_follow_tempo_changes() -> None:
    # a quarter at 120 (0.5 s), then one at 60 (1 s)
    notes = notes_of([(0, 480, 60), (480, 480, 62)], tempos=(Tempo(0, 500_000), Tempo(480, 1_000_000)))
    assert notes.duration_s == pytest.approx(1.5)
    # no tempo in the file: 120
    assert notes_of([(0, 960, 60)], tempos=()).duration_s == pytest.approx(1.0)
    found = one(smf.write(notes))
    assert isinstance(found, audio.Rendered)
    assert found.seconds == pytest.approx(1.5 + audio.TAIL_S)


def test_silence_is_told() -> None:
    empty = notes_of([(0, 480, 60)])
    data = smf.write(empty).replace(bytes([0x90, 60, 90]), bytes([0x90, 60, 0]))  # a note-on without force is none
    found = one(data)
    assert isinstance(found, InputError)
    assert "tune: silent" in str(found)


@pytest.mark.parametrize("data", [b"", b"no music", smf.write(piece(1, bars=1))[:40]], ids=["empty", "text", "cut"])
def test_a_bad_file_is_told(data: bytes) -> None:
    found = one(data)
    assert isinstance(found, InputError)
    assert str(found).startswith("tune: ")


def test_too_long_is_told() -> None:
    found = one(smf.write(notes_of([(0, 480, 60), (480 * 8000, 480, 60)])))
    assert "at most 3600 s" in str(found)


def test_a_crash_costs_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    import guarded

    monkeypatch.setattr(audio, "_render", guarded.render_or_crash)
    good = smf.write(piece(2, bars=1))
    files = [audio.Source("good", good, "wav"), audio.Source("crash", good, "wav"), audio.Source("also", good, "wav")]
    found = dict(audio.render(files, HERE))
    assert isinstance(found[0], audio.Rendered)
    assert isinstance(found[2], audio.Rendered)
    assert "the synthesiser crashed" in str(found[1])


def test_the_sound_font_is_that_of_pretty_midi(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audio.sound_font().parts[-2:] == ("pretty_midi", "TimGM6mb.sf2")
    monkeypatch.setattr(audio, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pretty_midi"):
        audio.sound_font()


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    build(data)
    return data


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli.midivae, [str(argument) for argument in arguments])


def test_samples_of_every_job_are_rendered(data: Path, tmp_path: Path) -> None:
    """One of each job: not silent, not clipped, as long as its MIDI."""
    result = invoke("render", "--best", 1, "--data", data, "--output", tmp_path, "--format", "flac", "--workers", 1)
    assert result.exit_code == 0, result.output
    told = [json.loads(line) for line in result.stdout.splitlines()]
    rows = read.samples(data).set_index("sample_id")
    assert {rows.loc[line["sample"], "job"] for line in told} == set(rows["job"])
    for line in told:
        notes = smf.read(read.midi_bytes(data, [line["sample"]])[line["sample"]]).notes
        sound = heard((tmp_path / f"{line['sample']}.flac").read_bytes())
        assert len(sound) / audio.RATE == pytest.approx(notes.duration_s + audio.TAIL_S, abs=0.01)
        assert notes.duration_s <= rows.loc[line["sample"], "duration_s"] + 0.01
        assert 0.5 < np.abs(sound).max() < 1
        assert line["seconds"] == pytest.approx(len(sound) / audio.RATE, abs=0.001)


def test_files_and_samples_by_name(data: Path, tmp_path: Path) -> None:
    tune = tmp_path / "tune.mid"
    tune.write_bytes(smf.write(piece(3, bars=1)))
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"MThd")
    out = tmp_path / "out"
    result = invoke("render", tune, broken, "sample-0000001", "--data", data, "--output", out)
    assert result.exit_code == 3
    assert "1 of 3 not rendered" in result.stderr
    assert "broken: " in result.stderr
    assert sorted(path.name for path in out.iterdir()) == ["sample-0000001.ogg", "tune.ogg"]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "--best K"),
        (["sample-0000001", "--best", "2"], 2, "one of the two"),
        (["sample-0000001", "--job", "sample"], 2, "--job goes with --best"),
        (["sample-9999999"], 3, "no sample 'sample-9999999'"),
        (["nonsense"], 2, "neither a MIDI file"),
        (["none.mid"], 3, "cannot be read"),
        (["--best", "1", "--job", "none"], 2, "no job 'none'"),
    ],
)
def test_what_is_wrong_is_named(data: Path, tmp_path: Path, words: list[str], code: int, says: str) -> None:
    result = invoke("render", *words, "--data", data, "--output", tmp_path / "out")
    assert result.exit_code == code
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.mid").write_bytes(smf.write(piece(1, bars=1)))
    result = invoke("render", tmp_path / "a" / "x.mid", tmp_path / "b" / "x.mid", "--output", tmp_path)
    assert result.exit_code == 2
    assert "written as 'x'" in result.stderr
