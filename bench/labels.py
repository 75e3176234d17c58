"""The knowledge of labels that every room may have. Imports nothing of ours."""

from typing import Final, NamedTuple

IGNORE: Final = 255  # the id of a pixel without a label: never scored, never learned

# What the images are called that a method asks for, by what their split grants of them.
STREAMS: Final = {"pixel": "labeled", "tags": "tagged", "none": "unlabeled"}

# Labels that say something of some pixels of an image. Points and strokes are class ids, 255 elsewhere.
POINTS, SCRIBBLES, BOXES = "points", "scribbles", "boxes"
DRAWN: Final = (POINTS, SCRIBBLES)
SPARSE: Final = (*DRAWN, BOXES)

# Seconds to label an image of VOC 2012, rounded: what is taken where a data set says nothing else. Masks,
# tags, points and strokes (its squiggles) are those of Bearman et al. (ECCV 2016). A box takes 7 s
# (Papadopoulos et al., ICCV 2017); an image has 2.4 objects, whose classes are known after the 20 s of tags.
# The numbers of points, of strokes and of objects an image are from memory: their papers were not at hand.
LABEL_SECONDS: Final = {"pixel": 240.0, "tags": 20.0, POINTS: 22.0, SCRIBBLES: 35.0, BOXES: 37.0}


class Box(NamedTuple):
    """The pixels of rows [top, bottom) and columns [left, right), in which an object of a class lies."""

    label: int
    top: int
    left: int
    bottom: int
    right: int
