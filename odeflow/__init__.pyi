"Every public name of the library; `__init__.py` loads each when it is first used."

# ruff: noqa: F401
from .flow import (
    Flow as Flow,
    Gaussian as Gaussian,
    GaussianFlow as GaussianFlow,
    Network as Network,
    Rng as Rng,
    from_config as from_config,
)
from .sampling import (
    SOLVERS as SOLVERS,
    Samples as Samples,
    VelocityField as VelocityField,
    check_flow as check_flow,
    encode as encode,
    integrate as integrate,
    sample as sample,
    solver as solver,
)
from .likelihood import (
    bits_per_dim as bits_per_dim,
    log_likelihood as log_likelihood,
)
from .data import (
    Data as Data,
    DataPrior as DataPrior,
    grid as grid,
    load_data as load_data,
    save_grid as save_grid,
    show as show,
)
from .nets import (
    DiT as DiT,
    MLP as MLP,
    Net as Net,
    UNet as UNet,
    load_net as load_net,
    save_net as save_net,
)
from .training import (
    Recipe as Recipe,
    TrainResult as TrainResult,
    train as train,
)
from .diffusion import (
    SubVP as SubVP,
    VE as VE,
    VP as VP,
    ddim as ddim,
    predictor_corrector as predictor_corrector,
)
from .poisson.field import (
    poisson_field as poisson_field,
)
from .poisson.prior import (
    FieldLines as FieldLines,
    RadialPrior as RadialPrior,
    sample_prior as sample_prior,
)
from .poisson.pfgm import (
    PFGM as PFGM,
)
from .poisson.pfgmpp import (
    PFGMPP as PFGMPP,
)
from .rectified.flow import (
    RectifiedFlow as RectifiedFlow,
)
from .rectified.coupling import (
    Coupling as Coupling,
    Paired as Paired,
    draw_coupling as draw_coupling,
)
from .rectified.reflow import (
    distill as distill,
    reflow as reflow,
    straightness as straightness,
)
from .rectified.transfer import (
    FeatureFlow as FeatureFlow,
    cycle_error as cycle_error,
    transport_cost as transport_cost,
)
from .metrics.distances import (
    frechet_distance as frechet_distance,
    kid as kid,
    memorised as memorised,
    precision_recall as precision_recall,
    sliced_wasserstein as sliced_wasserstein,
)
from .metrics.features import (
    DigitsFeatures as DigitsFeatures,
    Inception as Inception,
)
from .metrics.evaluation import (
    fid as fid,
    measure as measure,
)
from .records import (
    evaluate as evaluate,
    read_records as read_records,
    table as table,
)
from .pipeline import (
    Pipeline as Pipeline,
    pretrained as pretrained,
)
from .presets import (
    PRESETS as PRESETS,
    new_net as new_net,
    preset as preset,
)
from .experiment import (
    run as run,
)

__version__: str
