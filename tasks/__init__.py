"""Prefect tasks: each loads its inputs, calls one function of ``sage_core`` and saves."""
