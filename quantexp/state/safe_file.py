"""The tensors in a file of safetensors, which are in memory only while they are used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int8: "I8", torch.uint8: "U8"}
LENGTH_BYTES = 8  # of the number at the start of the file, the bytes of the header that follows


class SafeFile(Mapping[str, Tensor]):
    """Reads each tensor when it is asked for."""

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        self._path = path
        self._file: Any = safe_open(path, framework="pt", backend="pread")  # checks the header, and all offsets
        with path.open("rb") as file:
            self._start = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
            self._header: dict[str, Any] = json.loads(file.read(self._start - LENGTH_BYTES))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())

    def read_into(self, name: str, place: Tensor) -> bool:
        """Read a tensor into the memory of `place`, and return True if that has its shape and dtype, and no gaps."""
        described = self._header[name]
        kind, shape = DTYPES.get(place.dtype), list(place.shape)
        if (kind, shape) != (described["dtype"], described["shape"]) or not place.is_contiguous() or not shape:
            return False
        begin, _ = described["data_offsets"]
        with self._path.open("rb", buffering=0) as file, torch.no_grad():
            file.seek(self._start + begin)
            unread = place.view(-1).view(torch.uint8).numpy().data
            while unread:  # a call reads at most 2 GiB
                count = file.readinto(unread)
                if not count:
                    raise ValueError(f"{self._path.name} ends within {name}")
                unread = unread[count:]
        return True
