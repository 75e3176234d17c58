"""Tensor functions and small stateful modules that methods share. B images, C classes, H W size."""
