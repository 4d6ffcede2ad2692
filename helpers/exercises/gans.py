"""The exercises of notebook 04: GANs."""

import math

import torch

from helpers.exercises.checks import Wrong, exercise, given, same


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
    same(
        given(answer(p, q), ()),
        expected,
        "Put the best D, p / (p + q), into the loss and compare: it is 2 log 2 - 2 JSD, with the mean of both inside.",
    )


def images_and_score(n: int):
    """n images (n, 1, 3, 4) of different norms, a weight, and a score 0.5 sum of weight x^2, whose gradient at x is weight x."""
    weight = torch.rand(12).add(0.2).requires_grad_()
    images = torch.randn(n, 1, 3, 4) * torch.linspace(0.2, 1.5, n).view(-1, 1, 1, 1)
    return images, weight, lambda x: 0.5 * (x.flatten(1).square() * weight).sum(1)


@exercise(4, 2)
def r1(answer):
    """`f(score, real)`: the mean of |gradient of score|^2 at real images (N, C, H, W), a loss that can be descended; score takes images to (N,)."""
    real, weight, score = images_and_score(7)
    slopes = real.flatten(1) * weight.detach()
    found = given(answer(score, real.clone()), ())
    truth, of_norms = slopes.square().sum(1).mean(), slopes.norm(dim=1).mean()
    if torch.allclose(found, of_norms, rtol=1e-4):
        raise Wrong("That is the mean of |g|: square each norm.")
    if torch.allclose(found, of_norms.square(), rtol=1e-4):
        raise Wrong("That is the square of the mean of |g|: square each norm first, then take the mean.")
    if torch.allclose(found, truth / 49, rtol=1e-4):
        raise Wrong("It is smaller by 7^2 for 7 images: take the gradient of the sum of the scores, not of their mean.")
    same(
        found, truth, f"Of a score with gradient w x it should be {truth:.3f} at these images, and yours is {found:.3f}. At which images do you look?"
    )
    descended(found, weight)


@exercise(4, 2)
def mode_seeking(answer):
    """`f(generator, z1, z2, labels)`: the term above as a loss, the mean |z1 - z2| over the mean |G(z1, y) - G(z2, y)|, of noises (N, D) and
    labels (N,); finite also where G ignores its noise."""
    weight, z1, z2 = torch.randn(4, 12, requires_grad=True), torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.arange(6) % 3

    def generator(z, labels):
        return (z @ weight + 5.0 * labels[:, None]).view(-1, 1, 3, 4)

    found = given(answer(generator, z1, z2, labels), ())
    truth = (z1 - z2).abs().mean() / ((z1 - z2) @ weight).abs().mean()
    if torch.allclose(found, 1 / truth, rtol=1e-4):
        raise Wrong("Descended, that would pull the images together: the distance of the images stands below.")
    same(
        found,
        truth,
        f"For this generator it should be {truth:.3f}, and yours is {found:.3f}. Means of absolute differences; both images of one label.",
        1e-3,
    )
    descended(found, weight, "generator")
    given(answer(lambda z, labels: torch.zeros(len(z), 1, 3, 4), z1, z2, labels), (), "Where G ignores its noise, the term")


@exercise(4, 3)
def gradient_penalty(answer):
    """`f(score, real, fake)`: the penalty of WGAN-GP, the mean of (|gradient of score| - 1)^2 at random points between real and made images
    (N, C, H, W), each pair with a random share of its own; score takes images to (N,)."""
    real, weight, score = images_and_score(4_000)
    for length in (2.0, 0.5):
        slope = length * weight.detach() / weight.detach().norm()
        found = given(answer(lambda x, slope=slope: x.flatten(1) @ slope, real[:50].clone(), real[50:100].clone()), ())
        same(
            found,
            (length - 1) ** 2,
            f"Of a score that slopes by {length:g} everywhere it should be {(length - 1) ** 2:g}, and yours is {found:.3f}.",
            1e-3,
        )
    end = 3 * torch.ones(12).view(1, 1, 3, 4) / weight.detach().norm()  # a score that slopes by 3 there, and by 0 at black
    real, fake = end.repeat(4_000, 1, 1, 1), torch.zeros(4_000, 1, 3, 4)
    several = torch.stack([given(answer(score, real.clone(), fake.clone()), ()) for _ in range(6)])
    found, said = several.mean(), "Of a score whose slope rises from 0 to 3 between the images it should be 1.00, the mean of (3 u - 1)^2"
    if several.std() > 0.1:
        raise Wrong("Each pair of images should have a random share of its own; in yours all pairs have the same.")
    for value, why in {
        2.5: "The points should lie between the images, not at the ends.",
        0.25: "The points should lie at random between the images, not half way; and each image's own norm counts, not their mean.",
    }.items():
        if abs(found - value) < 0.1:
            raise Wrong(f"{said}, and yours is {found:.2f}. {why}")
    if abs(found - 1) > 0.1:
        raise Wrong(f"{said}, and yours is {found:.2f}. Is there one share for all pixels of a pair, uniform from 0 to 1?")
    descended(several[0], weight)


def descended(loss, weight, who: str = "discriminator") -> None:
    """Wrong where the loss has no gradient in the weight of the score, or of the generator."""
    if not loss.requires_grad or torch.autograd.grad(loss, weight, allow_unused=True, retain_graph=True)[0] is None:
        mend = " Take the first gradient with create_graph=True." if who == "discriminator" else ""
        raise Wrong(f"The {who} can't descend it: no gradient reaches its weights.{mend}")
