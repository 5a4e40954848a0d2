"""What a data set's file names say: facts of the recording, and the group that a split must keep whole."""

import re
from collections.abc import Callable
from typing import NamedTuple

FLIR_FRAMES_PER_GROUP = 100
NUMBERS_PER_GROUP = 100
UNALIGNED = "unaligned"


class NameFacts(NamedTuple):
    """`group` names what belongs together; `facts` are text by key."""

    group: str
    facts: dict[str, str]


def flir_name(stem: str) -> NameFacts:
    """`FLIR_00233`: a frame number. Frames are cut from videos whose borders the names do not tell, so a
    block of 100 consecutive numbers is one group. `FLIR_video_00233`: a frame of the one continuous video."""
    if match := re.fullmatch(r"FLIR_video_(\d+)", stem):
        return NameFacts("FLIR_video", {"frame": str(int(match[1]))})
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


def numbered_name(stem: str) -> NameFacts:
    """`00417`, `1655_T`: a running number. Neighbours may come from one recording whose borders the names do not
    tell, so a block of 100 consecutive numbers is one group, whichever part of the data set it lies in."""
    if not (match := re.fullmatch(r"(\D*)(\d+)(.*)", stem)):
        return NameFacts(stem, {})
    number = int(match[2])
    return NameFacts(f"{match[1]}{number // NUMBERS_PER_GROUP:03d}xx", {"number": str(number)})


def mfnet_name(stem: str) -> NameFacts:
    """`00417D`: a running number, then D for day or N for night."""
    named = numbered_name(stem)
    if not (match := re.fullmatch(r"\d+([DN])(_flip)?", stem)):
        return named
    return NameFacts(named.group, named.facts | {"time": "day" if match[1] == "D" else "night"})


def pst900_name(stem: str) -> NameFacts:
    """`31_bag1a_rect_rgb_frame0000000007`: a number, the recording, its frame; the recording is the group."""
    if not (match := re.fullmatch(r"\d+_(bag[0-9a-z]+)_rect_rgb_frame(\d+)", stem)):
        return NameFacts(stem, {})
    return NameFacts(match[1], {"recording": match[1], "frame": str(int(match[2]))})


def sirst_aug_name(stem: str) -> NameFacts:
    """`000002`: a rotated and scaled crop of some frame of SIRST. The name does not tell which, so crops of one frame
    can only be kept together by keeping all together: one group."""
    return NameFacts("crops", {"augmented": "yes"})


def unaligned_name(stem: str) -> NameFacts:
    """`00417` of UVT2000 and UVT20K, whose visible images are not aligned: a running number."""
    named = numbered_name(stem)
    return NameFacts(named.group, named.facts | {"visible_frame": UNALIGNED})


def tracked_class(sequence: str) -> NameFacts:
    """`fox_026`, `person_D_004`, `sheep_goat_020`, `Drone_boat_018`: the class of a tracked target, what else the
    authors say of it, a number; a leading `Drone` is the camera's carrier. The released Recognition answers (section
    3.4) name LSOTB-TIR's `sheep_goat` sheep and `bird_crane` bird, hence the first word. VTUAV names its sequences
    alike."""
    match = re.fullmatch(r"(?:Drone_)?([A-Za-z]+)(?:_[A-Za-z_]+)?[_-]\d+", sequence)
    return NameFacts(sequence, {"category": match[1].lower()} if match else {})


def plain_name(stem: str) -> NameFacts:
    """A name that says nothing: the sample is its own group."""
    return NameFacts(stem, {})


NAME_RULES: dict[str, Callable[[str], NameFacts]] = {
    "": plain_name,
    "flir": flir_name,
    "hit_uav": hit_uav_name,
    "llvip": llvip_name,
    "tracked_class": tracked_class,
    "numbered": numbered_name,
    "mfnet": mfnet_name,
    "pst900": pst900_name,
    "sirst_aug": sirst_aug_name,
    "unaligned": unaligned_name,
}
