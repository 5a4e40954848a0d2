"""Draw scenes, keep their truth, render them in four bands.

A scene is a map of regions (`labels`) and a table of what each region is made of. Rendering is then one table look-up a
band for a whole batch, followed by that band's illumination, optics, noise and gain. No colour goes with a category:
every painted part draws its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8

from irgpt_lib.irtd.record import Box, Kind, Sample
from irgpt_lib.irtd.simulated.materials import MATERIALS, band_radiance, luminance
from irgpt_lib.irtd.simulated.sprites import (
    ASPECT,
    ATTRIBUTES,
    BAG,
    CATEGORIES,
    DARK,
    GLASS,
    HAT,
    IDENTITIES,
    PAINT,
    PARTS,
    WARM,
    pedestrian,
    resample,
    sprite,
)

SCENES = ("street", "field", "forest", "harbour", "parking lot")
RED, GREEN, BLUE, NIR, SWIR, CELSIUS, EMISSIVITY = range(7)
CHANNELS = 7
BATCH = 256
NIGHT_SHARE = 0.2
SKY_CELSIUS = -20.0
# Parts of an object in degrees Celsius: paint, warm, glass, dark (day; a night cools all but the warm part).
PART_CELSIUS = {
    "person": (29.0, 34.0, 13.5, 27.0),
    "car": (23.0, 36.0, 13.5, 30.5),
    "truck": (18.5, 38.5, 13.0, 29.5),
    "bicycle": (23.5, 33.0, 14.0, 19.5),
    "boat": (17.0, 27.0, 12.0, 22.0),
    "dog": (29.0, 33.0, 14.0, 28.0),
}
NIGHT_COOLING = 4.0
COLOURS = np.array(
    [
        (0.80, 0.15, 0.15),
        (0.15, 0.28, 0.78),
        (0.90, 0.90, 0.90),
        (0.12, 0.12, 0.12),
        (0.88, 0.78, 0.16),
        (0.16, 0.58, 0.24),
        (0.50, 0.50, 0.50),
        (0.90, 0.46, 0.12),
    ]
)
# A dye keeps this share of its visible luminance in the NIR and in the SWIR; the rest is its own.
LUMINANCE_SHARE = {NIR: 0.60, SWIR: 0.30}


@dataclass
class Canvas:
    """One scene under construction: `labels[y, x]` names a row of `table` (reflectances, temperature, emissivity)."""

    rng: np.random.Generator
    size: int
    night: bool
    labels: UInt8[np.ndarray, "h w"]
    table: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def blank(cls, rng: np.random.Generator, size: int) -> "Canvas":
        night = bool(rng.random() < NIGHT_SHARE)
        return cls(rng, size, night, np.zeros((size, size), np.uint8))

    def px(self, fraction: float) -> int:
        return int(round(fraction * self.size))

    def add(self, row: np.ndarray) -> int:
        self.table.append(row)
        return len(self.table) - 1

    def material(self, name: str) -> int:
        """A region of this material, varied as one field or one wall varies from the next."""
        m = MATERIALS[name]
        rgb = np.array(m.rgb) + self.rng.normal(0, 0.07, 3)
        nir = LUMINANCE_SHARE[NIR] * luminance(rgb) + (1 - LUMINANCE_SHARE[NIR]) * m.nir
        swir = LUMINANCE_SHARE[SWIR] * luminance(rgb) + (1 - LUMINANCE_SHARE[SWIR]) * m.swir
        celsius = m.night_celsius if self.night else m.day_celsius
        values = [nir + self.rng.normal(0, 0.04), swir + self.rng.normal(0, 0.06)]
        return self.add(np.array([*rgb, *values, celsius + self.rng.normal(0, 1.3), m.emissivity]))

    def dye(self, rgb: np.ndarray, celsius: float) -> int:
        """A painted or dyed surface: visible colour as given, infrared reflectance partly its own."""
        gray = luminance(rgb)
        nir = LUMINANCE_SHARE[NIR] * gray + (1 - LUMINANCE_SHARE[NIR]) * self.rng.uniform(0.1, 0.9)
        swir = LUMINANCE_SHARE[SWIR] * gray + (1 - LUMINANCE_SHARE[SWIR]) * self.rng.uniform(0.05, 0.95)
        return self.add(np.array([*rgb, nir, swir, celsius, 0.95]))

    def fill(self, rows: slice, columns: slice, region: int) -> None:
        self.labels[rows, columns] = region

    def stamp(self, parts: np.ndarray, x: int, y: int, regions: np.ndarray) -> None:
        """Paint a part map with its upper left corner at pixel (x, y); `regions[part]` is the region of a part."""
        window = self.labels[y : y + parts.shape[0], x : x + parts.shape[1]]
        np.copyto(window, regions[parts].astype(np.uint8), where=parts > 0)

    def colour(self) -> np.ndarray:
        return np.clip(COLOURS[self.rng.integers(len(COLOURS))] + self.rng.normal(0, 0.08, 3), 0.04, 0.96)

    def object_regions(self, category: str) -> np.ndarray:
        """One region for each part of one object, colours drawn without regard to the category."""
        cool = NIGHT_COOLING if self.night else 0.0
        paint, warm, glass, dark = (t + self.rng.normal(0, 1.5) for t in PART_CELSIUS[category])
        regions = np.zeros(PARTS, int)
        body = self.colour()
        regions[PAINT] = self.dye(body, paint - cool)
        skin = np.array(MATERIALS["skin"].rgb) + self.rng.normal(0, 0.08, 3)
        regions[WARM] = self.dye(skin if category == "person" else 0.75 * body, warm)
        regions[GLASS] = self.dye(np.array(MATERIALS["glass"].rgb), glass - cool)
        dark_rgb = self.colour() if category in ("person", "boat") else np.array(MATERIALS["rubber"].rgb)
        regions[DARK] = self.dye(dark_rgb, dark - cool)
        return regions


def street(c: Canvas) -> None:
    horizon = c.px(c.rng.uniform(0.30, 0.42))
    c.labels[:] = c.material("sky")
    brick, window = c.material("brick"), c.material("window")
    x = 0
    while x < c.size:
        width = c.px(c.rng.uniform(0.13, 0.28))
        top = c.px(c.rng.uniform(0.02, 0.24))
        c.fill(slice(top, horizon), slice(x, x + width), brick)
        step = max(3, c.px(0.06))
        for column in range(x + 2, min(x + width - 1, c.size), step):
            c.labels[top + 2 : horizon - 1 : step, column] = window
        x += width + c.px(c.rng.uniform(0, 0.06))
    c.fill(slice(horizon, None), slice(None), c.material("concrete"))
    c.fill(slice(c.px(0.6), None), slice(None), c.material("asphalt"))
    line, start, dash = c.material("road paint"), c.px(c.rng.uniform(0, 0.12)), c.px(0.19)
    for x in range(start, c.size, dash):
        c.fill(slice(c.px(0.80), c.px(0.80) + max(1, c.px(0.03))), slice(x, x + c.px(0.04)), line)


def field_scene(c: Canvas) -> None:
    horizon = c.px(c.rng.uniform(0.30, 0.42))
    c.labels[:] = c.material("sky")
    c.fill(slice(horizon, None), slice(None), c.material("grass"))
    hedge = c.px(c.rng.uniform(0, 0.7))
    c.fill(slice(horizon - c.px(0.06), horizon), slice(hedge, hedge + c.px(0.22)), c.material("foliage"))


def forest(c: Canvas) -> None:
    c.labels[:] = c.material("foliage")
    c.fill(slice(c.px(0.62), None), slice(None), c.material("grass"))
    bark = c.material("bark")
    for _ in range(int(c.rng.integers(6, 10))):
        x = c.px(c.rng.uniform(0, 0.95))
        c.fill(slice(0, c.px(c.rng.uniform(0.6, 0.75))), slice(x, x + c.px(c.rng.uniform(0.03, 0.06))), bark)
    c.fill(slice(0, c.px(0.05)), slice(None), c.material("sky"))


def harbour(c: Canvas) -> None:
    horizon = c.px(c.rng.uniform(0.30, 0.42))
    c.labels[:] = c.material("sky")
    c.fill(slice(horizon, None), slice(None), c.material("water"))
    c.fill(
        slice(horizon - c.px(0.05), horizon),
        slice(c.px(c.rng.uniform(0, 0.45)), None),
        c.material("concrete"),
    )
    mast = c.material("bark")
    for _ in range(3):
        x = c.px(c.rng.uniform(0, 0.92))
        c.fill(slice(horizon - c.px(c.rng.uniform(0.1, 0.22)), horizon), slice(x, x + max(1, c.px(0.03))), mast)
    c.fill(slice(c.px(0.9), None), slice(None), c.material("sand"))


def parking_lot(c: Canvas) -> None:
    horizon = c.px(c.rng.uniform(0.30, 0.42))
    c.labels[:] = c.material("brick")
    c.fill(slice(horizon // 2, horizon), slice(None), c.material("concrete"))
    c.fill(slice(horizon, None), slice(None), c.material("asphalt"))
    line, start = c.material("road paint"), c.px(c.rng.uniform(0, 0.12))
    for x in range(start, c.size, max(4, c.px(0.16))):
        c.fill(slice(horizon, c.px(0.95)), slice(x, x + max(1, c.px(0.015))), line)
    c.fill(slice(c.px(0.68), c.px(0.68) + max(1, c.px(0.015))), slice(None), line)


BACKGROUNDS: dict[str, Callable[[Canvas], None]] = {
    "street": street,
    "field": field_scene,
    "forest": forest,
    "harbour": harbour,
    "parking lot": parking_lot,
}


def overlaps(x: int, y: int, w: int, h: int, boxes: list[Box]) -> bool:
    return any(x < b.x2 and b.x1 < x + w and y < b.y2 and b.y1 < y + h for b in boxes)


def draw_scene(c: Canvas, *, pair: bool) -> Sample:
    """One to three objects before a background; with `pair`, two of different category, well apart left to right."""
    scene = str(c.rng.choice(SCENES))
    BACKGROUNDS[scene](c)
    count = 2 if pair else int(c.rng.choice([1, 2, 3], p=[0.35, 0.45, 0.20]))
    low, high = {1: (0.50, 0.70), 2: (0.38, 0.50), 3: (0.32, 0.40)}[count]
    boxes: list[Box] = []
    for _ in range(count):
        for _attempt in range(25):
            category = str(c.rng.choice(CATEGORIES))
            if boxes and pair and category == boxes[0].category:
                continue
            if boxes and not pair and c.rng.random() < 0.2:
                category = boxes[0].category
            scale = c.rng.uniform(low, high)
            w, h = (max(8, c.px(scale * a)) for a in ASPECT[category])
            if w >= c.size - 1 or h >= c.size - 1:
                continue
            x = int(c.rng.integers(0, c.size - w))
            y = int(c.rng.integers(min(c.px(0.12), c.size - h - 1), c.size - h))
            if pair and boxes and abs(x + w / 2 - boxes[0].centre[0]) < 0.22 * c.size:
                continue
            if not overlaps(x, y, w, h, boxes):
                parts = resample(sprite(category), w, h, bool(c.rng.random() < 0.5))
                c.stamp(parts, x, y, c.object_regions(category))
                boxes.append(Box(category, x, y, x + w, y + h))
                break
    boxes.sort(key=lambda b: b.centre[0])
    return blank_sample(c, "scene", scene=scene, boxes=tuple(boxes))


def draw_aerial(c: Canvas) -> Sample:
    """One to twelve cars on roads seen from above, all annotated."""
    c.labels[:] = c.material("grass" if c.rng.random() < 0.5 else "concrete")
    road, line = c.material("asphalt"), c.material("road paint")
    x, w, y = (
        c.px(c.rng.uniform(0.12, 0.47)),
        c.px(c.rng.uniform(0.28, 0.46)),
        c.px(c.rng.uniform(0.12, 0.56)),
    )
    c.fill(slice(None), slice(x, x + w), road)
    c.fill(slice(y, y + c.px(0.28)), slice(None), road)
    for top in range(0, c.size, max(4, c.px(0.10))):
        c.fill(slice(top, top + max(1, c.px(0.015))), slice(x + w // 2, x + w // 2 + max(1, c.px(0.015))), line)
    boxes = scatter(c, int(c.rng.integers(1, 13)), "car", lambda: car_from_above(c), gap=c.px(0.03))
    return blank_sample(c, "aerial", boxes=boxes, counted="car")


def car_from_above(c: Canvas) -> np.ndarray:
    long, short = max(5, c.px(0.14)), max(3, c.px(0.08))
    if c.rng.random() < 0.5:
        return resample(sprite("car from above"), short, long, False)
    return resample(sprite("car from above").T, long, short, False)


def draw_crowd(c: Canvas) -> Sample:
    """Three to twenty pedestrians, all annotated, some of them touching."""
    BACKGROUNDS[str(c.rng.choice(["street", "field", "parking lot"]))](c)
    boxes = scatter(c, int(c.rng.integers(3, 21)), "person", lambda: standing(c), gap=0, top=c.px(0.2))
    return blank_sample(c, "crowd", boxes=boxes, counted="person")


def standing(c: Canvas) -> np.ndarray:
    return resample(sprite("person"), max(4, c.px(0.08)), c.px(c.rng.uniform(0.17, 0.23)), False)


def scatter(
    c: Canvas, count: int, category: str, draw: Callable[[], np.ndarray], *, gap: int, top: int = 0
) -> tuple[Box, ...]:
    """Up to `count` objects where they fit; the truth is the number that found room."""
    occupied = np.zeros((c.size, c.size), bool)
    boxes = []
    for _ in range(count):
        for _attempt in range(20):
            parts = draw()
            h, w = parts.shape
            x, y = int(c.rng.integers(0, c.size - w)), int(c.rng.integers(top, c.size - h))
            around = occupied[max(0, y - gap) : y + h + gap, max(0, x - gap) : x + w + gap]
            if around.any() if gap else around.mean() > 0.1:
                continue
            occupied[y : y + h, x : x + w] = True
            c.stamp(parts, x, y, c.object_regions(category))
            boxes.append(Box(category, x, y, x + w, y + h))
            break
    return tuple(sorted(boxes, key=lambda b: b.centre[0]))


def draw_montage(c: Canvas) -> Sample:
    """Eight crops of pedestrians in two rows of four; one of the cells 2-8 shows the identity of cell 1.

    An identity is the tone of its upper and lower clothes and three attributes; others differ in at least two of
    these five. A garment keeps its reflectance and warmth in every band, but which tone is bright differs by band.
    """
    rng, cell_w, cell_h = c.rng, c.size // 4, c.size // 2
    for cell in range(8):
        rows = slice(cell // 4 * cell_h, (cell // 4 + 1) * cell_h)
        ground = c.material(str(rng.choice(["concrete", "brick", "grass", "asphalt"])))
        c.fill(rows, slice(cell % 4 * cell_w, (cell % 4 + 1) * cell_w), ground)
    border = c.material("sky")
    c.labels[::cell_h] = border
    c.labels[:, ::cell_w] = border
    identities = [draw_identity(rng)]
    while len(identities) < 7:
        other = draw_identity(rng)
        if other not in identities and differences(other, identities[0]) >= 2:
            identities.append(other)
    answer = int(rng.integers(2, 9))
    others = iter(identities[1:])
    cells = [identities[0]] + [identities[0] if cell == answer else next(others) for cell in range(2, 9)]
    garments = draw_garments(rng)
    boxes = []
    for cell, (upper, lower, attributes) in enumerate(cells):
        w, h = c.px(rng.uniform(0.17, 0.20)), c.px(rng.uniform(0.41, 0.46))
        x = cell % 4 * cell_w + 1 + int(rng.integers(0, max(1, cell_w - 1 - w)))
        y = cell // 4 * cell_h + 1 + int(rng.integers(0, max(1, cell_h - 1 - h)))
        regions = np.zeros(PARTS, int)
        for part, tone in ((PAINT, upper), (DARK, lower)):
            regions[part] = c.add(garments[tone] + np.array([0, 0, 0, *rng.normal(0, 0.02, 2), rng.normal(0, 0.4), 0]))
        regions[WARM] = c.dye(np.array(MATERIALS["skin"].rgb), 34.5 + rng.normal(0, 0.4))
        regions[HAT] = c.add(np.array([0.24, 0.20, 0.43, 0.30, 0.50, 20.0, 0.95]))
        regions[BAG] = c.add(np.array([0.47, 0.31, 0.16, 0.35, 0.60, 16.0, 0.95]))
        c.stamp(resample(pedestrian(*attributes), w, h, False), x, y, regions)
        identity = "-".join([str(upper), str(lower), *(a for a, on in zip(ATTRIBUTES, attributes, strict=True) if on)])
        boxes.append(Box("person", x, y, x + w, y + h, identity))
    return blank_sample(c, "montage", boxes=tuple(boxes), montage_answer=answer)


Identity = tuple[int, int, tuple[bool, ...]]


def draw_identity(rng: np.random.Generator) -> Identity:
    return int(rng.integers(4)), int(rng.integers(4)), IDENTITIES[int(rng.integers(len(IDENTITIES)))]


def differences(a: Identity, b: Identity) -> int:
    return (a[0] != b[0]) + (a[1] != b[1]) + sum(p != q for p, q in zip(a[2], b[2], strict=True))


def draw_garments(rng: np.random.Generator) -> np.ndarray:
    """Four tones: visible gray levels in order; NIR mostly in the same order, SWIR often not, TIR in any order."""
    level = np.array([0.12, 0.37, 0.62, 0.90])
    order = [rng.permutation(4) if rng.random() < p else np.arange(4) for p in (0.2, 0.7, 1.0)]
    tint = rng.uniform(-0.12, 0.12, (4, 3))
    warmth = np.array([17.0, 22.0, 27.0, 32.0])
    columns = [level[order[0]], level[order[1]], warmth[order[2]], np.full(4, 0.95)]
    return np.column_stack([np.clip(level[:, None] + tint, 0.03, 0.97), *columns])


def blank_sample(c: Canvas, kind: Kind, **truth: object) -> Sample:
    """The truth of a canvas; the images are added once the batch is rendered."""
    facts = {"light": "night" if c.night else "day"}
    return Sample("", "simulated", "nir", kind, c.size, c.size, b"", authentic=False, facts=facts, **truth)


DRAWERS: dict[str, Callable[[Canvas], Sample]] = {
    "scene": lambda c: draw_scene(c, pair=False),
    "pair": lambda c: draw_scene(c, pair=True),
    "aerial": draw_aerial,
    "crowd": draw_crowd,
    "montage": draw_montage,
}


@dataclass(frozen=True)
class Renders:
    """Aligned 8-bit images of the same scenes: visible RGB and one gray image a band."""

    visible: UInt8[np.ndarray, "n h w 3"]
    nir: UInt8[np.ndarray, "n h w"]
    swir: UInt8[np.ndarray, "n h w"]
    tir: UInt8[np.ndarray, "n h w"]


def blurred(x: Float[np.ndarray, "n h w"], passes: int) -> Float[np.ndarray, "n h w"]:
    """The optics' blur: `passes` of the binomial kernel 1-2-1 along both axes."""
    for _ in range(passes):
        p = np.pad(x, ((0, 0), (1, 1), (0, 0)), mode="edge")
        x = (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) / 4
        p = np.pad(x, ((0, 0), (0, 0), (1, 1)), mode="edge")
        x = (p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]) / 4
    return x


def render(canvases: list[Canvas], rng: np.random.Generator) -> Renders:
    """All bands of a batch of scenes of one size.

    Visible, NIR and SWIR: illumination times reflectance, blur (SWIR), sensor noise. Night dims the visible image and
    is lit by the camera's own lamp in the NIR. TIR: radiance `e B(T) + (1 - e) B(sky)` over 8-14 um, blur, noise, then
    the automatic gain of a thermal camera, which stretches each image to its own range.
    """
    n, size = len(canvases), canvases[0].size
    rows = max(len(c.table) for c in canvases)
    table = np.zeros((n, rows, CHANNELS), np.float32)
    for i, c in enumerate(canvases):
        table[i, : len(c.table)] = c.table
    labels = np.stack([c.labels for c in canvases])
    scene = np.arange(n)[:, None, None]
    night = np.array([c.night for c in canvases])[:, None, None]
    passes = max(1, round(size / 64))

    def noise(shape: tuple[int, ...], level: float | np.ndarray) -> np.ndarray:
        return (
            rng.standard_normal(shape, dtype=np.float32) * np.float32(level)
            if np.isscalar(level)
            else (rng.standard_normal(shape, dtype=np.float32) * level.astype(np.float32))
        )

    light = np.where(night, rng.uniform(0.45, 0.70, (n, 1, 1)), rng.uniform(0.75, 1.15, (n, 1, 1)))
    visible = table[..., :3][scene, labels] * light[..., None]
    visible = visible + noise(visible.shape, np.where(night, 0.045, 0.025)[..., None])
    nir = table[..., NIR][scene, labels] * rng.uniform(0.75, 1.10, (n, 1, 1))
    nir = nir + noise(nir.shape, 0.035)
    swir = blurred(table[..., SWIR][scene, labels], passes) * rng.uniform(0.75, 1.10, (n, 1, 1))
    swir = swir + noise(swir.shape, 0.047)
    emitted = table[..., EMISSIVITY] * band_radiance(table[..., CELSIUS])
    reflected = (1 - table[..., EMISSIVITY]) * band_radiance(np.array(SKY_CELSIUS))
    radiance = blurred((emitted + reflected)[scene, labels], 2 * passes)
    kelvin = band_radiance(np.array(20.5)) - band_radiance(np.array(19.5))
    radiance = radiance + noise(radiance.shape, float(0.5 * kelvin))
    low, high = radiance.min((1, 2), keepdims=True), radiance.max((1, 2), keepdims=True)
    tir = (radiance - low) / (high - low + 1e-6) * rng.uniform(0.8, 1.0, (n, 1, 1))
    return Renders(*(np.clip(band * 255, 0, 255).astype(np.uint8) for band in (visible, nir, swir, tir)))


def generate(count: int, *, seed: int, size: int, mix: dict[str, float]) -> Iterator[tuple[list[Sample], Renders]]:
    """`count` scenes in batches of up to 256: their truth and their images in all bands, the same for the same seed.

    A batch is drawn as a whole: the scenes of a last, shorter one are others than those of a full one. `mix` gives the
    share of each kind of scene: `scene`, `pair`, `aerial`, `crowd`, `montage`.

    Raises:
        ValueError: `mix` names an unknown kind, or the size is below 64 px, where objects lose their parts.
    """
    if unknown := mix.keys() - DRAWERS.keys():
        raise ValueError(f"unknown kind of scene {sorted(unknown)}; there are {sorted(DRAWERS)}")
    if size < 64:
        raise ValueError(f"scenes are drawn from 64 px on, not {size}")
    shares = np.array(list(mix.values())) / sum(mix.values())
    for start in range(0, count, BATCH):
        rng = np.random.default_rng([seed, start])
        kinds = rng.choice(list(mix), size=min(BATCH, count - start), p=shares)
        canvases, truths = [], []
        for number, kind in enumerate(kinds, start):
            canvas = Canvas.blank(rng, size)
            truth = DRAWERS[kind](canvas)
            name = f"simulated/{seed}-{number:06d}"
            canvases.append(canvas)
            truths.append(replace(truth, sample_id=name, group=name, caption_from=name))
        yield truths, render(canvases, rng)
