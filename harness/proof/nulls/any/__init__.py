"""Null programs for every protocol."""
