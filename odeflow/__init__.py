__version__ = "0.1.0"

from odeflow import solve  # registers the solvers of odeflow.flow.sample
