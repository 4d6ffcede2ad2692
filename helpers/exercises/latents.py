"""The exercises of notebook 03: better posteriors, disentanglement."""

import math

import torch
import torch.nn.functional as F

from helpers.exercises.checks import Wrong, exercise, given, logdet, same, two


@exercise(3, 1)
def gaussian_total_correlation(answer):
    """`f(covariance)`: the total correlation, KL(q(z) || product of q(z_i)), of a Gaussian with covariance (D, D), in nats."""
    found = answer(torch.diag(torch.tensor([0.5, 2.0, 3.0])))
    same(given(found, ()), 0.0, "Of independent latents it should be 0, whatever their widths.")
    tied = answer(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    same(tied, -0.5 * math.log(1 - 0.36), f"Two latents of correlation 0.6 should have -1/2 log(1 - 0.36) = 0.223 nats, and yours have {tied:.3f}.")
    a = torch.randn(4, 4)
    covariance = a @ a.T + torch.eye(4)
    expected = torch.distributions.kl_divergence(
        torch.distributions.MultivariateNormal(torch.zeros(4), covariance),
        torch.distributions.MultivariateNormal(torch.zeros(4), torch.diag(covariance.diagonal())),
    )
    same(answer(covariance), expected, "torch.distributions disagrees for four dependent latents.", 1e-4)


@exercise(3, 2)
def planar(answer):
    """`f(z, u, w, b)`: the planar flow z + u tanh(w . z + b) of rows z (N, D), and its log-determinant (N,)."""
    z, w, u, b = torch.randn(5, 3), torch.randn(3), 0.3 * torch.randn(3), torch.tensor(0.2)
    bent, log_det = two(answer(z, u, w, b), ((5, 3), (5,)), ("the bent z", "the log-determinant"))
    expected = z + u * torch.tanh(z @ w + b)[:, None]
    same(bent, expected, "The first result should be z + u tanh(w . z + b), row by row.")
    truth = logdet(lambda one: one + u * torch.tanh(one @ w + b)[:, None], z)
    same(
        log_det,
        truth,
        f"By autograd the first row's log-determinant is {truth[0]:.3f}, yours is {log_det[0]:.3f}: 1 + u . w times the slope of tanh.",
    )


@exercise(3, 2)
def arc(answer):
    """`f(a, b, t)`: a and b (D,) have the same length; the point at share t of the angle from a to b, at that length (slerp)."""
    for norm in (1.0, 2.5):
        a, b = norm * F.normalize(torch.randn(2, 5), dim=1)
        same(given(answer(a, b, 0.0), (5,)), a, "At 0 it should be a, whatever the norm of both.")
        same(given(answer(a, b, 1.0), (5,)), b, "At 1 it should be b.")
        middle, chord = given(answer(a, b, 0.5), (5,)), (a + b).norm() / 2
        if abs(middle.norm() - chord) < 1e-4:
            raise Wrong(f"Halfway it should be as far from the origin as its ends, {norm}; yours is at {chord:.3f}, on the chord.")
        same(middle.norm(), norm, f"Halfway it should be as far from the origin as its ends, {norm}; yours is at {middle.norm():.3f}.", 1e-4)
        angle, part = ((a @ one).div(norm**2).clamp(-1, 1).acos() for one in (b, given(answer(a, b, 0.25), (5,))))
        same(part / angle, 0.25, f"A quarter of the way should be a quarter of the angle between a and b; yours is {part / angle:.3f} of it.", 1e-2)


@exercise(3, 3)
def gap(answer):
    """`f(information, entropy)`: the mutual information gap of what latents tell of factors, (latents, factors), and the factors' entropies: how
    far, for each factor, the best latent is ahead of the second, as a share of the factor's entropy, on average."""
    perfect = given(answer(torch.diag(torch.tensor([1.0, 2.0])), torch.tensor([1.0, 2.0])), ())
    same(perfect, 1.0, "A latent for each factor, which tells all of it and nothing else, should have a gap of 1: divide by the entropies.")
    same(answer(torch.ones(3, 2), torch.tensor([1.0, 2.0])), 0.0, "Where all latents tell as much there should be no gap.")
    one = answer(torch.tensor([[0.8, 0.8], [0.1, 0.2]]), torch.ones(2))
    why = "One latent that tells both factors has a gap of 0.65 here: for each factor the best latent against the second, not the other way round."
    same(one, 0.65, why)
    three = answer(torch.tensor([[0.9, 0.1], [0.6, 0.2], [0.0, 1.8]]), torch.tensor([1.0, 2.0]))
    why = f"Of three latents and entropies of 1 and 2 it should be (0.3 / 1 + 1.6 / 2) / 2 = 0.55, and yours is {three:.3f}:"
    same(three, 0.55, f"{why} the second best latent, not the last; each factor's gap by its own entropy, then the average.")
