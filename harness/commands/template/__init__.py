"""What `kata new` copies: a kata that is small but works, for each protocol a folder.

`kata_name`, `Kata name` and `skeleton_digest` are replaced.
"""
