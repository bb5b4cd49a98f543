"""The behaviours of each kata, one module a kata, named like the kata."""
