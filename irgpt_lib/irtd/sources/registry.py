"""The data sets that the study can read now, and the formats that they come in.

Index numbers, titles and tasks follow the release's own list (`docs/source_datasets.md` of
WheatCao/ICCV2025-IRGPT); what is not known is marked `unknown`. A further data set in a known format is one
entry of `SOURCES`.
"""

from irgpt_lib.irtd.sources.source import Source

_ALL = (
    Source(
        name="flir_roadscene",
        index=63,
        title="FLIR_ADAS",
        band="tir",
        paired=True,
        task="ADAS object detection: person, bicycle, car, dog",
        format="flir_csv",
        alternatives=("flir_crop",),
        folder="flir_roadscene",
        home="https://prep.flir.eu/oem/adas/adas-dataset-form/ (aligned crops: https://github.com/hanna-xu/RoadScene)",
        terms="FLIR research terms",
        what_belongs_there="boxes.csv, frames in infrared/, and for pairs crop_infrared/, crop_visible/ and "
        "ir_full_to_crop_transforms.json",
        naming="flir",
    ),
    Source(
        name="hit_uav",
        index=None,
        title="HIT-UAV",
        band="tir",
        paired=False,
        task="UAV object detection: person, car, bicycle, other vehicle",
        format="coco",
        alternatives=("voc",),
        folder="hit_uav",
        home="https://github.com/suojiashun/HIT-UAV-Infrared-Thermal-Dataset",
        terms="CC BY 4.0",
        what_belongs_there="annotations/<split>.json with images in <split>/, or Pascal VOC files in voc/",
        kind="aerial",
        counted=("car", "person"),
        naming="hit_uav",
    ),
    Source(
        name="visnir_scenes",
        index=51,
        title="RGBNIR",
        band="nir",
        paired=True,
        task="RGB-NIR scene classification (9 classes)",
        format="visnir",
        folder="visnir_scenes",
        home="https://github.com/YuChuang1205/VIS-NIR-registration-dataset "
        "(from https://www.epfl.ch/labs/ivrl/research/downloads/rgb-nir-scene-dataset/)",
        terms="unknown: no licence stated",
        what_belongs_there="a folder a scene class with <number>_nir and <number>_rgb images, and "
        "<number>_nir.npy where the near-infrared image was warped",
    ),
    Source(
        name="llvip",
        index=1,
        title="LLVIP",
        band="tir",
        paired=True,
        task="Low-light pedestrian detection",
        format="llvip",
        folder="llvip",
        home="https://bupt-ai-cz.github.io/LLVIP/",
        terms="academic use",
        what_belongs_there="infrared/ and visible/ with the same names, and Annotations/ with Pascal VOC files",
        naming="llvip",
    ),
    Source(
        name="elpv",
        index=57,
        title="solar_cell_EL_image",
        band="nir",
        paired=False,
        task="Defect probability of solar cells in electroluminescence images",
        format="elpv",
        folder="elpv",
        home="https://github.com/zae-bayern/elpv-dataset",
        terms="data CC BY-NC-SA 4.0, code Apache-2.0",
        what_belongs_there="labels.csv and images/ of the package elpv-dataset",
        extra="elpv",
        kind="object",
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
