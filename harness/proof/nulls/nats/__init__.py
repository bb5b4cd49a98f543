"""Null programs that speak the NATS client protocol."""
