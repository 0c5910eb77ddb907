"""`python -m odeflow`, `torchrun -m odeflow`: the command line."""

import sys

from odeflow.cli import main

if __name__ == "__main__":
    sys.exit(main())
