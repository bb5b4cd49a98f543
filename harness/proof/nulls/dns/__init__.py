"""Null programs that speak DNS."""
