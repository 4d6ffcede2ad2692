"""Solutions to the exercises of notebook 01; `python solutions/01_realnvp.py` checks them."""

import math

import torch

from helpers import exercises


def bits_per_dim(nats, dims):
    return nats / (dims * math.log(2))


def guided(told, untold, w):
    return told + w * (told - untold)


def coupling(z, mask, network):
    s, t = network(mask * z)  # of the part that was left alone: z has it as x had it
    x = mask * z + (1 - mask) * (z * (-s).exp() - t)
    return x, -((1 - mask) * s).sum(1)


def dequantised(x, u):
    return (x + u) / 256, torch.full((len(x),), -x.shape[1] * math.log(256))


def euler(velocity, x, steps):
    for i in range(steps):
        x = x + velocity(x, torch.full((len(x),), i / steps)) / steps
    return x


def jacobian_trace(v, x):
    x = x.detach().requires_grad_()
    out, trace = v(x), 0.0
    for i in range(x.shape[1]):  # a backward pass for each element of the diagonal
        trace = trace + torch.autograd.grad(out[:, i].sum(), x, retain_graph=True)[0][:, i]
    return trace.detach()


if __name__ == "__main__":
    for name in (one for one, found in exercises.EXERCISES.items() if found.notebook == 1):
        exercises.check(name, globals()[name])
