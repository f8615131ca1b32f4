"""What sees each operator that runs."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See each operator that runs, without the compiler.

    torch would keep its compiler away from `__torch_dispatch__`, and for that import it: two seconds in a process
    that compiles nothing.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False
