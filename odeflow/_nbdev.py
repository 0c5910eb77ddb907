"""nbdev's commands by the names that people type, or a sentence without nbdev."""

import importlib
import sys

TARGETS = {
    "nbdev_export": "nbdev.doclinks:nbdev_export",
    "nbdev_test": "nbdev.test:nbdev_test",
    "nbdev_clean": "nbdev.clean:nbdev_clean",
    "nbdev_docs": "nbdev.quarto:nbdev_docs",
    "nbdev_prepare": "nbdev.quarto:prepare",
}


def _run(name):
    module, function = TARGETS[name].split(":")
    try:
        command = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] != "nbdev":
            raise
        sys.exit(
            f"{name}: nbdev is not installed; it comes with `pip install "
            "'odeflow[dev]'`, or with `make test` in a checkout"
        )
    return command()


def nbdev_export():
    return _run("nbdev_export")


def nbdev_test():
    return _run("nbdev_test")


def nbdev_clean():
    return _run("nbdev_clean")


def nbdev_docs():
    return _run("nbdev_docs")


def nbdev_prepare():
    return _run("nbdev_prepare")
