"""How far apart two colours look, to any eye and to one with a colour vision deficiency.

    apart("#0072b2", "#d55e00", "deuteranopia")

The measure is the distance in Oklab, in hundredths: black and white are 100 apart. Sources: Ottosson, "A perceptual
color space for image processing" (2020); Machado, Oliveira and Fernandes, "A physiologically-based model for simulation
of color vision deficiency" (2009), at full severity.
"""

import numpy as np
from matplotlib.colors import to_rgb

VIEWS = {
    "any": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
_CONES = np.array(
    [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
     [0.0883024619, 0.2817188376, 0.6299787005]]
)  # fmt: skip
_LAB = np.array(
    [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
     [0.0259040371, 0.7827717662, -0.8086757660]]
)  # fmt: skip


def apart(first: str, second: str, view: str = "any") -> float:
    """The difference of two colours as an eye of VIEWS sees them."""
    return 100 * float(np.linalg.norm(oklab(first, view) - oklab(second, view)))


def oklab(colour: str, view: str = "any") -> np.ndarray:
    """Lightness, from green to red, and from blue to yellow."""
    values = np.array(to_rgb(colour))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    found: np.ndarray = _LAB @ np.cbrt(_CONES @ np.clip(VIEWS[view] @ linear, 0, 1))
    return found
