"""Measures of emotional intelligence that need no judge."""
