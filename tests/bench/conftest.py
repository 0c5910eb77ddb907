"What the benchmarks share: a place for their figures."

import json
import os
from pathlib import Path

import pytest
import torch


def cells(row):
    return "   ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
    )


@pytest.fixture
def record(request, benchmark):
    """Keeps a benchmark's figures, a list of dicts: printed, in pytest-benchmark's
    `extra_info`, and as NAME.json in the folder that $ODEFLOW_BENCH names.
    """

    test = request.node.originalname.removeprefix("test_")

    def keep(rows, name=test):
        print(f"\n{name}", *map(cells, rows), sep="\n  ")
        benchmark.extra_info["rows"] = rows
        if not (folder := os.environ.get("ODEFLOW_BENCH")):
            return
        path = Path(folder) / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n"
        )

    return keep


@pytest.fixture(params=(1, 2))
def threads(request):
    "One thread, then two."
    old = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(old)
