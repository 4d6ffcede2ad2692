"""The same velocity, seen as a diffusion model: what it says of noise, data and score, and what can be done with that.

On the straight path x_t = (1 - t) noise + t data the velocity is data - noise. Whoever has x, t and the mean velocity has the
mean noise, the mean data and the score as well: three names of one network (Albergo et al. 2023; Ma et al. 2024).
"""

import torch

from helpers import UserError
from helpers.models.matching import euler


def endpoints(x, v, t):
    """Mean noise and mean data, (N, ...) each, given x (N, ...) at t (N,), of the velocity v (N, ...) there."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    return x - t * v, x + (1 - t) * v


def score(x, v, t):
    """The gradient of log p_t at x (N, ...), for t (N,) below 1: -E[noise | x] / (1 - t) (Tweedie's formula)."""
    return -endpoints(x, v, t)[0] / (1 - t).view(-1, *[1] * (x.ndim - 1))


def ddim(velocity, x, t, s):
    """x at times s (N,) of x at t (N,): mean noise and mean data are mixed anew (Song et al. 2021, equation 12, on this path)."""
    noise, data = endpoints(x, velocity(x, t), t)
    s = s.view(-1, *[1] * (x.ndim - 1))
    return (1 - s) * noise + s * data


def stochastic(velocity, x, steps: int, strength: float) -> list[torch.Tensor]:
    """x (N, ...) at each of `steps` + 1 times, along a path that is stirred with noise and has the same density at each time.

    dx = [v + c (t v - x)] dt + sqrt(2 c (1 - t)) dW, with c the strength: what the noise spreads, the score, times c (1 - t),
    draws together again (Song et al. 2021, section 4.3; Ma et al. 2024, equation 5). 0 is Euler's method. The last step
    adds no noise, for nobody would take it away.
    """
    if steps < 1 or strength < 0:
        raise UserError(f"{steps} steps at a strength of {strength} were asked for: take at least 1, and a strength from 0 up.")
    dt, points = 1 / steps, [x]
    for i in range(steps):
        t, x = i * dt, points[-1]
        v = velocity(x, x.new_full((len(x),), t))
        if i < steps - 1:
            x = x + dt * strength * (t * v - x) + (2 * strength * (1 - t) * dt) ** 0.5 * torch.randn_like(x)
        points.append(x + dt * v)
    return points


def inpaint(velocity, known, mask, steps: int, repeats: int = 1) -> torch.Tensor:
    """Data (N, ...) that agree with `known` (N, ...) where the mask, of its shape or broadcast to it, is true.

    At each time the known part is put in with the noise of that time, and the rest takes a step along the velocity. It
    has looked at another noise than it will see next: so each step is undone by noise and taken again, `repeats` times in all,
    until both parts agree (Lugmayr et al. 2022, RePaint, algorithm 1). Once each, it is far from the conditional law; it nears it
    as the repeats grow, and needs small steps then: what Euler loses in a step is lost again in each repeat.
    """
    if steps < 1 or repeats < 1:
        raise UserError(f"{steps} steps, {repeats} times each, were asked for: take at least 1 of both.")
    x = torch.randn_like(known)
    for i in range(steps):
        t, s = i / steps, (i + 1) / steps
        for again in reversed(range(repeats)):
            x = euler(velocity, x, x.new_full((len(x),), t), s - t)
            x = torch.where(mask, s * known + (1 - s) * torch.randn_like(x), x)
            if again:
                x = noisier(x, s, t)
    return x


def noisier(x, t: float, earlier: float):
    """x of time t (N, ...) with as much noise as at an earlier time: a draw of x there, given x here."""
    share = earlier / t
    return share * x + ((1 - earlier) ** 2 - (share * (1 - t)) ** 2) ** 0.5 * torch.randn_like(x)


SIDES = ("right", "left", "top", "bottom")


def hidden_side(shape, side: str, share: float, device=None) -> torch.Tensor:
    """A mask (C, H, W), true where an image stays known: all but the given share of it at one side."""
    _, height, width = shape
    across, down = torch.arange(width, device=device) / width, torch.arange(height, device=device)[:, None] / height
    known = {"right": across < 1 - share, "left": across >= share, "top": down >= share, "bottom": down < 1 - share}[side]
    return known.expand(shape)
