"""What a data set's file names say: facts of the recording, and the group that a split must keep whole."""

import re
from collections.abc import Callable
from typing import NamedTuple

FLIR_FRAMES_PER_GROUP = 100


class NameFacts(NamedTuple):
    """`group` names what belongs together; `facts` are text by key."""

    group: str
    facts: dict[str, str]


def flir_name(stem: str) -> NameFacts:
    """`FLIR_00233`: a frame number. Frames are cut from videos whose borders the names do not tell, so a
    block of 100 consecutive numbers is one group."""
    if not (match := re.fullmatch(r"FLIR_(\d+)", stem)):
        return NameFacts(stem, {})
    frame = int(match[1])
    return NameFacts(f"FLIR_{frame // FLIR_FRAMES_PER_GROUP:03d}xx", {"frame": str(frame)})


def hit_uav_name(stem: str) -> NameFacts:
    """`1_60_30_0_00002`: night (0 day, 1 night), altitude in metres, camera angle in degrees, weather, frame
    (arXiv 2204.03245). The first four fields are the flight, hence the group."""
    if not (match := re.fullmatch(r"([01])_(\d+)_(\d+)_(\d+)_(\d+)", stem)):
        return NameFacts(stem, {})
    night, altitude, angle, weather, frame = match.groups()
    facts = {
        "time": "night" if night == "1" else "day",
        "altitude_m": altitude,
        "angle_deg": angle,
        "weather_code": weather,
        "frame": str(int(frame)),
    }
    return NameFacts("_".join(match.groups()[:4]), facts)


def llvip_name(stem: str) -> NameFacts:
    """`190001`: two digits of the recording place, then the frame; the place is the group."""
    if not (match := re.fullmatch(r"(\d{2})(\d{4})", stem)):
        return NameFacts(stem, {})
    return NameFacts(f"place_{match[1]}", {"place": match[1], "frame": str(int(match[2]))})


def plain_name(stem: str) -> NameFacts:
    """A name that says nothing: the sample is its own group."""
    return NameFacts(stem, {})


NAME_RULES: dict[str, Callable[[str], NameFacts]] = {
    "": plain_name,
    "flir": flir_name,
    "hit_uav": hit_uav_name,
    "llvip": llvip_name,
}
