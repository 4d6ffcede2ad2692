"""Training on several GPUs or hosts: `accelerate launch -m helpers train ...` (Hugging Face Accelerate); or several processes
of a computer without any: `torchrun --nproc-per-node 2 -m helpers train ...`.

Each process takes its share of every batch, and the gradients are averaged: together they take the step that one process
would take on the whole batch, but for the noise that each draws on its own and for what depends on the batch as a whole
(batch norm's statistics, a TCVAE's estimate). The first one alone writes and reports.
"""

import os

import torch

from helpers import UserError


class Team:
    """The processes that train one model together; `size` is 1 where nobody launched several, or where one of them trains `alone`."""

    def __init__(self, alone: bool = False):
        self.rank, self.size, self.accelerator = 0, 1 if alone else int(os.environ.get("WORLD_SIZE", 1)), None
        if self.size > 1:
            try:
                from accelerate import Accelerator
            except ModuleNotFoundError:
                raise UserError(f"WORLD_SIZE is {self.size}: training on several processes needs the package accelerate: pip install it.") from None
            self.accelerator = Accelerator(cpu=not torch.cuda.is_available())
            self.rank = self.accelerator.process_index

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch_size: int) -> slice:
        """Which images of a batch are this process's. UserError where the batch has no equal shares."""
        if batch_size % self.size:
            raise UserError(
                f"A batch of {batch_size} images has no equal shares for {self.size} processes: take a --batch-size divisible by {self.size}."
            )
        each = batch_size // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def average(self, tensor: torch.Tensor) -> torch.Tensor:
        """Mean of a tensor over the processes."""
        return self.accelerator.reduce(tensor, "mean") if self.size > 1 else tensor

    def average_gradients(self, network) -> None:
        """Give every process the mean gradient, in one message."""
        if self.size > 1:
            gradients = [p.grad for p in network.parameters() if p.grad is not None]
            whole = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, mean in zip(gradients, whole.split([gradient.numel() for gradient in gradients]), strict=True):
                gradient.copy_(mean.view_as(gradient))

    def average_buffers(self, network) -> None:
        """Give every process the mean of what runs along with the training, as batch norm's statistics, but of what a module calls `its_own`."""
        if self.size > 1:
            own = {id(getattr(module, name, None)) for module in network.modules() for name in getattr(module, "its_own", ())}
            buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point() and id(buffer) not in own]
            if buffers:
                whole = self.average(torch.cat([buffer.flatten() for buffer in buffers]))
                for buffer, mean in zip(buffers, whole.split([buffer.numel() for buffer in buffers]), strict=True):
                    buffer.copy_(mean.view_as(buffer))

    def own_noise(self, seed: int, step: int) -> None:
        """Let every process but the first draw random numbers of its own from here on."""
        if not self.first:
            torch.manual_seed(hash((seed, step, self.rank)) % 2**63)
