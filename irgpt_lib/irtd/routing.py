"""Which way a sample gets its caption (Fig. 3a): path IV, a describer looks at the visible pair, or path V, rules over
the labels; and why, kept with the sample."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from irgpt_lib.irtd.captions import with_rule_caption
from irgpt_lib.irtd.record import RecordError, Sample, open_image

RoutePath = Literal["IV", "V"]
PATHS: tuple[RoutePath, ...] = ("IV", "V")

# Labels say all that matters of these, and a description of hundreds of people or of eight crops says less.
KINDS_BY_RULE = frozenset({"crowd", "montage"})

# Measured on luminance (ITU-R BT.601, 0-255) of the image shrunk to MEASURED_PX. In the development data the darkest
# LLVIP street at night has a 95th percentile of 62 and a range of 54, and the brightest FLIR frame 34 % of its pixels
# at 250 and above; people can describe all of these.
MEASURED_PX = 256
DARKEST_95TH_PERCENTILE = 48
LEAST_RANGE = 24
BLOWN_LEVEL = 250
MOST_BLOWN_SHARE = 0.5

SOURCE_BY_RULE = "source is captioned by rules"
KIND_BY_RULE = "kind is captioned by rules"
NO_PAIR = "no visible pair"
UNREADABLE = "visible image unreadable"
TOO_DARK = "visible image too dark"
BLOWN_OUT = "visible image blown out"
TOO_FLAT = "visible image without contrast"
NO_DESCRIBER = "no describer configured"
NOTHING_LEFT = "nothing of the draft holds for infrared"
USABLE_PAIR = "usable visible pair"


@dataclass(frozen=True)
class Route:
    """The path of one sample, the reason in a form that can be counted, and what was measured where that decided."""

    path: RoutePath
    reason: str
    detail: str = ""


class Luminance(NamedTuple):
    """The 5th and 95th percentile of an image's luminance (0-255), and the share of its pixels (0-1) that are blown."""

    low: float
    high: float
    blown_share: float


def luminance(visible: bytes) -> Luminance:
    """The luminance statistics of an encoded image, shrunk to at most 256 pixels a side.

    Raises:
        RecordError: the reasons of `open_image`.
    """
    gray = open_image(visible, "visible pair").convert("L")
    gray.thumbnail((MEASURED_PX, MEASURED_PX), Image.Resampling.BOX)
    levels = np.asarray(gray)
    low, high = np.percentile(levels, [5, 95])
    return Luminance(float(low), float(high), float(np.mean(levels >= BLOWN_LEVEL)))


def visible_fault(visible: bytes) -> tuple[str, str]:
    """Why a visible image cannot be described, and the measure that says so; both empty where it can.

    Too dark: 95th percentile of the luminance under 48 of 255. Blown out: more than half of the pixels at 250 or above.
    Without contrast: less than 24 levels between the 5th and the 95th percentile.
    """
    try:
        measured = luminance(visible)
    except RecordError as error:
        return UNREADABLE, str(error)
    if measured.high < DARKEST_95TH_PERCENTILE:
        return TOO_DARK, f"95th percentile of luminance {measured.high:.0f}, at least {DARKEST_95TH_PERCENTILE}"
    if measured.blown_share > MOST_BLOWN_SHARE:
        return BLOWN_OUT, f"{measured.blown_share:.0%} of pixels at {BLOWN_LEVEL} or above, at most half"
    if measured.high - measured.low < LEAST_RANGE:
        return TOO_FLAT, f"luminance range {measured.high - measured.low:.0f}, at least {LEAST_RANGE}"
    return "", ""


def route(sample: Sample, preferred: Mapping[str, str], *, describer: bool) -> Route:
    """The path of one sample; the first that applies of: its source's own route V, its kind, no visible pair, an
    unusable visible image, no describer; else IV.

    `preferred` holds the registered route of sources by name; one that it does not name has no preference.
    `describer` says whether one is configured.

    Raises:
        ValueError: a registered route is neither `IV` nor `V`.
    """
    asked = preferred.get(sample.source, "IV")
    if asked not in PATHS:
        raise ValueError(f"{sample.source} is registered for route {asked!r}; known: {', '.join(PATHS)}")
    if asked == "V":
        return Route("V", SOURCE_BY_RULE)
    if sample.kind in KINDS_BY_RULE:
        return Route("V", KIND_BY_RULE, sample.kind)
    if not sample.visible:
        return Route("V", NO_PAIR)
    reason, detail = visible_fault(sample.visible)
    if reason:
        return Route("V", reason, detail)
    return Route("IV", USABLE_PAIR) if describer else Route("V", NO_DESCRIBER)


def with_route(sample: Sample, chosen: Route) -> Sample:
    """The sample with the facts `route`, `route_reason` and, where something was measured, `route_detail`; on path V
    with its rule caption, on path IV with the caption that it had."""
    facts = {name: value for name, value in sample.facts.items() if not name.startswith("route")}
    facts |= {"route": chosen.path, "route_reason": chosen.reason}
    if chosen.detail:
        facts["route_detail"] = chosen.detail
    known = replace(sample, facts=facts)
    return with_rule_caption(known) if chosen.path == "V" else known


def routed(samples: Iterable[Sample], preferred: Mapping[str, str], *, describer: bool) -> Iterator[Sample]:
    """Each sample with its route (`route`, `with_route`), one at a time.

    Raises:
        ValueError: see `route`.
    """
    for sample in samples:
        yield with_route(sample, route(sample, preferred, describer=describer))


def back_to_rules(sample: Sample, reason: str = NOTHING_LEFT, detail: str = "") -> Sample:
    """A sample of path IV that got no usable caption there (the describer failed, or nothing of its draft holds), now
    on path V; its draft, where it had one, is kept."""
    return with_route(sample, Route("V", reason, detail))
