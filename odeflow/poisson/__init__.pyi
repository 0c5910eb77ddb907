"The public names of this part; `__init__.py` loads each when it is first used."

# ruff: noqa: F401
from .field import (
    poisson_field as poisson_field,
)
from .prior import (
    FieldLines as FieldLines,
    RadialPrior as RadialPrior,
    sample_prior as sample_prior,
)
from .pfgm import (
    PFGM as PFGM,
)
from .pfgmpp import (
    PFGMPP as PFGMPP,
)
