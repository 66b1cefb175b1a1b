"""The scripts in benchmarks/ run and say what they should, on the smallest of inputs. No test looks at a time."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from benchmarks import bound, charts, fft, kernels, onednn, zoo
from cnncc.bench import BenchResult, SystemResult
from cnncc.bench.machine import describe_machine

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs torch")


def result(net: str, ratios: dict[str, float], threads: int = 2, batch: int = 1, instances: int = 1) -> BenchResult:
    """A result with these ratios to cnncc."""
    systems = [
        SystemResult(
            *(name, "ok", "", "1.0", 1.0, 0.01 * ratio, 0.02 * ratio, 0.01 * ratio, 9, 50.0, ratio, ratio, ratio, 0.0),
            ratio_low=0.9 * ratio,
            ratio_high=1.1 * ratio,
            images_per_second=100 / ratio,
            at_once=instances,
        )
        for name, ratio in {"cnncc": 1.0, **ratios}.items()
    ]
    absent = SystemResult("ncnn", "missing", "not installed: ncnn")
    shapes = {"x": (batch, 3, 8, 8)}
    return BenchResult(
        *(f"{net} x{batch}", shapes, threads, "cnncc", 10**9, 2e11, "", describe_machine(), (*systems, absent)),
        settings={"clock": "wall"},
        instances=instances,
    )


RESULTS = [
    result("resnet18", {"torch": 2.0, "openvino": 1.2, "cnncc-strict": 1.1}),
    result("vgg16", {"torch": 3.0, "onnxruntime": 1.5}),
    result("resnet18", {"torch": 2.0}, batch=8),
    result("resnet18", {"openvino": 1.25}, threads=1, instances=2),
    result("unet", {"openvino": 1.5}, threads=1, instances=2),
]


def test_results_are_read_back_as_they_were_written(tmp_path):
    path = tmp_path / "results" / "2026-01-02-machine.json"
    zoo.write(path, describe_machine(), RESULTS)
    again = zoo.read(path)
    assert sorted(r.model for r in again) == sorted(r.model for r in RESULTS)
    first = next(r for r in again if r.model == "vgg16 x1")
    assert first["onnxruntime"].ratio == 1.5
    text = path.with_suffix(".md").read_text()
    assert "| vgg16 x1 | 2 | 2.00 | 200 | **10.00 (10.00)** |" in text
    assert "| unet x1 | 2 x 1 |" in text
    assert zoo.read(tmp_path / "nowhere.json") == []


def test_committed_results_can_be_read():
    for path in zoo.FOLDER.glob("*.json"):
        assert zoo.read(path)


def test_charts_are_of_two_networks_or_more():
    assert {name: [r.model for r in made] for name, made in charts.groups(RESULTS).items()} == {
        "speed-threads2-batch1": ["resnet18 x1", "vgg16 x1"],
        "throughput-2x1-batch1": ["resnet18 x1", "unet x1"],
    }


def test_the_fastest_peer_is_another_system():
    assert charts.best(RESULTS[0]) == 1.2  # cnncc-strict is none
    assert charts.geometric_mean([1.2, 1.5]) == pytest.approx(1.3416, abs=1e-4)


def test_charts_are_drawn_by_one_command(tmp_path, capsys):
    pytest.importorskip("matplotlib.pyplot")
    source = tmp_path / "2026-01-02-machine.json"
    zoo.write(source, describe_machine(), RESULTS)
    assert charts.newest(tmp_path) == source
    charts.main([str(source), "--folder", str(tmp_path)])
    drawn = [tmp_path / "speed-threads2-batch1.svg", tmp_path / "throughput-2x1-batch1.svg"]
    assert capsys.readouterr().out.split() == [str(path) for path in drawn]
    text = drawn[0].read_text()
    for part in ("ResNet-18", "VGG-16", "openvino", "2 threads, batch 1", "2026-01-02", "geometric mean: 1.34"):
        assert part in text
    assert "ncnn" not in text
    assert "2 instances of 1 thread" in drawn[1].read_text()


def test_no_results_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m benchmarks\.zoo"):
        charts.newest(tmp_path)


@needs_torch
@pytest.mark.parametrize(
    "text",
    [
        "conv n2 ic16 h9 w8 oc16 k3x3 s1x1 p1x1",
        "conv n1 ic8 h9 w9 oc8 k3x3 s2x2 p0x0:1x1 g8",
        "conv n1 ic4 w30 oc8 k5 s1 p2 d2",
        "conv n1 ic16 d4 h6 w6 oc16 k3x3x3 s1x1x1 p1x1x1",
    ],
)
def test_forms_of_onednn_agree(text):
    import torch

    problem = onednn.parse(text)
    forms = onednn.forms_of(problem)
    assert set(forms) == ({"eager", "packed"} if problem.rank > 1 else {"eager"})
    with torch.inference_mode():
        made = [form() for form in forms.values()]
    for y in made:
        assert tuple(y.shape) == (problem.n, problem.oc, *problem.out)
        assert float(y.min()) == 0
        torch.testing.assert_close(y.contiguous(), made[0].contiguous(), rtol=1e-4, atol=1e-4)


@needs_torch
def test_products_in_torch():
    import torch

    with torch.inference_mode():
        assert onednn.forms_of(onednn.parse("matmul m4 k8 n6 nk"))["eager"]().shape == (4, 6)
        assert onednn.forms_of(onednn.parse("matmul b3 m4 k8 n6 kn"))["eager"]().shape == (3, 4, 6)


@needs_torch
def test_kernels_beside_onednn(capsys):
    arguments = ["conv n1 ic16 h8 w8 oc16 k1x1 s1x1 p0x0", "--seconds", "0.01", "--against", "torch"]
    assert kernels.main([*arguments, "--target", "avx2", "--algorithm", "direct,pointwise,depthwise"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("torch ")
    assert "depthwise: " in lines[1]  # asked for by name, it says why it does not apply
    timed = [line for line in lines if " us " in line]
    assert [line.split("p0x0")[1].split(" t1 ")[0].strip() for line in timed] == [
        "direct",
        "pointwise",
        "torch eager",
        "torch packed",
    ]
    assert all("of our best" in line for line in timed[2:])


def test_a_zoo_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    asked = []

    def fake(model, against, threads, rounds, seconds, **options):
        asked.append((options["label"], threads, options["instances"]))
        name, batch = options["label"].split(" x")
        return result(name, {"openvino": 1.5}, threads, int(batch), options["instances"])

    monkeypatch.setattr(zoo, "run_bench", fake)
    arguments = ["--nets", "lenet5,unet", "--threads", "1", "--batch", "1,8", "--instances", "1,2"]
    arguments += ["--against", "openvino", "--folder", str(tmp_path)]
    zoo.main(arguments)
    wanted = [(f"{net} x{batch}", 1, k) for k in (1, 2) for batch in (1, 8) for net in ("lenet5", "unet")]
    assert asked == wanted
    zoo.main(arguments)
    assert asked == wanted
    zoo.main([*arguments, "--again"])
    assert asked == [*wanted, *wanted]
    (path,) = tmp_path.glob("*.json")
    assert len(json.loads(path.read_text())["results"]) == len(wanted)


@needs_torch
def test_bound_of_a_network_is_summed_over_its_kernels(capsys, monkeypatch):
    monkeypatch.setattr(bound, "SECONDS", 0.01)
    bound.main(["--nets", "lenet5"])
    *_, line = capsys.readouterr().out.strip().splitlines()
    network, batch, threads, took, least, share, _, alone, rest = line.split()
    assert (network, batch, threads) == ("lenet5", "x1", "1")
    assert 0 < float(least) <= float(alone) + float(rest) + 0.011  # two decimals each
    assert float(took) > 0
    assert int(share) > 0


def test_fourier_transforms_beside_others(capsys):
    assert fft.main(["--kernels", "5", "--only", "depthwise", "--seconds", "0.001", "--target", "avx2"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1:3] for row in rows[2:]] == [
        [" 56x56x128 depthwise ", " 5x5 "],
        [" 28x28x256 depthwise ", " 5x5 "],
        [" 14x14x512 depthwise ", " 5x5 "],
    ]
    assert all("depthwise" in row.split("|")[3] for row in rows[2:])
