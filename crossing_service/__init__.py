"""Candidates in, scores out: the half of CrossKV that a ranking request meets."""
