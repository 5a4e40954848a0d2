"""torchvision beside a torch that was built for the CPU."""

import importlib
import re
import sys
from types import ModuleType

import torch

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_BOX_OPERATORS = 8
_declared: list[torch.library.Library] = []  # an operator lives as long as its library object does


def ensure_torchvision() -> ModuleType:
    """Import torchvision, also without its compiled operators; call it before open_clip or peft.

    The published torchvision is built for CUDA. Beside a CPU torch its operators are not registered, and the
    import stops at the first one that it describes to torch (`nms`, then `qnms`). Declaring those names is
    enough for transforms, timm, open_clip, transformers and peft. The operators themselves stay without a
    kernel: calling `torchvision.ops.nms` then raises `NotImplementedError`. Where torchvision imports as it
    is, nothing is changed.

    Returns:
        The imported package.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: it cannot be imported for another reason; most often torch and torchvision are no pair
            (requirements.lock names the pair in use).
    """
    for _ in range(_BOX_OPERATORS):
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None:
                raise
            _declare(missing[1])
            _forget_half_imported()
    return importlib.import_module("torchvision")


def _declare(operator: str) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(operator + _SCHEMA)
    _declared.append(library)


def _forget_half_imported() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
