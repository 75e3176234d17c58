"""The network that every method trains: encoder, decoder, heads, weights, and the file a run keeps.

Lives here: everything that builds or reads a network. Must not: losses, data sets, files of runs.
"""
