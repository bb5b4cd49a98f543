"""A kata that is run again whenever a file of it is saved: what `kata watch` is made of.

One thread waits for saves, keys and results in one `select`; runs take place in processes that are forked from a warm
one, and are interrupted when they are out of date.
"""
