"""Many runs: the grid of a sweep, the processes that run it, the named sweeps (ablations) beside this file.

Lives here: everything that knows more than one run before they are done. Must not: torch, tables.
"""
