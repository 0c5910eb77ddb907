"Put trained models of the results table into the package, in half precision: `python tests/ship.py runs/table`."
import sys
from pathlib import Path

from odeflow.pipeline import PRETRAINED, Pipeline

SHIPPED = {  # name in the package: run and folder in the table
    "digits-1-rf": "rf/1-RF", "digits-2-rf": "rf/reflow-1", "digits-2-rf-distilled": "rf/2-RF-distilled",
    "digits-vp": "vp/VP", "digits-pfgm": "pfgm/PFGM", "digits-pfgmpp-128": "pfgmpp-128/PFGM++-D=128"}

for name, run in SHIPPED.items():
    folder = Path(sys.argv[1])/run
    if folder.is_dir(): Pipeline.from_pretrained(folder).save_pretrained(PRETRAINED/name, half=True)
