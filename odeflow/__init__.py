"""Generative models in ODE form: a prior, a field and a clock.

`import odeflow as of` offers the names in `__init__.pyi`; each is loaded when it is
first used, so that importing the package takes no time.
"""

import lazy_loader

from . import _moved

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
_moved.install()
