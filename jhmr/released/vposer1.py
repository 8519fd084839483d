"""The first release of VPoser, of SMPL-X and SMPLify-X: `vposer_v1_0`."""

from jhmr.released import vposer

INSIDE, CONFIG, SYSTEMS, IGNORED = vposer.INSIDE, vposer.CONFIG, vposer.SYSTEMS, vposer.IGNORED
SETTINGS = ("net.version=1",)
convert, entries = vposer.convert, vposer.entries
