"""Lines of the database: exact round trips, and no line that is not one of ours is taken."""

from __future__ import annotations

import json

import pytest

from cnncc.errors import ModelFileError
from cnncc.tune.records import Choice, Measured, Setting, Trial, Verdict, decode, encode

SETTING = Setting("some processor: kind=cpu threads=2", "cnncc 0 sources 0, apache-tvm 0", "default")
CHOICE = Choice("direct", (("pixels", (1, 4)), ("vectors", 2), ("copy", True)))
OTHER = Choice("winograd_f4", (("m", 4),))
PROBLEM = "conv n1 ic64 h56 w56 oc64 k3x3 s1x1 p1x1"
RECORDS = [
    SETTING,
    Trial(SETTING.digest, PROBLEM, "reads1 sigmoid", CHOICE, 1.25e-4),
    Trial(SETTING.digest, PROBLEM, "", OTHER, None, "no answer to time within 30 s"),
    Verdict(
        SETTING.digest,
        PROBLEM,
        "",
        (
            Measured(CHOICE, 2e-4, 1.5e-4, (1.0, 1.0, 1.0), False),
            Measured(OTHER, 1e-4, 1.1e-4, (1.9, 2.0, 2.1), True),
        ),
        17,
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
def test_round_trip(record):
    line = encode(record)
    assert "\n" not in line
    assert decode(line) == record
    assert decode(line) is not record


def test_types_survive():
    (_, pixels), _, (_, copy) = decode(encode(RECORDS[1])).choice.tile
    assert isinstance(pixels, tuple)
    assert copy is True


def test_settings_differ_by_every_field():
    others = [
        Setting("another", SETTING.versions, SETTING.accuracy),
        Setting(SETTING.machine, "another", SETTING.accuracy),
        Setting(SETTING.machine, SETTING.versions, "strict"),
    ]
    assert len({s.digest for s in (SETTING, *others)}) == 4


@pytest.mark.parametrize("at", range(5, len(encode(RECORDS[1])), 7))
def test_any_changed_character_is_noticed(at):
    line = encode(RECORDS[1])
    changed = line[:at] + chr(ord(line[at]) ^ 1) + line[at + 1 :]
    with pytest.raises(ModelFileError):
        decode(changed)


@pytest.mark.parametrize("length", range(0, len(encode(RECORDS[3])), 11))
def test_part_of_a_line_is_noticed(length):
    with pytest.raises(ModelFileError):
        decode(encode(RECORDS[3])[:length])


def _signed(data: dict[str, object]) -> str:
    """A line with a right digest, whatever is in it."""
    from cnncc.tune.records import _check

    text = json.dumps(data, separators=(",", ":"))
    return f'{text[:-1]},"check":"{_check(text)}"}}'


def _fields(record: object) -> dict[str, object]:
    data = json.loads(encode(record))
    del data["check"]
    return data


def test_the_helper_signs_as_encode_does():
    assert _signed(_fields(RECORDS[3])) == encode(RECORDS[3])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cnncc-tuning": 2}, "its version must be 1, got 2"),
        ({"kind": "wish"}, "not a wish record"),
        ({"kind": ["trial"]}, "not a"),
        ({"seconds": -1.0}, "above 0"),
        ({"seconds": "1"}, "above 0"),
        ({"seconds": True}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"problem": 3}, "expected a text"),
        ({"surplus": "x"}, "surplus"),
        ({"choice": {"algorithm": "direct", "tile": [["a", 1.5]]}}, "a tile holds"),
        ({"choice": {"algorithm": "direct", "tile": [["a", {}]]}}, "a tile holds"),
        ({"choice": {"algorithm": "direct", "tile": [["a", [1, [2]]]]}}, "a tile holds"),
        ({"choice": {"algorithm": "direct", "tile": 4}}, "TypeError"),
        ({"choice": "direct"}, "not a trial record"),
        ({"choice": {"tile": []}}, "algorithm"),
    ],
)
def test_records_of_another_form_are_refused(changes, text):
    with pytest.raises(ModelFileError, match=text):
        decode(_signed(_fields(RECORDS[1]) | changes))


@pytest.mark.parametrize(
    "changes", [{"choices": []}, {"choices": [{}]}, {"choices": 3}, {"tried": 0}, {"tried": True}, {"tried": 1.0}]
)
def test_verdicts_of_another_form_are_refused(changes):
    with pytest.raises(ModelFileError, match="not a verdict record"):
        decode(_signed(_fields(RECORDS[3]) | changes))


def test_a_missing_field_is_refused():
    data = _fields(RECORDS[1])
    del data["seconds"]
    with pytest.raises(ModelFileError, match="seconds"):
        decode(_signed(data))


@pytest.mark.parametrize("line", ["", "[]", "3", "null", "{}", '{"cnncc-tuning":1}', "\x00"])
def test_other_text_is_refused(line):
    with pytest.raises(ModelFileError):
        decode(line)


def test_what_is_kept_of_an_algorithm_comes_before_its_default():
    better = Measured(Choice("direct", (("vectors", 4),)), 1.8e-4, 1.5e-4, (1.05, 1.1, 1.2), True)
    slow, fast = RECORDS[3].choices
    verdict = Verdict("", PROBLEM, "", (slow, better, fast), 3)
    assert verdict.default is slow
    assert verdict.of("direct") is better
    assert verdict.of("winograd_f4") is fast
    assert verdict.of("pointwise") is None
    assert verdict.best is fast
    assert Verdict("", PROBLEM, "", (slow,), 1).best is slow
