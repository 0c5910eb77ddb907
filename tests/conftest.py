"Property tests draw the same examples in every run, and leave no database behind."

from hypothesis import settings

settings.register_profile("odeflow", database=None, derandomize=True, deadline=None)
settings.load_profile("odeflow")
