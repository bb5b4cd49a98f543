"""A kata that speaks HTTP."""
