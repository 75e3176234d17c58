"""Plots of one comparable group: each file here returns pictures as data, and `figure` alone draws them.
Photographs and label maps are drawn as the picture sheets of runs are.

No file of a run is opened here, and no number of a table is computed.
"""
