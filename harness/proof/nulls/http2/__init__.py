"""Null programs that speak HTTP/2, and gRPC on it."""
