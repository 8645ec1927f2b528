"""Fuzzing of every parser: mutated files in worker processes; see scripts/fuzz.py."""
