"""Read tensors of a Hugging Face folder by name, one at a time, from one safetensors file or many."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from k15.errors import DataError


@contextmanager
def folder_reader(folder: Path) -> Iterator[Callable[[str], Tensor]]:
    """A function from tensor name to the full tensor (on the host); files are memory-mapped while the context lasts.

    Raises DataError for a folder without safetensors or a name that is not in it.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        where = json.loads(index.read_text())["weight_map"]
    else:
        where = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as opened:
                where |= dict.fromkeys(opened.keys(), file.name)
    if not where:
        raise DataError(f"{folder} has no *.safetensors file; save the model in that format")
    with ExitStack() as stack:
        opened = {name: stack.enter_context(safe_open(folder / name, framework="pt")) for name in set(where.values())}

        def read(name: str) -> Tensor:
            if name not in where:
                raise DataError(f"{folder} has no tensor {name!r}; is its config.json that of the weights?")
            return opened[where[name]].get_tensor(name)

        yield read
