"""Bytes on sockets, recorded."""
