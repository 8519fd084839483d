"""What rendered people look like: clothes, light, backgrounds, occluders, the camera's noise.

Everything is procedural and drawn for one example from uniform numbers, so one image is a function of its key alone.
Colours are RGB in 0..1. `grid` is [S, S, 2]: x and y of the pixel centres in 0..1 over the crop, y down.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jhmr.body import joints

# Skin, between these two by a uniform number; hair is one of four.
SKIN_LIGHT, SKIN_DARK = (0.97, 0.80, 0.70), (0.30, 0.18, 0.12)
HAIR = ((0.06, 0.05, 0.05), (0.26, 0.16, 0.09), (0.72, 0.56, 0.30), (0.55, 0.53, 0.52))
EYE_RADIUS_M = 0.013
# By part (SMPL joint) without its side: 0 skin, 1 shirt, 2 trousers, 3 shoes, 4 forearm, 5 shin, 6 upper arm.
_GROUPS = {
    "pelvis": 2, "hip": 2, "knee": 5, "ankle": 3, "foot": 3, "spine1": 1, "spine2": 1, "spine3": 1, "collar": 1,
    "shoulder": 6, "elbow": 4, "wrist": 0, "hand": 0, "neck": 0, "head": 0}
PART_GROUPS = np.array([_GROUPS[n.removeprefix("left_").removeprefix("right_")] for n in joints.SMPL24], np.int32)
NUM_CLUTTER, NUM_OCCLUDERS = 7, 2
CLOTHES_U, LIGHT_U, BACKGROUND_U, SHAPE_U, CAMERA_U = 36, 9, 24, 10, 8
# Uniform numbers of the one outfit and the empty studio that are left when nothing varies.
OUTFIT = np.full(CLOTHES_U, 0.5, np.float32)
OUTFIT[:30] = (0.15, 0.5, 0.1, 0.2, 0.5, 0.5,                 # light skin, dark hair
               0.0, 0.9, 0.85, 0.5, 0.5, 0.0, 0.5, 0.5,       # a plain red shirt
               0.4, 0.6, 0.5, 0.9, 0.5, 0.5, 0.5, 0.5,        # blue trousers
               0.1, 0.1, 0.95, 0.2, 0.9, 0.9, 0.9, 0.9)       # white shoes, short sleeves
STUDIO = {"light": np.full(LIGHT_U, 0.5, np.float32), "background": np.full(BACKGROUND_U, 0.5, np.float32),
          "shapes": np.tile(np.where(np.arange(SHAPE_U) == 7, 0.99, 0.5), NUM_CLUTTER + NUM_OCCLUDERS)}
_OCTAVES = (3, 7, 17)  # cells a side of the background's noise


def towards(u, typical, variety):
  """Uniform numbers pulled to typical ones: untouched at variety 1, those at 0."""
  return jnp.asarray(typical, jnp.float32) + variety * (u - typical) if variety < 1 else u


def split(u, **sizes):
  """Cuts a vector of uniform numbers [n] into named pieces, in order: {name: [size]}."""
  ends = np.cumsum(list(sizes.values()))
  return dict(zip(sizes, jnp.split(u[:ends[-1]], ends[:-1])))


def _hsv(h, s, v):
  """HSV in 0..1 -> RGB [3]. Source: the usual hexagon, written without branches."""
  k = (jnp.array([5.0, 3.0, 1.0]) + 6.0 * h) % 6.0
  return v - v * s * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)


def _mix(a, b, t):
  return (1.0 - t) * jnp.asarray(a) + t * jnp.asarray(b)


def wardrobe(u):
  """Colours and patterns of one person from u [CLOTHES_U].

  Returns:
    dict: "colors" [24, 2, 3] of each part (ground and pattern), "pattern" [24, 5] (frequency along x, y in cycles per
    metre, share of the pattern's colour, phase, checks or stripes), "hair" [3], "hairline" [3], "skin" [3].
  """
  c = split(u, skin=2, hair=4, shirt=8, trousers=8, shoes=3, cut=5)
  skin = _mix(SKIN_LIGHT, SKIN_DARK, c["skin"][0] ** 1.3) * (0.92 + 0.16 * c["skin"][1])
  hair = _mix(jnp.asarray(HAIR)[(4 * c["hair"][0]).astype(int)], skin, 0.25 * c["hair"][1])
  shirt = _hsv(c["shirt"][0], c["shirt"][1], 0.15 + 0.85 * c["shirt"][2])
  shirt2 = _hsv(c["shirt"][3], c["shirt"][4], 1.0 - 0.8 * c["shirt"][2])
  trousers = _hsv(0.5 + 0.25 * c["trousers"][0], 0.7 * c["trousers"][1], 0.08 + 0.7 * c["trousers"][2])
  bright = _hsv(c["trousers"][4], c["trousers"][1], 0.9 * c["trousers"][2])
  trousers = jnp.where(c["trousers"][3] < 0.25, bright, trousers)
  shoes = _hsv(c["shoes"][0], 0.5 * c["shoes"][1], 0.05 + 0.9 * c["shoes"][2])
  cut = c["cut"]
  forearm = jnp.where(cut[0] < 0.5, skin, shirt)                              # short or long sleeves
  upper = jnp.where((cut[0] < 0.5) & (cut[1] < 0.25), skin, shirt)            # or none
  shin = jnp.where(cut[2] < 0.3, skin, trousers)                              # shorts
  feet = jnp.where(cut[3] < 0.1, skin, shoes)
  trousers = jnp.where(cut[4] < 0.12, shirt, trousers)                        # overalls, dresses
  ground = jnp.stack([skin, shirt, trousers, feet, forearm, shin, upper])
  plain = ground.at[1].set(shirt2)
  sleeved = lambda color, bare: jnp.where(bare, color, shirt2)
  second = plain.at[4].set(sleeved(skin, cut[0] < 0.5)).at[6].set(sleeved(skin, (cut[0] < 0.5) & (cut[1] < 0.25)))
  second = second.at[2].set(jnp.where(cut[4] < 0.12, shirt2, trousers))
  kind = (4 * c["shirt"][5]).astype(int)  # plain, rings, stripes, checks
  frequency = 6.0 + 16.0 * c["shirt"][6]
  pattern = jnp.stack([frequency * (kind >= 2), frequency * (kind % 2), 0.15 + 0.45 * c["shirt"][7],
                       c["shirt"][4], (kind == 3).astype(jnp.float32)])
  style = c["hair"][2]
  hairline = jnp.stack([jnp.where(style < 0.12, 9.0, 0.35 + 0.3 * c["hair"][3]), jnp.where(style < 0.12, -9.0, 0.004),
                        (style > 0.7).astype(jnp.float32)])
  groups = jnp.asarray(PART_GROUPS)
  return {"colors": jnp.stack([ground, second], 1)[groups], "pattern": pattern * (kind > 0), "hair": hair,
          "hairline": hairline, "skin": skin}


def albedo(clothes, part, rest, head):
  """Colour [S, S, 3] of the body before light.

  Args:
    clothes: what `wardrobe` gave.
    part: [S, S] int, 1..24 (0 where there is no body: any colour).
    rest: [S, S, 3] metres, where on the unposed body each pixel lies; the pattern is fixed to the cloth.
    head: {"ear": [3], "top": [], "eyes": [2, 3]} of the unposed body.
  """
  colors = clothes["colors"][jnp.maximum(part - 1, 0)]
  along_x, along_y, share, phase, checks = clothes["pattern"]
  stripe = lambda x, frequency: (x * frequency + phase) % 1.0 < share
  on_x, on_y = stripe(rest[..., 0], along_x) & (along_x > 0), stripe(rest[..., 1], along_y) & (along_y > 0)
  marked = jnp.where(checks > 0, on_x ^ on_y, on_x | on_y)
  base = jnp.where(marked[..., None], colors[..., 1, :], colors[..., 0, :])
  up = (rest[..., 1] - head["ear"][1]) / jnp.maximum(head["top"] - head["ear"][1], 0.01)
  front = rest[..., 2] - head["ear"][2]
  line, back, long = clothes["hairline"]
  is_head = part == joints.index("smpl24", "head") + 1
  long = (long > 0) & (front < -0.02) & (up < 0.2) & (is_head | (part == joints.index("smpl24", "neck") + 1))
  haired = (is_head & ((up > line + 3.0 * front) | ((front < back) & (up > -0.4)))) | long
  base = jnp.where(haired[..., None], clothes["hair"], base)
  eyes = jnp.sum((rest[..., None, :] - head["eyes"]) ** 2, -1).min(-1) < EYE_RADIUS_M**2
  return jnp.where((eyes & is_head)[..., None], 0.08, base)


def lamp(u):
  """A distant light and an ambient one from u [LIGHT_U].

  Returns:
    {"direction" [3] towards the light, camera frame, "color" [3], "ambient" [3]}.
  """
  angle, height = 2 * jnp.pi * u[0], 0.15 + 0.75 * u[1]
  flat = jnp.sqrt(1.0 - height**2)
  direction = jnp.stack([flat * jnp.sin(angle), -height, -flat * (0.25 + 0.75 * jnp.abs(jnp.cos(angle)))])
  tint = 1.0 + 0.12 * (u[2:5] - 0.5)
  ambient = (0.35 + 0.3 * u[5]) * (1.0 + 0.12 * (u[6:9] - 0.5))
  return {"direction": direction / jnp.linalg.norm(direction), "color": (1.05 - jnp.mean(ambient)) * tint,
          "ambient": ambient}


def light(lamp, cosine):
  """Colour factor [S, S, 3] from the cosine between normal and light [S, S]; some light wraps around the edge."""
  wrapped = jnp.maximum(0.0, 0.8 * cosine + 0.2)
  return lamp["ambient"] + lamp["color"] * wrapped[..., None]


def _interpolation(size):
  """[S, sum of cells] weights of linear interpolation from coarse lines of `_OCTAVES` values, side by side."""
  matrices = []
  for cells in _OCTAVES:
    at = (np.arange(size) + 0.5) / size * (cells - 1)
    low = np.minimum(at.astype(int), cells - 2)
    matrix = np.zeros((size, cells), np.float32)
    matrix[np.arange(size), low], matrix[np.arange(size), low + 1] = 1 - (at - low), at - low
    matrices.append(matrix)
  return np.concatenate(matrices, axis=1)


def hashed(word, shape):
  """Uniform numbers in 0..1, a hash of `word` ([] uint32) and position: ten times cheaper than jax.random.

  Good enough for what nobody learns from: grain and clouds. Source: the finaliser of MurmurHash3.
  """
  x = word + jnp.arange(np.prod(shape), dtype=jnp.uint32) * jnp.uint32(0x9E3779B1)
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return ((x ^ (x >> 16)) >> 8).astype(jnp.float32).reshape(shape) / 2.0**24


def noise_image(word, size):
  """Smooth noise [S, S, 3] around 0: random grids of three sizes, brightness first, some colour."""
  total = sum(_OCTAVES)
  values = hashed(word, (total, total, 3)) - 0.5
  same = np.zeros((total, total, 1), np.float32)  # which grid an entry belongs to, and its strength
  for cells, strength, end in zip(_OCTAVES, (0.5, 0.35, 0.25), np.cumsum(_OCTAVES)):
    same[end - cells:end, end - cells:end] = strength
  grid = same * (1.3 * jnp.mean(values, -1, keepdims=True) + 0.22 * values)
  weights = jnp.asarray(_interpolation(size))
  exact = jax.lax.Precision.HIGHEST
  return jnp.einsum("sbc,tb->stc", jnp.einsum("sa,abc->sbc", weights, grid, precision=exact), weights, precision=exact)


def background(u, shapes, noise, grid):
  """A scene without people [S, S, 3]: wall, floor, clutter, noise.

  Args:
    u: [BACKGROUND_U], shapes: [NUM_CLUTTER, SHAPE_U] uniform numbers.
    noise: [S, S, 3] of `noise_image`.
  """
  c = split(u, wall=6, floor=6, direction=2, horizon=3, noise=1, kind=2)
  wall = _hsv(c["wall"][0], 0.55 * c["wall"][1], 0.15 + 0.8 * c["wall"][2])
  other = _hsv(c["wall"][3], 0.55 * c["wall"][4], 0.15 + 0.8 * c["wall"][5])
  floor = _hsv(c["floor"][0], 0.5 * c["floor"][1], 0.12 + 0.7 * c["floor"][2])
  angle = 2 * jnp.pi * c["direction"][0]
  t = 0.5 + (grid[..., 0] - 0.5) * jnp.cos(angle) + (grid[..., 1] - 0.5) * jnp.sin(angle)
  image = _mix(wall, other, jnp.clip(t, 0.0, 1.0)[..., None])
  horizon = 0.45 + 0.5 * c["horizon"][0] + 0.1 * (c["horizon"][1] - 0.5) * (grid[..., 0] - 0.5)
  below = (grid[..., 1] > horizon) & (c["kind"][0] < 0.75)
  image = jnp.where(below[..., None], floor * (1.15 - 0.4 * grid[..., 1:]), image)
  for shape in shapes:
    image = paint(image, shape, (shape[7] < 0.6) & (shape[8] < c["kind"][1] + 0.3), grid)[0]
  return image + (0.1 + 0.7 * c["noise"][0]) * noise


def paint(image, u, exists, grid, center=None, size=(0.06, 0.45)):
  """Paints one turned rectangle or ellipse over image [S, S, 3].

  Args:
    u: [SHAPE_U] uniform numbers; exists: [] bool; center: [2] in 0..1, drawn from u when None.
    size: range of the half sides, in sides of the crop.
  Returns:
    (image, mask [S, S] bool).
  """
  center = u[:2] if center is None else center
  low, high = size
  half = low + (high - low) * u[2:4] ** 2
  angle = jnp.where(u[4] < 0.5, 0.0, jnp.pi * u[4])  # half of the world is upright
  offset = grid - center
  a = (jnp.cos(angle) * offset[..., 0] + jnp.sin(angle) * offset[..., 1]) / half[0]
  b = (-jnp.sin(angle) * offset[..., 0] + jnp.cos(angle) * offset[..., 1]) / half[1]
  inside = jnp.where(u[5] < 0.6, jnp.maximum(jnp.abs(a), jnp.abs(b)), jnp.sqrt(a * a + b * b)) < 1.0
  mask = inside & exists
  color = _hsv(u[6], 0.7 * u[8], 0.1 + 0.85 * u[9]) * (1.0 + 0.25 * a)[..., None]
  return jnp.where(mask[..., None], color, image), mask


def develop(image, u, word, strength=1.0):
  """The camera: exposure, tint, contrast, softness, grain; then bytes.

  Args:
    image: [S, S, 3] in about 0..1; u: [CAMERA_U]; word: [] uint32, of the grain; strength: of all of it.
  Returns:
    [S, S, 3] float32, whole numbers 0..255.
  """
  gain = 1.0 + strength * (0.5 * (u[0] - 0.5) + 0.2 * (u[1:4] - 0.5))
  image = (image * gain - 0.5) * (1.0 + strength * 0.4 * (u[4] - 0.5)) + 0.5
  blur = 0.05 + 0.22 * strength * u[5]  # weight of each neighbour; smooths the renderer's stairs as optics would

  def soften(image, _):  # along y, then turned: a loop, because fused into one the picture is painted nine times over
    padded = jnp.concatenate([image[:1], image, image[-1:]])
    return jnp.swapaxes((1.0 - 2.0 * blur) * image + blur * (padded[:-2] + padded[2:]), 0, 1), None

  image, _ = jax.lax.scan(soften, image, None, length=2)
  grain = hashed(word, image.shape) - 0.5
  return jnp.round(255.0 * jnp.clip(image + 0.08 * strength * u[6] * grain, 0.0, 1.0))
