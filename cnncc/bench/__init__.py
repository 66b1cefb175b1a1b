"""Side-by-side timings: `cnncc bench MODEL --against torch,onnxruntime,openvino`.

model.py      MODEL and shapes --> files that every system can open, and the arrays they all get
macs.py       multiplications of an ONNX model, for the percent of the peak
client.py     starts a worker process and talks to it
worker.py     the process itself: `python -m cnncc.bench.worker`, JSON lines on stdin and stdout
systems/      one file per system: how it opens a model and runs it
rounds.py     run_bench: alternating rounds
results.py    the record of what came out, and its statistics
report.py     tables
plot.py       charts
"""

from cnncc.bench.report import markdown, table
from cnncc.bench.results import BenchResult, SystemResult
from cnncc.bench.rounds import run_bench
from cnncc.bench.systems import SYSTEMS

__all__ = ["SYSTEMS", "BenchResult", "SystemResult", "markdown", "run_bench", "table"]
