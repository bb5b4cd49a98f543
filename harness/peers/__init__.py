"""The parties that the harness plays around a solution, one file each."""
