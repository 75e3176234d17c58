"""From image tags to CAM seeds: activation maps, thresholds, refinement, and how good the seeds are. And from
boxes to seeds.

Lives here: everything between a trained classifier and a seed. A process of the pool
in `refine` imports no network. Must not: the training loop; bench/pipeline.py hands in the classifier's run.
"""
