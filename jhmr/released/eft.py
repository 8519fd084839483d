"""A network of EFT's model zoo: SPIN's, whose cameras project to s X + t in place of s (X + t).

Source: EFT (Joo et al. 2020), authors' `eft/utils/imutils.py` and `train/eftFitter.py` for the projection.
"""

from jhmr.released import spin

INSIDE, CONFIG, SYSTEMS, IGNORED = spin.INSIDE, spin.CONFIG, spin.SYSTEMS, spin.IGNORED
SETTINGS = (*spin.SETTINGS, "camera_convention=eft")
convert, entries = spin.convert, spin.entries
