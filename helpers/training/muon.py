"""Muon: an optimizer for matrices, which are what most of a network's weights are."""

import torch
from torch import nn

# Of the quintic a x + b x³ + c x⁵, which brings every singular value of a matrix of norm 1 near 1 in five rounds (Jordan 2024)
QUINTIC = 3.4445, -4.7750, 2.0315


def orthogonalized(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """U V' of each matrix U S V' of a stack (N, A, B), nearly: its singular values come to lie between 0.7 and 1.2."""
    a, b, c = QUINTIC
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    x = x.mT if x.shape[1] > x.shape[2] else x
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


def matrices_of(network) -> list[nn.Parameter]:
    """The weights of convolutions and fully connected layers, but for the narrowest: of those every direction is of use anyway."""
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return [layer.weight for layer in layers if min(layer.weight.flatten(1).shape) >= 8]


class Muon(torch.optim.AdamW):
    """A step in which every direction of a weight matrix moves alike, however small its gradient; AdamW for what is no matrix.

    The momentum G = U S V' of a matrix (A, B), a convolution's flattened, is replaced by U V' (Jordan 2024), and scaled to
    0.2 sqrt(max(A, B)), the size of a step of AdamW, so that both can share their rate and decay (Liu et al. 2025, equation 4).
    """

    def __init__(self, network, momentum: float = 0.95, **settings):
        matrices = matrices_of(network)
        own = {id(weight) for weight in matrices}
        rest = [weight for weight in network.parameters() if id(weight) not in own]
        super().__init__([{"params": rest}, {"params": matrices, "momentum": momentum}], **settings)

    @torch.no_grad()
    def step(self):
        overflow = getattr(self, "found_inf", None)  # of a fused AdamW the scaler of float16 leaves it to the step itself to look at it
        if overflow is not None and overflow.item():
            return None
        group, alike = self.param_groups[1], {}
        for weight in group["params"]:
            if weight.grad is not None:
                alike.setdefault(weight.flatten(1).shape, []).append(weight)
        for shape, weights in alike.items():  # those of one shape together: many small products are slow one by one
            directions = []
            for weight in weights:
                if not self.state[weight]:  # the step is for AdamW, which looks for one in whatever state it loads
                    self.state[weight] |= {"step": torch.tensor(0.0), "momentum": torch.zeros_like(weight)}
                momentum = self.state[weight]["momentum"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                directions.append(weight.grad.lerp(momentum, group["momentum"]).flatten(1))  # Nesterov's
                weight.grad = None  # so that AdamW leaves it alone
            moves = orthogonalized(torch.stack(directions)) * (0.2 * max(shape) ** 0.5)
            for weight, move in zip(weights, moves, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move.view_as(weight), alpha=group["lr"])
        return super().step()
