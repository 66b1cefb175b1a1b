"""Results of benchmarks: their arithmetic, records, tables and charts."""

from __future__ import annotations

import json
from importlib.util import find_spec
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from cnncc.bench import BenchResult, markdown, table
from cnncc.bench.plot import check_plot, plot
from cnncc.bench.results import Round, difference, interval, summarise
from cnncc.errors import UnsupportedError
from tests.bench.records import found


def test_difference_is_of_the_largest_magnitude():
    base = [np.array([4.0, 0.0], np.float32)]
    assert difference([np.array([[4.0], [1.0]], np.float32)], base) == 0.25
    assert difference([], base) is None


def _shown(result: BenchResult, width: int) -> str:
    out = StringIO()
    Console(width=width, file=out).print(table(result))
    return out.getvalue()


def test_result_as_table_and_json():
    result = found()
    text = _shown(result, 160)
    assert "2.00 GFLOP, peak 200 GFLOP/s" in text
    assert "ncnn: missing: not installed: ncnn" in text
    assert "torch-channels-last: its outputs differ from those of cnncc by 5.0e-01" in text
    assert "| m | 2 | 2.00 | 200 | **1.00 (0.90)** | 123.46 (12.30) | missing |" in markdown([result])
    again = json.loads(json.dumps(result.to_dict()))
    assert again["systems"][0]["median"] == 1e-3
    assert again["shapes"] == {"x": [1, 3]}
    assert BenchResult.from_dict(again)["cnncc"].p99 == 3e-3


def test_records_of_older_versions_are_read():
    data = found().to_dict()
    del data["instances"]
    for system in data["systems"]:
        for field in ("p99", "ratio_low", "ratio_high", "peak_bytes", "held_bytes", "images_per_second", "at_once"):
            del system[field]
    assert BenchResult.from_dict(data)["cnncc"].p99 is None


@pytest.mark.parametrize("instances", [1, 3])
@pytest.mark.parametrize("width", [80, 160])
def test_table_is_whole_in_80_columns(instances, width):
    lines = [line.rstrip() for line in _shown(found(instances), width).splitlines()]
    assert all(len(line) <= 80 for line in lines)
    assert not any("…" in line for line in lines)
    (row,) = [line for line in lines if line.startswith("torch ")]
    cells = ["12.3", "11.2-13.5", "123.4", "1234"]
    cells += ["0.81", "123.46", "1234"] if instances > 1 else ["123.46", "234.56", "1234", "12.30"]
    assert all(cell in row for cell in cells)
    assert lines[1].startswith(f"{instances} instances of 2 threads" if instances > 1 else "2 threads")


def test_throughput_has_a_markdown_table_of_its_own():
    single, several = markdown([found(2), found()]).split("\n\n")
    assert "**1.00 (0.90)**" in single
    assert "| m | 2 x 2 | 2.00 | 200 | **1234.0 (3.00)** | 0.8 (1234.50) | missing |" in several


def test_interval_is_of_paired_rounds():
    base = [1.0, 2.0, 4.0, 1.0, 3.0]  # what disturbs a round disturbs both
    assert interval([2 * b for b in base], base) == (2.0, 2.0)
    low, high = interval([1.0, 1.1, 1.2, 1.3, 1.4] * 4, [1.0] * 20)
    assert 1.0 <= low < 1.2 < high <= 1.4
    assert interval([1.0], [2.0]) is None


def test_rounds_become_a_record():
    opened = {"version": "1", "seconds": 2.0}
    base = [Round([0.1, 0.2, 0.3], 0.6, 3.0), Round([0.2, 0.2], 0.4, 2.0)]
    one = summarise("a", opened, [Round([0.4], 0.4, 1.0), Round([0.2, 0.6], 0.8, 2.0)], base, 0.1, batch=8)
    assert (one.median, one.minimum, one.ratio, one.runs) == (0.4, 0.2, 2.0, 3)
    assert one.peak_percent == pytest.approx(25)
    assert one.images_per_second == 20
    many = summarise("b", opened, [Round([0.4] * 4, 0.8, 4.0, 2)] * 2, [Round([0.4] * 4, 0.4, 4.0, 4)] * 2, None, 1)
    assert (many.ratio, many.images_per_second, many.at_once, many.peak_percent) == (2.0, 5.0, 2, None)


@pytest.mark.skipif(not find_spec("matplotlib"), reason="needs matplotlib")
@pytest.mark.parametrize("instances", [1, 2])
def test_charts_are_written(tmp_path, instances):
    pytest.importorskip("matplotlib.pyplot")
    for name in ("a.svg", "b.svg", "c.png"):
        plot(found(instances), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert "torch-channels-last" in text
    assert "(x 12.35, 11.25 to 13.50)" in text or "(x 12.34, 11.25 to 13.50)" in text
    assert ("images per second" in text) == (instances > 1)
    assert text == (tmp_path / "b.svg").read_text()
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_charts_that_cannot_be_written_are_refused_first(tmp_path, monkeypatch):
    with pytest.raises(UnsupportedError, match=r"must end with \.png or \.svg, got \.pdf"):
        check_plot(tmp_path / "a.pdf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"charts need matplotlib.*cnncc\[plot\]"):
        check_plot(tmp_path / "a.png")
