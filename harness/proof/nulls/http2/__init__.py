"""Null programs that speak gRPC."""
