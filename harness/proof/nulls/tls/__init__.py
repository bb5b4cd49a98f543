"""Null programs that speak HTTP over TLS, with the certificate of the first site that SITES lists."""
