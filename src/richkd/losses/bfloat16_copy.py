"""The bfloat16 copy of a memory bank, which is kept so that no step converts the whole bank."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.losses.contrast import product_dtype
from richkd.losses.negatives import update_bank


class Bfloat16Copy:
    """A memory bank as the matrix products of the contrastive loss read it under bfloat16 autocast.

    The copy is made when it is first needed, so a run in float32 has none. `update` changes a few rows of
    bank and copy. Any other change of the bank makes a new copy: PyTorch counts the in-place changes of a
    tensor, and moving it to another device or dtype gives another tensor. So the copy always equals the
    converted bank, also after a checkpoint was loaded. It is not a buffer, because it follows from the bank:
    checkpoints do not contain it, and it needs no synchronization between processes.

    Example:
        >>> bank_ND, copy = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), Bfloat16Copy()
        >>> copy.of(bank_ND) is bank_ND  # float32 products read the bank itself
        True
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     first_ND, again_ND = copy.of(bank_ND), copy.of(bank_ND)
        >>> torch.equal(first_ND, bank_ND.bfloat16()), again_ND is first_ND
        (True, True)
    """

    def __init__(self) -> None:
        self._copy_ND: Tensor | None = None
        self._bank_ND: Tensor | None = None
        self._version = -1

    def __reduce__(self) -> tuple[type[Bfloat16Copy], tuple[()]]:
        # A copied or pickled module makes a copy of its own bank.
        return (Bfloat16Copy, ())

    def of(self, bank_ND: Tensor) -> Tensor:
        """The bank in bfloat16 if products are computed in bfloat16, else the bank itself."""
        if product_dtype(bank_ND) != torch.bfloat16:
            return bank_ND
        if self._copy_ND is None or not self._is_current(bank_ND):
            self._copy_ND = bank_ND.detach().to(torch.bfloat16, copy=True)
            self._bank_ND, self._version = bank_ND, bank_ND._version
        return self._copy_ND

    def update(self, bank_ND: Tensor, rows_B: Tensor, v_BD: Tensor, momentum: float) -> None:
        """Update rows of the bank (`richkd.losses.negatives.update_bank`) and of its copy, if there is one.

        Raises:
            ConfigError: the momentum is outside [0, 1].
        """
        current = self._is_current(bank_ND)
        update_bank(bank_ND, rows_B, v_BD, momentum)
        if self._copy_ND is not None and current:
            self._copy_ND[rows_B] = bank_ND[rows_B].to(torch.bfloat16)
            self._version = bank_ND._version

    def _is_current(self, bank_ND: Tensor) -> bool:
        return self._bank_ND is bank_ND and self._version == bank_ND._version
