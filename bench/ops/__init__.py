"""Tensor functions and small stateful modules that methods share. B images, C classes, H W size.

Lives here: what has one meaning in every method. Must not: know a method, a data set, a run or a file.
"""
