"""The truth of a simulated scene on the vision encoder's patch grid: dense targets and oracle image tokens.

The stand-in base model is supervised directly by this truth (notebook 00 says so): its vision encoder predicts it for
each patch, its language model first reads it in place of image features, and its projector is then fitted to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from irgpt_lib.irtd.record import Sample
from irgpt_lib.irtd.simulated.sprites import ATTRIBUTES, CATEGORIES
from irgpt_lib.irtd.simulated.world import SCENES

KINDS = ("scene", "aerial", "crowd", "montage")
UNKNOWN = -100
CLASSES = len(CATEGORIES) + 1
# A patch: class scores, box corners, leftmost, count, same person as in cell 1, attributes.
PATCH_OUTPUTS = CLASSES + 4 + 1 + 1 + 1 + len(ATTRIBUTES)
PATCH_ORACLE = PATCH_OUTPUTS + 1
CELLS = 8
BACKGROUND_WEIGHT = 0.25


@dataclass(frozen=True)
class Dense:
    """Targets of n scenes on a g x g patch grid; -1 or -100 where a scene has none of that kind.

    `category` 0 is background; `box` in units of the image; `leftmost` and `same` are 0 or 1; `count` objects centred
    in the patch; `attributes` of the person in the patch's cell; `answer` the cell (1-7, counted from 0) of Re-ID.
    """

    category: Int[Tensor, "n g g"]
    box: Float[Tensor, "n g g 4"]
    leftmost: Float[Tensor, "n g g"]
    count: Float[Tensor, "n g g"]
    same: Float[Tensor, "n g g"]
    attributes: Float[Tensor, "n g g a"]
    scene: Int[Tensor, " n"]
    kind: Int[Tensor, " n"]
    answer: Int[Tensor, " n"]

    def __getitem__(self, index: Int[Tensor, " k"]) -> "Dense":
        return Dense(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device) -> "Dense":
        return Dense(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def dense_targets(samples: Sequence[Sample], grid: int) -> Dense:
    """The targets of simulated samples.

    Raises:
        ValueError: a sample's category or scene is not of the simulated world.
    """
    n = len(samples)
    category = np.full((n, grid, grid), UNKNOWN)
    box = np.zeros((n, grid, grid, 4), np.float32)
    leftmost, same = np.full((2, n, grid, grid), -1.0, np.float32)
    count = np.zeros((n, grid, grid), np.float32)
    attributes = np.full((n, grid, grid, len(ATTRIBUTES)), -1.0, np.float32)
    scene, answer = np.full((2, n), UNKNOWN)
    for sample in samples:
        require_known(sample)
    kind = np.array([KINDS.index(s.kind) for s in samples])
    for i, sample in enumerate(samples):
        patch = sample.width / grid
        if sample.kind == "scene":
            scene[i] = SCENES.index(sample.scene)
            category[i] = 0
            for rank, b in enumerate(sample.boxes):
                x1, y1 = (int(np.ceil(v / patch - 0.5)) for v in (b.x1, b.y1))
                x2, y2 = (int(np.floor(v / patch - 0.5)) for v in (b.x2, b.y2))
                where = (i, slice(y1, max(y1, y2) + 1), slice(x1, max(x1, x2) + 1))
                category[where] = 1 + CATEGORIES.index(b.category)
                box[where] = np.array([b.x1, b.y1, b.x2, b.y2]) / sample.width
                if len(sample.boxes) > 1:
                    leftmost[where] = rank == 0
        elif sample.kind == "montage":
            answer[i] = sample.montage_answer - 1
            for cell, b in enumerate(sample.boxes):
                where = (i, *cell_slices(cell, grid))
                worn = b.identity.split("-")[2:]
                attributes[where] = [a in worn for a in ATTRIBUTES]
                same[where] = -1.0 if cell == 0 else float(cell == answer[i])
        else:
            for b in sample.boxes:
                x, y = (min(grid - 1, int(v / patch)) for v in b.centre)
                count[i, y, x] += 1
    tensors = (category, box, leftmost, count, same, attributes, scene, kind, answer)
    return Dense(*(torch.from_numpy(t) for t in tensors))


def require_known(sample: Sample) -> None:
    """Refuse what the simulated world does not draw."""
    odd = {b.category for b in sample.boxes} - set(CATEGORIES)
    if odd or (sample.kind == "scene" and sample.scene not in SCENES) or sample.kind not in KINDS:
        raise ValueError(
            f"{sample.sample_id}: dense targets know the categories {', '.join(CATEGORIES)}, the scenes "
            f"{', '.join(SCENES)} and the kinds {', '.join(KINDS)}; not {sorted(odd) or [sample.scene, sample.kind]}"
        )


def cell_slices(cell: int, grid: int) -> tuple[slice, slice]:
    """Rows and columns of the patch grid that cell 0-7 of a 2 x 4 montage covers."""
    high, wide = grid // 2, grid // 4
    return slice(cell // 4 * high, (cell // 4 + 1) * high), slice(cell % 4 * wide, (cell % 4 + 1) * wide)


def shuffle_down(x: Float[Tensor, "b g g c"]) -> Float[Tensor, "b t q"]:
    """Join the channels of each 2 x 2 block of patches: the tokens of the projector, row by row."""
    b, g, _, c = x.shape
    return x.view(b, g // 2, 2, g // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, (g // 2) ** 2, 4 * c)


def shuffle_up(x: Float[Tensor, "b t q"], grid: int) -> Float[Tensor, "b g g c"]:
    """The inverse of `shuffle_down`."""
    b, half = len(x), grid // 2
    return x.view(b, half, half, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, grid, grid, -1)


def oracle_tokens(dense: Dense) -> Float[Tensor, "b t q"]:
    """The truth as the numbers that stand in for image tokens: four patches, the scene and the kind of each."""
    b, grid = dense.category.shape[:2]
    patch = torch.zeros(b, grid, grid, PATCH_ORACLE)
    known, thing = dense.category >= 0, (dense.category > 0)[..., None]
    patch[..., :CLASSES][known] = F.one_hot(dense.category[known], CLASSES).float()
    patch[..., CLASSES : CLASSES + 4] = (2 * dense.box - 1) * thing
    patch[..., CLASSES + 4] = torch.where(dense.leftmost >= 0, 2 * dense.leftmost - 1, 0.0)
    patch[..., CLASSES + 5] = dense.count
    patch[..., CLASSES + 6] = (dense.same > 0).float()
    patch[..., CLASSES + 7] = 0.5 * (dense.same == 0)
    patch[..., CLASSES + 8 :] = torch.where(dense.attributes >= 0, 2 * dense.attributes - 1, 0.0)
    whole = torch.zeros(b, len(SCENES) + len(KINDS))
    seen = dense.scene >= 0
    whole[seen, : len(SCENES)] = F.one_hot(dense.scene[seen], len(SCENES)).float()
    whole[:, len(SCENES) :] = F.one_hot(dense.kind, len(KINDS)).float()
    tokens = shuffle_down(patch)
    return torch.cat([tokens, whole[:, None].expand(-1, tokens.shape[1], -1)], dim=2)


ORACLE_WIDTH = 4 * PATCH_ORACLE + len(SCENES) + len(KINDS)


class OracleProjector(nn.Module):
    """Maps oracle tokens to the width of the language model: the target that the real projector is fitted to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(ORACLE_WIDTH, 192), nn.GELU(), nn.Linear(192, width))

    def forward(self, tokens: Float[Tensor, "b t q"]) -> Float[Tensor, "b t width"]:
        return self.layers(tokens)


class DenseHead(nn.Module):
    """Reads the dense targets from the vision encoder's patches; it supervises the base and is then thrown away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 4 * PATCH_OUTPUTS + len(SCENES)))

    def forward(self, patches: Float[Tensor, "b g g c"]) -> tuple[Float[Tensor, "b g g o"], Float[Tensor, "b t s"]]:
        out = self.layers(shuffle_down(patches))
        return shuffle_up(out[..., : 4 * PATCH_OUTPUTS], patches.shape[1]), out[..., 4 * PATCH_OUTPUTS :]

    def loss(self, patches: Float[Tensor, "b g g c"], dense: Dense) -> Tensor:
        """The weighted sum of the losses of all targets; a target that no scene of the batch has adds nothing."""
        out, scene = self(patches)
        part = out.split([CLASSES, 4, 1, 1, 1, len(ATTRIBUTES)], dim=-1)
        category, box, leftmost, count, same, attributes = part[0], part[1], *(p[..., 0] for p in part[2:5]), part[5]
        seen, thing, ranked = dense.category >= 0, dense.category > 0, dense.leftmost >= 0
        counted, cells, worn = (dense.kind == 1) | (dense.kind == 2), dense.same >= 0, dense.attributes >= 0
        asked, placed = dense.answer > 0, dense.scene >= 0
        importance = torch.where(thing[seen], 1.0, BACKGROUND_WEIGHT)
        named = F.cross_entropy(category[seen], dense.category[seen], reduction="none")
        total = 2 * (importance * named).sum() / importance.sum().clamp(min=1)
        total = total + 6 * average((box[thing] - dense.box[thing]).abs())
        total = total + average(binary(leftmost[ranked], dense.leftmost[ranked]))
        total = total + 4 * average((count - dense.count)[counted].square())
        total = total + average(binary(same[cells], dense.same[cells]))
        votes = F.cross_entropy(cell_votes(same)[asked], dense.answer[asked] - 1, reduction="none")
        total = total + average(votes) + average(binary(attributes[worn], dense.attributes[worn]))
        scenes = dense.scene[placed][:, None].expand(-1, scene.shape[1]).flatten()
        return total + 0.5 * average(F.cross_entropy(scene[placed].flatten(0, 1), scenes, reduction="none"))


def average(losses: Tensor) -> Tensor:
    """The mean, and 0 where there is nothing to average."""
    return losses.sum() / max(losses.numel(), 1)


def binary(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def cell_votes(same: Float[Tensor, "b g g"]) -> Float[Tensor, "b cells"]:
    """The mean over each of the cells 2-8 of a montage."""
    grid = same.shape[1]
    return torch.stack([same[:, *cell_slices(cell, grid)].mean((1, 2)) for cell in range(1, CELLS)], dim=1)
