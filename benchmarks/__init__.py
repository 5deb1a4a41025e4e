"""Measurements, each against a named baseline in the same run."""

import sage_core  # noqa: F401 - before PyTorch: it sets how OpenMP's threads wait
