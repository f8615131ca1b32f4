"""The base class of what sees each operator that runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See each operator that runs, without importing torch's compiler.

    torch keeps its compiler away from `__torch_dispatch__`, and imports the compiler to do so. That takes seconds, also
    in a process that compiles nothing.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()  # type: ignore[no-untyped-call]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
