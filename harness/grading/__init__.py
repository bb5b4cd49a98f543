"""Submissions in, signed results out: who handed in what, one worker a submission, one model, many formats."""
