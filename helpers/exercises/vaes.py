"""The exercises of notebook 02: autoencoders and VAEs."""

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


@exercise(2, 1)
def drawn(answer):
    """`f(mean, log_std, noise)`: a draw from N(mean, std^2) made of standard normal noise, through which gradients pass."""
    mean, log_std = (torch.randn(3, 2, requires_grad=True) for _ in range(2))
    noise = torch.randn(3, 2)
    found = given(answer(mean, log_std, noise), (3, 2))
    same(answer(mean, log_std, torch.zeros(3, 2)), mean, "Noise of 0 should give the mean.")
    same(found, mean + log_std.exp() * noise, "The noise should be multiplied by the standard deviation, and what is given is its logarithm.")
    if not found.requires_grad:
        raise Wrong("No gradient passes through it, and the encoder learns by that gradient.")


@exercise(2, 1)
def gaussian_kl(answer):
    """`f(mean, log_std)`: KL(N(mean, std^2) || N(0, I)) of each row of (N, D), in nats, (N,)."""
    mean, log_std = torch.randn(4, 3), torch.randn(4, 3)
    found = given(answer(mean, log_std), (4,))
    same(answer(torch.zeros(1, 3), torch.zeros(1, 3)), 0.0, "It should be 0 where the Gaussian is the prior.")
    ours, prior = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(ours, prior)
    if torch.allclose(found, expected.mean(1), atol=1e-5):
        raise Wrong("The KL of independent latents is their sum; yours is their mean.")
    if torch.allclose(found, -expected.sum(1), atol=1e-5):
        raise Wrong("A KL is never negative: the sign is the wrong way round.")
    same(found, expected.sum(1), f"torch.distributions says {expected.sum(1)[0]:.3f} nats for the first row, yours says {found[0]:.3f}.")


@exercise(2, 2)
def log_likelihood(answer):
    """`f(logits, x)`: log p of binary images x (N, D) under independent Bernoulli variables with these logits, (N,)."""
    logits, x = 3 * torch.randn(4, 6), torch.randint(0, 2, (4, 6)).float()
    expected = torch.distributions.Bernoulli(logits=logits).log_prob(x)
    found = given(answer(logits, x), (4,))
    if torch.allclose(found, expected.mean(1), atol=1e-5):
        raise Wrong("The probability of an image is the product over its pixels, so its logarithm is a sum; yours is a mean.")
    same(found, expected.sum(1), f"torch.distributions says {expected.sum(1)[0]:.3f} nats for the first row, yours says {found[0]:.3f}.")
    sure = given(answer(torch.full((1, 6), 200.0), torch.zeros(1, 6)), (1,), "Where the decoder is sure and wrong, the result")
    same(
        sure,
        -1200.0,
        "Logits of 200 and pixels of 0 should cost 200 nats each: take the logarithm of a sigmoid in one go, or it rounds to 0 or to 1.",
    )


@exercise(2, 2)
def importance_bound(answer):
    """`f(log_weights)`: of the logarithms of K importance weights for each of N images, (K, N), the importance-weighted bound on log p, (N,)."""
    log_weights = torch.randn(5, 3)
    found = given(answer(log_weights), (3,))
    if torch.allclose(found, log_weights.mean(0), atol=1e-5):
        raise Wrong("The mean of the logarithms is the ELBO; the bound is the logarithm of the mean.")
    same(answer(torch.full((5, 3), -2.0)), -2.0, "Where all weights are alike the bound should be their logarithm: is it their mean, or their sum?")
    same(found, log_weights.exp().mean(0).log(), "It is not the logarithm of the mean of the weights.")
    far = given(answer(torch.full((5, 3), -2_000.0)), (3,), "For weights of e^-2000 the result")
    same(far, -2_000.0, "For weights of e^-2000 it should be -2000: subtract the highest logarithm before exp, or let logsumexp do it.")


@exercise(2, 3)
def aggregate(answer):
    """`f(z, means, log_stds)`: log q(z) of points z (M, D) under the aggregate posterior of N images with encoders' Gaussians (N, D), (M,)."""
    means, log_stds, z = torch.randn(6, 2), 0.3 * torch.randn(6, 2), torch.randn(4, 2)
    gaussians = torch.distributions.Independent(torch.distributions.Normal(means, log_stds.exp()), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(6)), gaussians)
    found, one_by_one = given(answer(z, means, log_stds), (4,)), gaussians.log_prob(z[:, None])
    if torch.allclose(found, one_by_one.mean(1), atol=1e-5):
        raise Wrong("q(z) is the mean of the densities; yours is the mean of their logarithms.")
    same(
        found, mixture.log_prob(z), f"As a mixture of torch.distributions the first point has {mixture.log_prob(z)[0]:.3f}, yours has {found[0]:.3f}."
    )
