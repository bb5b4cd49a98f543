"""The configuration lies beside it; this file does nothing."""
