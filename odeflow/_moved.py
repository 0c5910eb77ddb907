"""Where names of the first release live now: their old paths work, with a warning."""

import importlib
import sys
import types
import warnings
from importlib.machinery import ModuleSpec

# modules that are no more -> where their names are looked for
MODULES = {
    "solve": ("sampling", "likelihood"),
    "train": ("training", "distributed", "runs", "presets"),
    "sde": ("diffusion",),
    "field": ("poisson.field",),
    "prior": ("poisson.prior",),
    "pfgm": ("poisson.pfgm",),
    "pfgmpp": ("poisson.pfgmpp",),
    "reflow": ("rectified.reflow", "rectified.coupling"),
    "transfer": ("rectified.transfer", "rectified.coupling"),
    "report": ("records", "runs", "distributed"),
}


def look_up(old, homes):
    "The `__getattr__` of a module whose names have moved."

    def get(name):
        for home in homes if not name.startswith("__") else ():
            module = importlib.import_module(f"odeflow.{home}")
            if hasattr(module, name):
                said = f"odeflow.{old}.{name} has moved to odeflow.{home}.{name}"
                warnings.warn(said, FutureWarning, stacklevel=2)
                return getattr(module, name)
        raise AttributeError(f"module 'odeflow.{old}' has no attribute {name!r}")

    return get


class _Old(types.ModuleType):
    "A module that is no more; where a function has its name, it can be called."

    def __call__(self, *args, **kwargs):
        name = self.__name__.rpartition(".")[2]
        return getattr(self, name)(*args, **kwargs)


class _Finder:
    "Finds the modules that are no more."

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == "odeflow" and name in MODULES:
            return ModuleSpec(fullname, _Finder)  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec):
        return _Old(spec.name)

    @staticmethod
    def exec_module(module):
        old = module.__name__.rpartition(".")[2]
        module.__getattr__ = look_up(old, MODULES[old])


def install():
    "Once, when the package is imported."
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)
