"""Null programs that open WebSocket connections."""
