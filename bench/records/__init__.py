"""The records that are kept of a run: schemas, folders and their locks, finding results, provenance, atomic
files.

Lives here: everything that knows a file name under runs/. Must not: settings, methods, data sets;
torch, but for its version in provenance.
"""
