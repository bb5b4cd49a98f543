"""An honest program that does something else first."""

import runpy

import attack

assert attack
runpy.run_path("honest.py", run_name="__main__")
