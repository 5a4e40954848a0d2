"""What surfaces are made of: reflectance in the visible, NIR and SWIR, emissivity and temperature in the TIR.

The numbers are band averages rounded to 0.05 and of the order that these spectral libraries give for the class; they
were not extracted spectrum by spectrum, and renders vary them around these values.

- Meerdink et al., "The ECOSTRESS spectral library version 1.0", Remote Sensing of Environment 230 (2019): asphalt,
  concrete, brick, soil and sand, water, vegetation, bark; 8-14 um emissivity of the same classes.
- Kokaly et al., "USGS Spectral Library Version 7", USGS Data Series 1035 (2017): paints, glass, fabrics, plastics.
- Cooksey and Allen, "Reflectance measurements of human skin from the ultraviolet to the shortwave infrared",
  Proc. SPIE 8734 (2013): skin, bright in the NIR and dark beyond 1.4 um.

Vegetation is bright in the NIR (red edge) and darker in the SWIR; water is dark in both; glass transmits in the NIR and
is nearly black in the TIR sense (emissivity near 0.9, so that it shows its own temperature).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

PLANCK = 6.62607015e-34
LIGHT_SPEED = 2.99792458e8
BOLTZMANN = 1.380649e-23
ZERO_CELSIUS = 273.15
TIR_WINDOW_UM = (8.0, 14.0)
LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Material:
    """Reflectances of 0-1 (`rgb`, `nir` 0.75-1.0 um, `swir` 1.0-1.7 um), emissivity of 0-1 over 8-14 um, and the
    surface temperature in degrees Celsius on a mild day and in the night after it."""

    rgb: tuple[float, float, float]
    nir: float
    swir: float
    emissivity: float
    day_celsius: float
    night_celsius: float


MATERIALS: dict[str, Material] = {
    "sky": Material((0.60, 0.75, 0.95), 0.25, 0.10, 1.00, 4.0, 2.0),
    "asphalt": Material((0.30, 0.30, 0.35), 0.30, 0.35, 0.95, 22.0, 16.0),
    "concrete": Material((0.60, 0.60, 0.55), 0.55, 0.60, 0.95, 19.0, 14.0),
    "brick": Material((0.60, 0.40, 0.35), 0.45, 0.55, 0.95, 21.0, 16.0),
    "window": Material((0.25, 0.35, 0.45), 0.20, 0.25, 0.90, 24.0, 20.0),
    "grass": Material((0.40, 0.60, 0.25), 0.75, 0.50, 0.95, 14.5, 8.0),
    "foliage": Material((0.15, 0.40, 0.20), 0.70, 0.40, 0.95, 15.0, 10.0),
    "bark": Material((0.35, 0.25, 0.20), 0.35, 0.40, 0.95, 12.5, 11.0),
    "water": Material((0.20, 0.40, 0.60), 0.10, 0.05, 0.95, 9.0, 10.0),
    "road paint": Material((0.90, 0.90, 0.85), 0.85, 0.80, 0.90, 19.5, 14.0),
    "sand": Material((0.80, 0.70, 0.55), 0.70, 0.75, 0.90, 19.5, 10.0),
    "skin": Material((0.80, 0.60, 0.50), 0.60, 0.25, 1.00, 34.0, 33.0),
    "glass": Material((0.25, 0.30, 0.40), 0.20, 0.30, 0.90, 13.5, 9.0),
    "rubber": Material((0.15, 0.15, 0.15), 0.15, 0.15, 0.95, 29.0, 27.0),
}


def luminance(rgb: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    """ITU-R BT.601 luma of linear reflectances."""
    return np.asarray(rgb @ LUMA)


def _planck_table() -> tuple[np.ndarray, np.ndarray]:
    celsius = np.linspace(-60.0, 120.0, 361)
    wavelength = np.linspace(*TIR_WINDOW_UM, 121) * 1e-6
    kelvin = celsius[:, None] + ZERO_CELSIUS
    exponent = PLANCK * LIGHT_SPEED / (wavelength * BOLTZMANN * kelvin)
    spectral = 2 * PLANCK * LIGHT_SPEED**2 / wavelength**5 / np.expm1(exponent)
    return celsius, np.trapezoid(spectral, wavelength, axis=1)


_CELSIUS, _RADIANCE = _planck_table()


def band_radiance(celsius: np.ndarray) -> np.ndarray:
    """Black-body radiance over 8-14 um in W m^-2 sr^-1 (Planck's law, interpolated), for -60 to 120 degrees Celsius."""
    return np.asarray(np.interp(celsius, _CELSIUS, _RADIANCE))
