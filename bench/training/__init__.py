"""One run's training: the loop and its state, checkpoints, the log, the optimizer.

Lives here: the only calls of `optimizer.step()`. Must not: CAM seeds, tables, anything that knows other runs.
"""
