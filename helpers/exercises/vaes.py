"""The exercises of notebook 02: autoencoders and VAEs."""

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


@exercise(2, 1)
def kl_between(answer):
    """`f(mean, log_std, prior_mean, prior_log_std)`, all (N, D): the KL from N(mean, std^2) to another diagonal Gaussian, a prior that is learned.
    Sum it over the D latents: one number in nats for each row, (N,). Write the formula; `torch.distributions` is the referee."""
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
    """`f(mean, x, sigma)`: log p(x | z) of images x (N, D) under a decoder that outputs the mean (N, D) of a Gaussian of standard deviation sigma in
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
def leave_one_out(answer):
    """`f(reward, mean, std, noise)`: the score function with a baseline. Draw z = mean + std noise, noise (K,). From the reward of each draw
    subtract the mean reward of the *other* K - 1 draws; then average as above. mean and std are numbers, reward maps (K,) to (K,)."""
    noise = torch.randn(5, dtype=torch.float64)
    for mean, std in ((0.7, 0.5), (-0.4, 1.5)):
        z = mean + std * noise
        rewards, slope = z.square(), (z - mean) / std**2
        others = (rewards.sum() - rewards) / 4
        found = given(answer(torch.square, mean, std, noise), ())
        wrongs = {
            "That is the score function without a baseline: right on average, and it scatters as before.": (rewards * slope).mean(),
            "Leave each draw's own reward out of its baseline: with it in, the estimate is too small by (K - 1) / K.": (
                (rewards - rewards.mean()) * slope
            ).mean(),
            "It is off by a factor of the standard deviation: the slope of log q at z is (z - mean) / std^2.": ((rewards - others) * noise).mean(),
        }
        for why, value in wrongs.items():
            if torch.allclose(found.double(), value, rtol=1e-4):
                raise Wrong(why)
        truth = ((rewards - others) * slope).mean()
        same(found, truth, f"For five draws of N({mean}, {std}^2) and the reward z^2 it should be {truth:.3f}; yours is {found:.3f}.", 1e-4)


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
