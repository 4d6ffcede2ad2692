"""The exercises of notebook 02: autoencoders and VAEs."""

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


@exercise(2, 1)
def kl_between(answer):
    """`f(mean, log_std, prior_mean, prior_log_std)`: KL(N(mean, std^2) || N(prior_mean, prior_std^2)) of each row of (N, D), a prior that may
    be learned, in nats, (N,)."""
    mean, log_std, prior_mean, prior_log_std = torch.randn(4, 4, 3) * 0.7
    found = given(answer(mean, log_std, prior_mean, prior_log_std), (4,))
    same(given(answer(mean, log_std, mean, log_std), (4,)), 0.0, "It should be 0 where the Gaussian is the prior.")
    ours, prior = (torch.distributions.Normal(m, s.exp()) for m, s in ((mean, log_std), (prior_mean, prior_log_std)))
    expected = torch.distributions.kl_divergence(ours, prior)
    if torch.allclose(found, expected.mean(1), atol=1e-5):
        raise Wrong("The KL of independent latents is their sum; yours is their mean.")
    if torch.allclose(found, -expected.sum(1), atol=1e-5):
        raise Wrong("A KL is never negative: the sign is the wrong way round.")
    if torch.allclose(found, torch.distributions.kl_divergence(prior, ours).sum(1), atol=1e-5):
        raise Wrong("That is KL(prior || posterior): the average is over the first of the two.")
    why = f"torch.distributions says {expected.sum(1)[0]:.3f} nats for the first row, yours {found[0]:.3f}. Are both standard deviations logarithms?"
    same(found, expected.sum(1), why)


@exercise(2, 1)
def gaussian_likelihood(answer):
    """`f(mean, x, sigma)`: log p(x | z) of images x (N, D) under a decoder that says the mean (N, D) of a Gaussian of standard deviation sigma in
    every pixel, in nats, (N,)."""
    mean, x = torch.rand(2, 4, 6)
    for sigma in (1.0, 0.1):
        found = given(answer(mean, x, sigma), (4,))
        expected = torch.distributions.Normal(mean, sigma).log_prob(x)
        if torch.allclose(found, expected.mean(1), rtol=1e-4):
            raise Wrong("The probability of an image is the product over its pixels, so its logarithm is a sum; yours is a mean.")
        if torch.allclose(found, -0.5 * (mean - x).square().sum(1), rtol=1e-4) and sigma == 1:
            raise Wrong("That is right but for a constant, -log sqrt(2 pi) a pixel: without it it is no density.")
        why = f"With sigma = {sigma} torch.distributions says {expected.sum(1)[0]:.2f} nats for the first image, yours says {found[0]:.2f}."
        same(found, expected.sum(1), f"{why} Where does sigma stand? In two places.", 1e-4)


@exercise(2, 2)
def score_function(answer):
    """`f(reward, mean, std, noise)`: the score function's estimate of the gradient of E[reward(z)] by the mean of N(mean, std^2), numbers, of the
    draws z = mean + std noise, noise (K,); reward takes (K,) to (K,), and need not be differentiable. Return the average, a scalar."""
    noise = torch.randn(200_000)
    for mean, std in ((0.7, 0.5), (-0.4, 1.5)):
        found = given(answer(torch.square, mean, std, noise), ())
        if abs(found / std - 2 * mean) < 0.1 < abs(found - 2 * mean):
            raise Wrong("It is off by a factor of the standard deviation: the slope of log q at z is (z - mean) / std^2.")
        why = f"Of z^2 under N({mean}, {std}^2) the gradient is 2 mean = {2 * mean:.2f}; yours says {found:.2f}, of 200,000 draws."
        same(found, 2 * mean, f"{why} Average reward(z) times the slope of log q(z) by the mean.", 0.08)
    steps = given(answer(lambda z: (z > 0).float(), 0.0, 1.0, noise), (), "Of a reward that is a step, the result")
    same(
        steps,
        (2 * torch.pi) ** -0.5,
        "Of a step at 0 under N(0, 1) it should be the density there, 0.399: no gradient of the reward is needed.",
        0.02,
    )


@exercise(2, 2)
def importance_bound(answer):
    """`f(log_weights)`: of the logarithms of K importance weights for each of N images, (K, N), the importance-weighted bound on log p, (N,)."""
    log_weights = torch.randn(5, 3)
    found = given(answer(log_weights), (3,))
    if torch.allclose(found, log_weights.mean(0), atol=1e-5):
        raise Wrong("The mean of the logarithms is the ELBO; the bound is the logarithm of the mean.")
    alike = "Where all weights are alike the bound should be their logarithm: that of their mean, not of their sum, nor less log N."
    same(answer(torch.full((5, 3), -2.0)), -2.0, alike)
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
