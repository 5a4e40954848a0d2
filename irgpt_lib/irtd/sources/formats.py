"""The formats that raw data sets come in: one adapter each, by the name that the registry uses."""

from irgpt_lib.irtd.sources.coco import read_coco
from irgpt_lib.irtd.sources.crowd import read_crowd
from irgpt_lib.irtd.sources.elpv import read_elpv
from irgpt_lib.irtd.sources.flir import read_flir, read_flir_crops
from irgpt_lib.irtd.sources.flir_json import read_flir_json
from irgpt_lib.irtd.sources.kaist import read_kaist
from irgpt_lib.irtd.sources.llvip import read_llvip
from irgpt_lib.irtd.sources.masks import read_salient_masks, read_semantic_masks, read_target_masks
from irgpt_lib.irtd.sources.oriented import read_oriented
from irgpt_lib.irtd.sources.reid import read_reid
from irgpt_lib.irtd.sources.scenes import read_scenes
from irgpt_lib.irtd.sources.source import Adapter
from irgpt_lib.irtd.sources.tracking import read_tracking
from irgpt_lib.irtd.sources.visnir import read_visnir
from irgpt_lib.irtd.sources.voc import read_voc
from irgpt_lib.irtd.sources.yolo import read_yolo

FORMATS: dict[str, Adapter] = {
    "flir_csv": read_flir,
    "flir_crop": read_flir_crops,
    "coco": read_coco,
    "voc": read_voc,
    "visnir": read_visnir,
    "llvip": read_llvip,
    "elpv": read_elpv,
    "yolo": read_yolo,
    "kaist": read_kaist,
    "tracking": read_tracking,
    "flir_json": read_flir_json,
    "reid": read_reid,
    "semantic_mask": read_semantic_masks,
    "target_mask": read_target_masks,
    "salient_mask": read_salient_masks,
    "crowd": read_crowd,
    "scenes": read_scenes,
    "oriented": read_oriented,
}
