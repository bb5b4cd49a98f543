"""Null programs that speak HTTP."""
