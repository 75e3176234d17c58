"""Supervised without colours: the labeled images as they are, whatever the protocol says.

Beside `supervised` under equal views it says what colour is worth. Under published views the two are one.
"""

from bench.contract import Views
from methods.supervised import Supervised


class SupervisedPlain(Supervised):
    views = Views(colours=False)
