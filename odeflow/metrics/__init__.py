"How far apart two sets of samples are, and how sure one is of it."

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
