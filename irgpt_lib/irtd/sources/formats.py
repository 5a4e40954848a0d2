"""The formats that raw data sets come in: one adapter each, by the name that the registry uses."""

from irgpt_lib.irtd.sources.coco import read_coco
from irgpt_lib.irtd.sources.elpv import read_elpv
from irgpt_lib.irtd.sources.flir import read_flir, read_flir_crops
from irgpt_lib.irtd.sources.llvip import read_llvip
from irgpt_lib.irtd.sources.source import Adapter
from irgpt_lib.irtd.sources.visnir import read_visnir
from irgpt_lib.irtd.sources.voc import read_voc

FORMATS: dict[str, Adapter] = {
    "flir_csv": read_flir,
    "flir_crop": read_flir_crops,
    "coco": read_coco,
    "voc": read_voc,
    "visnir": read_visnir,
    "llvip": read_llvip,
    "elpv": read_elpv,
}
