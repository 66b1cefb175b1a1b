"""Where the time of a compiled model goes: `cnncc profile MODEL --html FILE`.

    from cnncc.profile import profile, table, write_page, write_trace
    found = profile(executable, {"input": x})

clock.py      reading the clock between kernels, inside of a run
measure.py    the time of every kernel, its work, its bound; how well its threads are used
roof.py       what the machine can do at best: FMA peak and bandwidths, measured (bandwidth.py, cnncc.runtime.peak)
table.py      for the terminal
trace.py      for about:tracing and Perfetto
page.py       HTML with the roofline chart of chart.py
"""

from cnncc.profile.measure import KernelTime, Profile, profile
from cnncc.profile.page import page, write_page
from cnncc.profile.roof import Level, Roof, measure_roof
from cnncc.profile.table import table
from cnncc.profile.trace import trace, write_trace

__all__ = [
    "KernelTime",
    "Level",
    "Profile",
    "Roof",
    "measure_roof",
    "page",
    "profile",
    "table",
    "trace",
    "write_page",
    "write_trace",
]
