"""What `fit` tells: the log, the chart, lines, the bar of a terminal."""

from __future__ import annotations

import pytest

from cnncc import optim
from cnncc.train import fit
from tests.train.fitting import SGD, X, Y, mlp, train


def test_log_and_chart(tmp_path):
    pytest.importorskip("matplotlib")
    _, history = train(epochs=3, log=tmp_path / "log.csv", plot=tmp_path / "loss.png")
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header.startswith("epoch,step,lr,loss,")
    assert "val_loss" in header.split(",")
    assert len(rows) == 3
    assert float(rows[1].split(",")[3]) == history.column("loss")[1]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv", "loss.png"]


def test_a_chart_is_refused_before_training(tmp_path, monkeypatch):
    from cnncc.errors import UnsupportedError

    called = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'cnncc\[plot\]'"):
        train(plot=tmp_path / "loss.png", on_epoch=called.append)
    assert not called


def test_lines(capsys):
    train(epochs=2, progress="lines")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  loss ")
    assert "val_accuracy" in second
    assert "images/s" in second


@pytest.mark.parametrize("length", [4, None])
def test_the_bar_of_a_terminal(length, capsys, monkeypatch):
    from cnncc.train import progress

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    data = (X, Y) if length else [(X[k : k + 16], Y[k : k + 16]) for k in range(0, 50, 16)].__iter__
    fit(mlp(), data if length else (lambda epoch: data()), optimizer=optim.SGD(**SGD), batch=16, epochs=2, threads=1,
        progress="bar")  # fmt: skip
    out = capsys.readouterr().out
    assert "epoch 1/2" in out
    assert "images/s" in out
    assert "loss" in out


def test_nothing_is_printed_to_a_pipe(capsys):
    train(epochs=1)
    assert capsys.readouterr().out == ""
