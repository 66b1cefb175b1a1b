"""The file: what is appended is read, what is damaged is reported and skipped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from cnncc.errors import ModelFileError
from cnncc.targets.machine import AVX512
from cnncc.tune.database import Database, default_path, find_setting
from cnncc.tune.records import Choice, Measured, Setting, Trial, Verdict, encode

HERE = Setting("here", "1", "default")
THERE = Setting("there", "1", "default")
A, B = Choice("direct", (("vectors", 2),)), Choice("direct", (("vectors", 4),))


def trial(setting: Setting, choice: Choice, seconds: float | None, problem: str = "p") -> Trial:
    return Trial(setting.digest, problem, "", choice, seconds, "" if seconds else "it hangs")


def verdict(setting: Setting, tried: int) -> Verdict:
    return Verdict(setting.digest, "p", "", (Measured(A, 1e-3, 1e-3, (1.0, 1.0, 1.0), False),), tried)


@pytest.fixture
def database(tmp_path):
    return Database(tmp_path / "deep" / "tuning.jsonl")


def test_no_file_is_an_empty_database(database):
    assert database.read(HERE).trials == {}


def test_the_last_record_counts(database):
    for record in (
        trial(HERE, A, 2e-3),
        trial(HERE, B, None),
        trial(HERE, A, 1e-3),
        verdict(HERE, 2),
        verdict(HERE, 5),
    ):
        database.add(HERE, record)
    found = Database(database.path).read(HERE)
    assert {c: t.seconds for c, t in found.trials["p", ""].items()} == {A: 1e-3, B: None}
    assert found.trials["p", ""][B].failure == "it hangs"
    assert found.verdicts["p", ""].tried == 5
    assert database.path.read_text().count('"kind":"setting"') == 1


def test_compilations_skip_trials(database):
    for record in (trial(HERE, A, 2e-3), verdict(HERE, 2)):
        database.add(HERE, record)
    found = Database(database.path).read(HERE, trials=False)
    assert not found.trials
    assert found.verdicts["p", ""].tried == 2


def test_settings_do_not_mix(database):
    database.add(HERE, trial(HERE, A, 1e-3))
    database.add(THERE, trial(THERE, A, 7e-3))
    database.add(THERE, verdict(THERE, 1))
    assert Database(database.path).read(HERE).trials["p", ""][A].seconds == 1e-3
    assert Database(database.path).read(THERE).trials["p", ""][A].seconds == 7e-3
    assert Database(database.path).read(HERE).others == 1


def test_damaged_lines_are_reported_and_skipped(database, caplog):
    database.add(HERE, trial(HERE, A, 1e-3))
    database.add(HERE, trial(HERE, B, 2e-3))
    setting, first, second = database.path.read_text().splitlines()
    new = first.replace('"cnncc-tuning":1', '"cnncc-tuning":2')
    orphan = encode(trial(THERE, A, 1e-3))
    database.path.write_text("\n".join(["\x00\xff", setting, first[:40], new, orphan, "", second]))
    with caplog.at_level(logging.WARNING, "cnncc"):
        found = Database(database.path).read(HERE)
    assert list(found.trials["p", ""]) == [B]
    text = caplog.text
    assert "line 1 is skipped: it is not JSON" in text
    assert "line 3 is skipped" in text
    assert "line 4 is skipped: its version must be 1, got 2" in text
    assert "1 more lines are skipped" in text


def test_half_a_line_does_not_spoil_the_next(database):
    database.add(HERE, trial(HERE, A, 1e-3))
    with database.path.open("a") as file:
        file.write('{"cnncc-tuning":1,"kind":"tri')
    database.add(HERE, trial(HERE, B, 2e-3))
    assert set(Database(database.path).read(HERE).trials["p", ""]) == {A, B}


def test_bytes_that_are_no_text_do_not_matter(database):
    database.add(HERE, trial(HERE, A, 1e-3))
    with database.path.open("ab") as file:
        file.write(b"\xff\xfe\x00\n")
    assert set(Database(database.path).read(HERE).trials["p", ""]) == {A}


def test_processes_append_at_once(database):
    program = """
import sys
from pathlib import Path
from cnncc.tune.database import Database
from cnncc.tune.records import Choice, Setting, Trial
setting = Setting("here", "1", "default")
for k in range(40):
    choice = Choice("direct" * 50, (("who", sys.argv[2]), ("k", k)))
    Database(Path(sys.argv[1])).add(setting, Trial(setting.digest, "p", "", choice, 1e-3))
"""
    workers = [subprocess.Popen([sys.executable, "-c", program, str(database.path), name]) for name in "ab"]
    assert [w.wait() for w in workers] == [0, 0]
    assert len(Database(database.path).read(HERE).trials["p", ""]) == 80


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match="cannot be written"):
        Database(tmp_path / "file" / "tuning.jsonl").add(HERE, trial(HERE, A, 1e-3))
    with pytest.raises(ModelFileError, match="cannot be read"):
        Database(tmp_path).read(HERE)


def test_the_setting_knows_what_matters():
    base = find_setting(AVX512, "default")
    assert find_setting(replace(AVX512, name="another", gflops_per_core=1.0, gbytes_per_second=1.0), "default") == base
    for other in (replace(AVX512, threads=7), replace(AVX512, vector_registers=16), replace(AVX512, l2=1 << 18)):
        assert find_setting(other, "default") != base
    assert find_setting(AVX512, "strict") != base
    assert "apache-tvm" in base.versions


def test_where_the_database_is(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("CNNCC_TUNING", raising=False)
    assert default_path() == tmp_path / "tuning.jsonl"
    monkeypatch.setenv("CNNCC_TUNING", str(tmp_path / "mine"))
    assert default_path() == tmp_path / "mine"
    monkeypatch.setenv("CNNCC_TUNING", "off")
    assert default_path() is None
    assert os.environ["CNNCC_TUNING"] == "off"
