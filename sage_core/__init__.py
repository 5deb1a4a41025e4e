"""The method as a library.

Importing it sets how OpenMP's threads wait, for this process and for all that it starts, unless the
environment says otherwise. By default they spin, and beside other work on the same cores a step of
generation then takes several times as long. PyTorch's OpenMP (libgomp) reads both variables
when it is loaded, so this is the one place that is early enough for every entry point: all of them
import `sage_core` before PyTorch. A program that has imported PyTorch before `sage_core` has to set
them itself.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")  # it overrules the policy
