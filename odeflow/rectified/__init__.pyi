"The public names of this part; `__init__.py` loads each when it is first used."

# ruff: noqa: F401
from .flow import (
    RectifiedFlow as RectifiedFlow,
)
from .coupling import (
    Coupling as Coupling,
    Paired as Paired,
    draw_coupling as draw_coupling,
)
from .reflow import (
    distill as distill,
    reflow as reflow,
    straightness as straightness,
)
from .transfer import (
    FeatureFlow as FeatureFlow,
    cycle_error as cycle_error,
    transport_cost as transport_cost,
)
