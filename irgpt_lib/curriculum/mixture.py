"""The noisy-correspondence baseline beside Eq. 5: which pairs do the losses themselves call clean?

DivideMix (Li et al. 2020) and NCR (Huang et al. 2021) fit two Gaussians to the losses of a warmed-up model; the one
with the smaller mean is taken for the clean pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.mixture import GaussianMixture
from torch import Tensor

# On losses scaled to 0..1, as in both papers' code: no component may shrink to a point.
LEAST_VARIANCE = 5e-4


@dataclass(frozen=True, eq=False)
class CleanMixture:
    """Two Gaussians over losses, the clean one first.

    `clean_probability` is each sample's posterior of the clean component, 0-1. `means` and `deviations` are in the
    unit of the losses, `shares` sum to 1.
    """

    clean_probability: Float[Tensor, " n"]
    means: tuple[float, float]
    deviations: tuple[float, float]
    shares: tuple[float, float]

    @property
    def separation(self) -> float:
        """Ashman's D, the gap of the means over the root of the mean variance: below 2 the losses show one hill, and
        where it is cut is arbitrary."""
        return float(np.sqrt(2) * (self.means[1] - self.means[0]) / np.hypot(*self.deviations))


def clean_mixture(losses: Float[Tensor, " n"], *, seed: int) -> CleanMixture:
    """Fit the mixture to the losses (any finite values), scaled to 0..1 first as NCR does.

    The posterior need not fall with the loss everywhere: where the noisy component is the wider one, it also claims
    losses far below the clean mean. NCR takes the posterior as it is, and so does this.

    Raises:
        ValueError: fewer than two different losses, or one is not finite.
    """
    bad = (~losses.isfinite()).nonzero().flatten()
    if len(bad):
        raise ValueError(f"{len(bad)} losses are not finite, the first is sample {int(bad[0])}: score it again")
    if len(losses.unique()) < 2:
        raise ValueError(f"{len(losses)} losses hold no two different values, so no mixture can be fitted")
    values = losses.double().numpy(force=True)[:, None]
    low, span = values.min(), np.ptp(values)
    scaled = (values - low) / span
    model = GaussianMixture(n_components=2, reg_covar=LEAST_VARIANCE, random_state=seed).fit(scaled)
    order = model.means_[:, 0].argsort(kind="stable")
    return CleanMixture(
        torch.from_numpy(model.predict_proba(scaled)[:, order[0]]).to(losses.device),
        tuple((low + span * model.means_[order, 0]).tolist()),
        tuple((span * np.sqrt(model.covariances_[order, 0, 0])).tolist()),
        tuple(model.weights_[order].tolist()),
    )
