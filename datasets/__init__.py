"""What a run learns from: images, masks, image tags, and the splits that say who may see which label.

A data set is a class with `ids`, `image` and `mask` (`bench.contract.Dataset`); `folder.Folder` reads any
folder of images and masks, `voc` and `cityscapes` read those two as they are given out. Splits live in
`split_lists`, which needs no torch. This package shares its name with a popular one and must be imported
from the checkout.
"""
