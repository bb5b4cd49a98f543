"""What a teacher hands on: a starter repository without what is hidden, and an autograder for Gradescope.

    public.py      the source of behaviours, cut down to what students may see
    kit.py         the files of the kit for one kata
    wheel.py       a wheel of them, and zips
    starter.py     the repository that students begin with, and the check that nothing hidden is in it
    gradescope.py  the zip that Gradescope builds an autograder from
    files/         what is copied as it stands, and the templates

Both carry the kit that made them, so that what students try and what grades them is one and the same version.
"""
