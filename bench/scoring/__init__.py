"""The worth of trained weights: inference, counts, mIoU, multi-scale and CRF, looks at single images.

Lives here: everything that only predicts, and the picture sheet of what it says. Must not: training, tables.
"""
