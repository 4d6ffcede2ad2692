"""The exercises of notebook 04: GANs."""

import math

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


@exercise(4, 1)
def non_saturating(answer):
    """`f(scores)`: the non-saturating loss of the generator, of the scores (N,) of its images."""
    same(given(answer(torch.zeros(3)), ()), math.log(2), "Where D can't tell, with scores of 0, it should be log 2 = 0.693.")
    sure = torch.tensor([-200.0], requires_grad=True)
    loss = given(answer(sure), (), "Where D is sure of a fake, the loss")
    (slope,) = torch.autograd.grad(loss, sure)
    same(loss.detach(), 200.0, "Where D is sure of a fake, with a score of -200, it should be 200: descend -log D, not log (1 - D).")
    same(slope, -1.0, "There its slope should be -1; take the logarithm of the sigmoid in one go.")


@exercise(4, 1)
def faded(answer):
    """`f(old, new, alpha)`: old images (N, C, H, W), enlarged to the size of the new ones, fading into these as alpha goes from 0 to 1."""
    old, new = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    large = old.repeat_interleave(2, 2).repeat_interleave(2, 3)
    same(given(answer(old, new, 0.0), (2, 3, 8, 8)), large, "At 0 it should be the old images, each pixel become four.")
    same(answer(old, new, 1.0), new, "At 1 it should be the new images alone.")
    same(answer(old, new, 0.25), 0.75 * large + 0.25 * new, "Between it should be a mean, with the share alpha for the new ones.")


@exercise(4, 2)
def best_loss(answer):
    """`f(p, q)`: the lowest loss that a discriminator can have, -log D on p and -log(1 - D) on q, distributions over K things, (K,), in nats."""
    one = torch.tensor([0.2, 0.3, 0.5])
    same(given(answer(one, one), ()), 2 * math.log(2), "Where both are the same it should be 2 log 2 = 1.386.")
    apart = given(answer(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])), (), "Where they have nothing in common, the result")
    same(apart, 0.0, "Where they have nothing in common it should be 0. (0 log 0 is 0.)")
    p, q = torch.rand(2, 6).softmax(1)
    share = p / (p + q)
    expected = -(p * share.log() + q * (1 - share).log()).sum()
    same(answer(p, q), expected, "Put the best D, p / (p + q), into the loss and compare: it is 2 log 2 - 2 JSD, with the mean of both inside.")


@exercise(4, 2)
def r1(answer):
    """`f(score, real)`: the mean of |gradient of score|^2 at real images (N, ...), a loss that can be descended."""
    weight = torch.randn(12, requires_grad=True)
    found = given(answer(lambda x: x.flatten(1) @ weight, torch.randn(7, 3, 4)), ())
    if torch.allclose(found, weight.norm(), rtol=1e-4):
        raise Wrong("Of a linear score it should be |w|^2; yours is |w|: square it.")
    if torch.allclose(found, weight.square().sum() / 49, rtol=1e-4):
        raise Wrong("Of a linear score it should be |w|^2; yours is smaller by 7^2: take the gradient of the sum of the scores, not of their mean.")
    same(found, weight.square().sum(), f"Of a linear score it should be |w|^2 = {weight.square().sum():.3f}, and yours is {found:.3f}.")
    descended(found, weight)


@exercise(4, 3)
def gradient_penalty(answer):
    """`f(score, real, fake)`: the penalty of WGAN-GP, the mean of (|gradient of score| - 1)^2 between real and made images."""
    weight, real, fake = torch.randn(12, requires_grad=True), torch.zeros(400, 3, 4), torch.ones(400, 3, 4)
    found = given(answer(lambda x: x.flatten(1) @ weight, real, fake), ())
    same(found, (weight.norm() - 1) ** 2, f"Of a linear score it should be (|w| - 1)^2 = {(weight.norm() - 1) ** 2:.3f}, and yours is {found:.3f}.")
    descended(found, weight)
    seen = []
    answer(lambda x: (seen.append(x.detach()), x.flatten(1) @ weight)[1], real, fake)
    places = torch.cat(seen).flatten(1)  # real is 0 and fake 1: a place is the share itself
    if not torch.allclose(places.amin(1), places.amax(1), atol=1e-6):
        raise Wrong("A point on the line between two images has one share for all of its pixels; yours has a share for each pixel.")
    if places[:, 0].std() < 0.05:
        raise Wrong("Each pair of images should have a random share of its own; in yours all pairs have the same.")
    if not 0.4 < places[:, 0].mean() < 0.6 or places.amin() < 0 or places.amax() > 1:
        raise Wrong("The shares should be uniform from 0 to 1: points between the real and the made image.")


def descended(loss, weight) -> None:
    """Wrong where the loss has no gradient in the weight of the score."""
    if not loss.requires_grad or torch.autograd.grad(loss, weight, allow_unused=True)[0] is None:
        raise Wrong("The discriminator can't descend it: no gradient reaches its weights. Take the first gradient with create_graph=True.")
