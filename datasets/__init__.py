"""The data that a run learns from: images, masks, image tags, and the splits that say who may see which
label.

What lives here:
    Data sets: `shapes` and `shapes21` (drawn by `generated`), `camvid`, `msrc21`, `voc`, `cityscapes`, and
        `folder`, for one of your own. A data set is a class with `ids`, `image`, `mask` and `tags`
        (`bench.contract.Dataset`).
    Splits: `splits` reads them, `draws` says which images other draws label, `ids` reads lists of ids.
        `splits_make` makes splits from masks, `splits_import` from lists. The lists themselves are in the
        folder datasets/splits/, which holds data and no code.
    What people write: `classes` (lists of classes), `list_lines` (lists of images), `tags`; `lookup` finds
        the file of an id, or says what lies there instead.
    What masks mean: `meaning` (dataset.yaml), `encodings` (palettes), `advice` (which lines would help).
        `convert` writes a clean folder, also from `coco` and `labelme`.
    From file to batch: `decode` (images and masks), `image_forms`, `views` (crops, flips, colours),
        `loaders`.
    `verify` checks and counts the files of a data set.

What may not: this package never imports a method, `bench.ops` or training code. `splits` imports neither
torch nor the two modules that write splits, so a run opens no label that its split does not grant.

The package shares its name with a popular one and must be imported from the checkout. README.md is the
manual.
"""
