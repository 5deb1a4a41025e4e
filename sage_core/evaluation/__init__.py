"""Honest comparison of models: rollouts, pairwise judges, win rates, figures, report."""
