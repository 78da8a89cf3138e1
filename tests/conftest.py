"""Settings that every test process shares; they must come before Keras is imported."""

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "agg")

if os.environ["KERAS_BACKEND"] != "tensorflow":
    # The core must run where TensorFlow is not installed; here it is, so its import is made to fail.
    sys.modules["tensorflow"] = None

from hypothesis import settings

# Derandomised: the suite gives the same answer twice. No deadline: the first call of an op traces or compiles.
settings.register_profile("suite", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("suite")
