"""Writers of small raw folders, whole and broken, for the tests of the sources."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np

from irgpt_lib.irtd.record import png_bytes

WIDTH, HEIGHT = 40, 30


def gray_png(width: int = WIDTH, height: int = HEIGHT, value: int = 90) -> bytes:
    return png_bytes(np.full((height, width), value, dtype=np.uint8))


def colour_png(width: int = WIDTH, height: int = HEIGHT) -> bytes:
    return png_bytes(np.full((height, width, 3), 60, dtype=np.uint8))


def png_header(width: int, height: int, depth: int = 8) -> bytes:
    """A PNG that claims a size and has no pixels: what a decompression bomb looks like from outside."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def put(file: Path, data: bytes | str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return file


def flir_folder(root: Path, csv: str, frames: tuple[str, ...] = ("FLIR_00101",)) -> Path:
    for stem in frames:
        put(root / "infrared" / f"{stem}.png", gray_png())
    put(root / "boxes.csv", csv)
    return root


def coco_folder(
    root: Path,
    annotations: list[dict],
    images: tuple[str, ...] = ("a.png",),
    key: str = "annotations",
    name_key: str = "file_name",
) -> Path:
    """Images numbered from 0 in `val/`; categories 0 Person, 1 Car, 4 DontCare."""
    for name in images:
        put(root / "val" / name, gray_png())
    content = {
        "images": [{"id": i, name_key: name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(images)],
        "categories": [{"id": i, "name": name} for i, name in ((0, "Person"), (1, "Car"), (4, "DontCare"))],
        key: annotations,
    }
    put(root / "annotations" / "val.json", json.dumps(content))
    return root


def voc_xml(name: str = "a.png", box: tuple[object, ...] = (1, 2, 11, 22), head: str = "") -> str:
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    thing = f"<object><name>Person</name><bndbox>{corners}</bndbox></object>"
    return f"{head}<annotation><filename>{name}</filename>{thing}</annotation>"


def released(question: str = "<image>\nHow many?", answer: str = "<num>3</num>", **changes: object) -> dict:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "7", "image": ["/data/63-FLIR_ADAS/x/FLIR_1.jpeg"], "conversations": turns} | changes
