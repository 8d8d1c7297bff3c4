"""DiffAUD: classify images whose degradation is unknown.

>>> from DDA import Adapter, Ensemble, train_prior

`train_prior` trains a diffusion model on images. An `Adapter` pulls degraded images towards the
domain of such a model. An `Ensemble` sums what two classifiers say of the degraded and of the
adapted images. The names are imported on first use, so that ``import DDA`` waits for no other
package.
"""

from __future__ import annotations

from DDA import interrupts

interrupts.hold()  # before anything that takes time is imported

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from DDA.image_adapt.adapter import Adapter
    from DDA.image_adapt.prior_training import train_prior
    from DDA.model_adapt.evaluate import Ensemble

__all__ = ["Adapter", "Ensemble", "train_prior"]

_MODULES = {
    "Adapter": "DDA.image_adapt.adapter",
    "Ensemble": "DDA.model_adapt.evaluate",
    "train_prior": "DDA.image_adapt.prior_training",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names beside the module's own."""
    return sorted({*globals(), *__all__})
