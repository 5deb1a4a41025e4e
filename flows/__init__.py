"""Prefect flows: the method, from top to bottom."""
