"""nbdev's commands by the names that people type, or a sentence without nbdev."""

import importlib
import runpy
import sys
from pathlib import Path

TARGETS = {
    "nbdev_export": "nbdev.doclinks:nbdev_export",
    "nbdev_test": "nbdev.test:nbdev_test",
    "nbdev_clean": "nbdev.clean:nbdev_clean",
    "nbdev_docs": "nbdev.quarto:nbdev_docs",
    "nbdev_prepare": "nbdev.quarto:prepare",
}


def find(name):
    module, function = TARGETS[name].split(":")
    try:
        return getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "nbdev":
            raise
        sys.exit(
            f"{name}: nbdev is not installed; it comes with `pip install "
            "'odeflow[dev]'`, or with `make test` in a checkout"
        )


def main():
    "nbdev reads the words of a command only where a script's top level calls it."
    runpy.run_path(__file__, {"called": Path(sys.argv[0]).stem}, "__main__")


if __name__ == "__main__":
    sys.argv[0] = globals()["called"]
    command = find(sys.argv[0])
    sys.exit(command())
