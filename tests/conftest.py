"""One pool for chapters and tests, the longest first. Property tests draw the same
examples in every run, and leave no database behind.
"""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("odeflow", database=None, derandomize=True, deadline=None)
settings.load_profile("odeflow")

HERE = Path(__file__).parent
# What takes longest, in falling order, from the report at the end of `make test`.
LONGEST = (HERE / "longest.txt").read_text().splitlines()
PLACE = {name: k for k, name in enumerate(LONGEST)}


@cache
def shares(file: str) -> bool:
    "Do the tests of a file share a fixture, which one process should make?"
    return 'scope="module"' in (HERE.parent / file).read_text()


def unit(nodeid: str) -> str:
    "What one process runs as a whole: a test, or a file whose tests share a fixture."
    file, _, _ = nodeid.partition("::")
    return file if shares(file) else nodeid


def pytest_collection_modifyitems(items):
    # what is not among the longest comes after them
    items.sort(key=lambda item: PLACE.get(unit(item.nodeid), len(PLACE)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Pool(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return unit(nodeid)

    config.option.loadscopereorder = False
    return Pool(config, log)
