"""The tuning database: one text file, a JSON object a line, only ever appended to (see records.py)."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from cnncc.errors import ModelFileError
from cnncc.kernels.cache import Cache, versions
from cnncc.targets.machine import processor
from cnncc.targets.target import Target
from cnncc.tune.records import FORMAT, Choice, Setting, Trial, Verdict, decode, encode

_log = logging.getLogger("cnncc")
Name = tuple[str, str]  # a kernel: problem and region
_TRIAL = f'{{"cnncc-tuning":{FORMAT},"kind":"trial",'  # what lines of trials begin with


def find_setting(target: Target, accuracy: str) -> Setting:
    """The setting of measurements and compilations here: the processor and the target, without the cost model's
    numbers; cnncc (its sources) and TVM; the accuracy policy."""
    record = replace(target, name="", gflops_per_core=0.0, gbytes_per_second=0.0)
    fields = ((name, value) for name, value in vars(record).items() if value not in ("", (), 0, 0.0))
    return Setting(f"{processor()}: {' '.join(f'{k}={v}' for k, v in fields)}", versions(), accuracy)


def default_path() -> Path | None:
    """CNNCC_TUNING, else tuning.jsonl in the folder of the kernel cache; None where CNNCC_TUNING is "off" (or there is
    no such folder)."""
    chosen = os.environ.get("CNNCC_TUNING", "")
    if chosen:
        return None if chosen == "off" else Path(chosen)
    folder = Cache.default().folder
    return None if folder is None else folder / "tuning.jsonl"


@dataclass
class Contents:
    """What a database says for one setting. `trials`: by kernel, the last of each choice; `verdicts`: the last of each
    kernel; `others`: verdicts of other settings."""

    trials: dict[Name, dict[Choice, Trial]] = field(default_factory=dict)
    verdicts: dict[Name, Verdict] = field(default_factory=dict)
    others: int = 0


class Database:
    """A file of records. Several processes may append at once: a record is one write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settings: set[str] = set()

    def read(self, setting: Setting, trials: bool = True) -> Contents:
        """The records of a setting. Lines that are damaged or of another version are reported and skipped. `trials`:
        with single measurements, which are most of the lines and no concern of compilations.

        Raises ModelFileError where the file cannot be read.
        """
        found, key = Contents(), setting.digest
        self._settings.clear()
        try:
            text = self.path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return found
        except OSError as error:
            raise ModelFileError(f"{self.path}: the tuning database cannot be read: {error.strerror}") from None
        skipped: list[str] = []
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip() or (not trials and line.startswith(_TRIAL)):
                continue
            try:
                record = decode(line)
            except ModelFileError as error:
                skipped.append(f"line {number} is skipped: {error}")
                continue
            if isinstance(record, Setting):
                self._settings.add(record.digest)
            elif record.setting not in self._settings:
                skipped.append(f"line {number} is skipped: its setting {record.setting} is not in the file")
            elif record.setting != key:
                found.others += isinstance(record, Verdict)
            elif isinstance(record, Trial):
                found.trials.setdefault((record.problem, record.region), {})[record.choice] = record
            else:
                found.verdicts[record.problem, record.region] = record
        for reason in skipped[:3]:
            _log.warning("tuning database %s: %s", self.path, reason)
        if len(skipped) > 3:
            _log.warning("tuning database %s: %d more lines are skipped", self.path, len(skipped) - 3)
        return found

    def add(self, setting: Setting, record: Trial | Verdict) -> None:
        """Append a record, and before the first of a setting the setting; on disk when this returns.

        Raises ModelFileError where the file cannot be written.
        """
        lines = [encode(record)]
        if setting.digest not in self._settings:
            lines.insert(0, encode(setting))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                size = os.fstat(handle).st_size
                whole = (
                    size == 0 or os.pread(handle, 1, size - 1) == b"\n"
                )  # a killed process may have left half a line
                os.write(handle, (("" if whole else "\n") + "\n".join(lines) + "\n").encode())
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise ModelFileError(f"{self.path}: the tuning database cannot be written: {error.strerror}") from None
        self._settings.add(setting.digest)
