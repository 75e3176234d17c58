"""Plots of one comparable group: each file here returns pictures as data, and `figure` alone draws them.

No file of a run is opened here, and no number of a table is computed.
"""
