"""Null programs: they listen and do nothing useful, so no behaviour may hold for them.

`any` holds those that fit every protocol, and so they listen on TCP and UDP; the other folders are named as a kata's
`speaks`. Each file is a program of its own that needs only the standard library, ends politely at SIGTERM, and blocks
without timers, so that a verdict on it comes at once.
"""
