"""Put trained models into the package, in half precision:
`python tools/ship.py runs/table`, or `runs/models`.
"""

import sys
from pathlib import Path

from odeflow.data import DataPrior, load_data
from odeflow.pipeline import Pipeline, PRETRAINED

threes = DataPrior(load_data("digits-train/3"))
SHIPPED = {  # name in the package: folder of the run, below the one that is given
    "digits-1-rf": "rf-0/1-RF",
    "digits-2-rf": "rf-0/reflow-1",
    "digits-2-rf-distilled": "rf-0/2-RF-distilled",
    "digits-vp": "vp-0/VP",
    "digits-pfgm": "pfgm-0/PFGM",
    "digits-pfgmpp-128": "pfgmpp-128-0/PFGM++-D=128",
    "digits-1-rf-classes": "rf-classes/1-RF",
    "digits-vp-classes": "vp-classes/VP",
    "digits-3-to-8": "transfer/1-RF",
    "digits-3-to-8-2-rf": "transfer/reflow-1",
    "digits-3-to-8-feature": "transfer-feature/1-RF",
}

for name, run in SHIPPED.items():
    folder = Path(sys.argv[1]) / run
    if folder.is_dir():
        Pipeline.from_pretrained(
            folder, prior=threes if "-to-" in name else None
        ).save_pretrained(PRETRAINED / name, half=True)
