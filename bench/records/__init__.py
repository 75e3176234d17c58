"""What is kept of a run: schemas, folders and their locks, finding results, provenance, atomic files.

Lives here: everything that knows a file name under runs/. Must not: torch, settings, methods, data sets.
"""
