"""What shows that a kata judges rightly: its reference, planted mistakes, null programs, oracles, and load."""
