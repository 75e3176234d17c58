"""Tables of one comparable group: a file for each kind, and the forms in which all are written.

Draws nothing, and reads no file of a run.
"""
