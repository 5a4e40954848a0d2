"""Night images: told apart, brightened without touching what is stored, and weights that do not fit are refused."""

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from irgpt_lib.irtd import enhancement
from irgpt_lib.irtd.enhancement import (
    ENHANCEMENTS,
    UnfitWeights,
    clahe,
    enhance,
    enhancement_name,
    is_night,
    mean_luminance,
    published_shapes,
    read_curves,
    view_to_describe,
    zero_dce,
)
from irgpt_lib.irtd.record import RecordError, Sample, content_hash, png_bytes

REAL = Path(__file__).parents[2] / "shared" / "data"


def dark(height: int = 40, width: int = 56) -> np.ndarray:
    return np.random.default_rng(0).integers(5, 45, (height, width, 3), dtype=np.uint8)


def generated(separable: bool, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of the published names and shapes; the last bias makes every curve brighten."""
    generator = torch.Generator().manual_seed(seed)
    state = {n: 0.1 * torch.randn(s, generator=generator) for n, s in published_shapes(separable).items()}
    name = "e_conv7.point_conv.bias" if separable else "e_conv7.bias"
    return state | {name: torch.full(state[name].shape, -1.0)}


def saved(folder: Path, state: object, suffix: str = ".safetensors") -> str:
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return str(file)


class PublishedNetwork(torch.nn.Module):
    """Zero-DCE as the paper's figure has it, by torch's own layers: an independent forward pass."""

    def __init__(self, separable: bool):
        super().__init__()
        for number, (ins, outs) in enumerate(
            [(3, 32), *[(32, 32)] * 3, *[(64, 32)] * 2, (64, 3 if separable else 24)], 1
        ):
            depth = torch.nn.Conv2d(ins, ins, 3, padding=1, groups=ins)
            block = torch.nn.ModuleDict({"depth_conv": depth, "point_conv": torch.nn.Conv2d(ins, outs, 1)})
            setattr(self, f"e_conv{number}", block if separable else torch.nn.Conv2d(ins, outs, 3, padding=1))

    def layer(self, number: int, *inputs: torch.Tensor) -> torch.Tensor:
        block, joined = getattr(self, f"e_conv{number}"), torch.cat(inputs, 1)
        return (
            block["point_conv"](block["depth_conv"](joined))
            if isinstance(block, torch.nn.ModuleDict)
            else block(joined)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.layer(1, image).relu()
        second = self.layer(2, first).relu()
        third = self.layer(3, second).relu()
        fourth = self.layer(4, third).relu()
        sixth = self.layer(6, second, self.layer(5, third, fourth).relu()).relu()
        return self.layer(7, first, sixth).tanh()


# What is a night


def test_a_night_is_stated_or_dark():
    assert is_night(png_bytes(dark()))
    assert not is_night(png_bytes(dark() + 100))
    assert is_night(png_bytes(dark() + 100), "night")
    assert not is_night(png_bytes(dark()), "day")
    assert is_night(png_bytes(np.full((8, 8), 63, np.uint8)))
    assert not is_night(png_bytes(np.full((8, 8), 64, np.uint8)))


def test_real_frames_of_night_and_day_are_told_apart():
    if not (REAL / "llvip").is_dir():
        pytest.skip("needs the real files of llvip in ../shared/data")
    nights = sorted((REAL / "llvip" / "visible").iterdir())[:2]
    days = sorted((REAL / "flir_roadscene" / "crop_visible").iterdir())[:10]
    assert all(is_night(file.read_bytes()) for file in nights)
    assert not any(is_night(file.read_bytes()) for file in days)


# CLAHE


def test_clahe_brightens_the_dark_and_keeps_the_size():
    before = png_bytes(dark())
    after = enhance(before, "clahe")
    assert Image.open(io.BytesIO(after)).size == (56, 40)
    assert mean_luminance(after) > 2 * mean_luminance(before)


def test_clahe_keeps_gray_gray():
    gray = np.repeat(dark()[:, :, :1], 3, axis=2)
    after = clahe(gray).astype(int)
    assert np.ptp(after, axis=2).max() <= 1


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 30, 3), (5, 3, 3)])
@pytest.mark.parametrize("kind", ["clahe", "zero_dce"])
def test_tiny_and_flat_images_come_through(kind, shape, tmp_path):
    flat = np.full(shape, 9, np.uint8)
    weights = saved(tmp_path, generated(True)) if kind == "zero_dce" else ""
    assert Image.open(io.BytesIO(enhance(png_bytes(flat), kind, weights))).size == (shape[1], shape[0])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.fromarray(dark()).convert(mode).save(buffer, "TIFF")
    assert Image.open(io.BytesIO(enhance(buffer.getvalue(), "clahe"))).mode == "RGB"


# Zero-DCE


@pytest.mark.parametrize("separable", [False, True])
def test_zero_dce_is_the_published_network(separable, tmp_path):
    state = generated(separable)
    network = PublishedNetwork(separable)
    network.load_state_dict(state, strict=True)
    pixels = dark()
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        if separable:
            small = torch.nn.functional.interpolate(image, (3, 4), mode="bilinear")
            amounts = torch.nn.UpsamplingBilinear2d((40, 56))(network(small)).repeat(1, 8, 1, 1)
        else:
            amounts = network(image)
        for number in range(8):
            image = image + amounts[:, 3 * number : 3 * number + 3] * (image**2 - image)
    expected = (255 * image[0]).round().byte().permute(1, 2, 0).numpy()
    got = zero_dce(pixels, read_curves(saved(tmp_path, state)))
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert got.mean() > pixels.mean() + 20


def test_strips_leave_no_seam(tmp_path, monkeypatch):
    curves = read_curves(saved(tmp_path, generated(False)))
    at_once = zero_dce(dark(), curves)
    monkeypatch.setattr(enhancement, "STRIP_ROWS", 9)
    assert np.abs(zero_dce(dark(), curves).astype(int) - at_once).max() <= 1


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("separable", [False, True])
def test_both_files_and_both_networks_are_read(suffix, separable, tmp_path):
    file = saved(tmp_path, generated(separable), suffix)
    digest = content_hash(Path(file).read_bytes())
    curves = read_curves(file)
    assert (curves.separable, curves.digest) == (separable, digest)
    assert enhancement_name("zero_dce", file) == f"zero_dce:{digest[:12]}"


def test_a_file_that_changes_is_read_again(tmp_path):
    first = read_curves(saved(tmp_path, generated(False)))
    assert read_curves(saved(tmp_path, generated(True))).digest != first.digest


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in generated(False).items() if key != name}


class Trap:
    def __reduce__(self):
        return (print, ("this must never run",))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (without("e_conv3.bias"), r"e_conv3.bias: absent, expected \(32,\)"),
        (generated(False) | {"extra": torch.zeros(1)}, r"extra: \(1,\), expected absent"),
        (generated(False) | {"e_conv7.bias": torch.zeros(3)}, r"e_conv7.bias: \(3,\), expected \(24,\)"),
        (generated(True) | {"e_conv7.point_conv.bias": torch.zeros(24)}, r"differ from Zero-DCE\+\+'s"),
        ({"model": generated(False)}, "not a table of tensors"),
        ([1, 2], "not a table of tensors"),
        ({"e_conv1.weight": Trap()}, "not a file of tensors"),
    ],
)
def test_weights_that_do_not_fit_are_refused(state, said, tmp_path, capsys):
    with pytest.raises(UnfitWeights, match=said):
        read_curves(saved(tmp_path, state, ".pth"))
    assert not capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("data", [b"", b"garbage", b"\0" * 100, pickle.dumps(Trap(), protocol=2)])
def test_what_is_no_file_of_weights_is_refused(suffix, data, tmp_path):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(data)
    with pytest.raises(UnfitWeights, match=r"weights\.(pth|safetensors): not a file of tensors"):
        read_curves(str(file))


@pytest.mark.parametrize("weights", ["", "absent.pth"])
def test_absent_weights_say_what_to_do(weights):
    with pytest.raises(UnfitWeights, match="dataset.enhancement.kind = clahe"):
        enhance(png_bytes(dark()), "zero_dce", weights)


# The view for a describer


def sample(visible: bytes, **facts: str) -> Sample:
    infrared = png_bytes(dark()[:, :, 0])
    return Sample("s/1", "s", "tir", "scene", 56, 40, infrared, visible=visible, facts=facts)


def test_a_night_is_enhanced_and_recorded_and_the_sample_stays():
    taken = sample(png_bytes(dark()))
    before = replace(taken)
    view, facts = view_to_describe(taken, "clahe")
    assert facts == {"visible_enhanced": "clahe"}
    assert mean_luminance(view) > mean_luminance(taken.visible)
    assert taken == before


@pytest.mark.parametrize(
    ("taken", "kind"),
    [
        (sample(png_bytes(dark())), "none"),
        (sample(png_bytes(dark() + 100)), "clahe"),
        (sample(png_bytes(dark()), time="day"), "clahe"),
        (sample(b""), "clahe"),
    ],
)
def test_all_else_is_seen_as_it_is(taken, kind):
    assert view_to_describe(taken, kind) == (taken.visible, {})


@pytest.mark.parametrize("kind", [kind for kind in ENHANCEMENTS if kind != "none"])
def test_a_broken_image_has_a_reason(kind):
    with pytest.raises(RecordError, match="unreadable image"):
        enhance(png_bytes(dark())[:60], kind)
