"""What the public functions of functional/ and coding/ return, in float64 NumPy: the references of fuzz_functions.py.

A reference takes the arguments and the result, in float64, and returns the result that is right; or None, after it has
asserted what holds for every draw. It raises Undefined where nothing is promised.
"""

from tests.references import coding, images, masks_and_learning, measures, noise, patches, ragged, selection, sound
from tests.references.reference import REFERENCES, Undefined

__all__ = [
    "REFERENCES",
    "Undefined",
    "coding",
    "images",
    "masks_and_learning",
    "measures",
    "noise",
    "patches",
    "ragged",
    "selection",
    "sound",
]
