"""The second release of VPoser: `V02_05`."""

from jhmr.released import vposer

INSIDE, CONFIG, SYSTEMS, IGNORED = vposer.INSIDE, vposer.CONFIG, vposer.SYSTEMS, vposer.IGNORED
SETTINGS = ("net.version=2",)
convert, entries = vposer.convert, vposer.entries
