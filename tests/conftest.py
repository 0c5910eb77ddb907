"""One pool for chapters and tests, the longest first. Property tests draw the same
examples in every run, and leave no database behind.
"""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("odeflow", database=None, derandomize=True, deadline=None)
settings.load_profile("odeflow")

HERE = Path(__file__).parent
# What takes longest, in falling order, from the report at the end of `make test`.
LONGEST = (HERE / "longest.txt").read_text().splitlines()


def unit(nodeid: str) -> str:
    "What one process runs as a whole: a test, or a file whose tests share a fixture."
    file, _, _ = nodeid.partition("::")
    return file if 'scope="module"' in (HERE.parent / file).read_text() else nodeid


def rank(item) -> int:
    "The place of its unit among the longest; what is not there comes after them."
    return LONGEST.index(own) if (own := unit(item.nodeid)) in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items):
    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class Pool(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return unit(nodeid)

    config.option.loadscopereorder = False
    return Pool(config, log)
