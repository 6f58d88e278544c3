"""What rooms that may not import each other must read alike from a Hugging Face config.json. Torch-free."""

from collections.abc import Mapping
from typing import Any

CLASSIFIER = "ForSequenceClassification"


def is_scalar(config: Mapping[str, Any]) -> bool:
    """Is the model a sequence classifier? Its head `score` [1, H] then stands in the place of the vocabulary's."""
    return any(str(name).endswith(CLASSIFIER) for name in config.get("architectures") or ())
