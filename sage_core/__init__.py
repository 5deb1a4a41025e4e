"""The method as a library: its public names are in the stub beside this file, and in
`docs/library.md`.

Importing it sets how OpenMP's threads wait, for this process and for all that it starts, unless the
environment says otherwise. By default they spin, and beside other work on the same cores a step of
generation then takes several times as long; here they spin for some microseconds only. PyTorch's
OpenMP (libgomp) reads both variables when it is loaded, so this is the one place that is early
enough for every entry point: all of them import `sage_core` before PyTorch. A program that has
imported PyTorch before `sage_core` has to set them itself.
"""

import os

from sage_core.lazy import lazily

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# It overrules the policy. 64 rows of the embedded model on two cores, tokens per second:
#                              alone   beside two busy processes
#   default (300,000 or more)    585   99 to 146
#   0                            295   227 to 292
#   10,000                       553   159 to 226
# Where waking a thread is slow, as on many virtual machines, no spinning at all halves the speed.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__getattr__, __dir__ = lazily(__name__)
