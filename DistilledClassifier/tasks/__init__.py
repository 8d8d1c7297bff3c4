"""The tasks of classification, for the one loop that trains everything.

A new task is a module here and its entry in TASKS; a config chooses it by ``task: NAME``. It takes
the network, the preprocessing and the losses of the config, and has what `Classify` has.
"""

from DistilledClassifier.tasks.classify import Classify

TASKS = {"classify": Classify}
