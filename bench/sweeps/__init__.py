"""Many runs: the grid of a sweep, the processes here or the tasks of a cluster that run it, what it would
cost, and the named sweeps (ablations) beside this file.

Lives here: everything that knows more than one run before they are done. Must not: torch, tables.
"""
