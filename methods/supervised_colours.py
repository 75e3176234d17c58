"""Supervised with colours: the labeled images, coloured as strong views are, whatever the protocol says.

What colour gives without one unlabeled image: a method with strong views is read against it, not against
`supervised` alone. Under equal views the two are one.
"""

from bench.contract import Views
from methods.supervised import Supervised


class SupervisedColours(Supervised):
    views = Views(colours=True)
