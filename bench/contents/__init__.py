"""Digests of all that a run was made of: the code that decides its number, the images and masks it opened.

Lives here: digests of files and of source, what a run's plan comes to in them, what has changed since. Must
not: training, scoring, tables. The schema of the digests is bench.records.schema.Contents.
"""
