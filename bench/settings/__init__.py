"""All that a run is told: the schema of its settings, reading them, which source wins, names of methods and
data.

Lives here: every default that is not a method's own. Must not: files of runs; torch, until a method is
loaded.
"""
