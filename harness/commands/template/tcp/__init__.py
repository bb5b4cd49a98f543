"""A kata that speaks a protocol of its own over TCP."""
