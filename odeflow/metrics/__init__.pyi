"The public names of this part; `__init__.py` loads each when it is first used."

# ruff: noqa: F401
from .distances import (
    frechet_distance as frechet_distance,
    kid as kid,
    memorised as memorised,
    precision_recall as precision_recall,
    sliced_wasserstein as sliced_wasserstein,
)
from .features import (
    DigitsFeatures as DigitsFeatures,
    Inception as Inception,
)
from .evaluation import (
    fid as fid,
    measure as measure,
)
