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
    """`f(score, real)`: the mean over images of |gradient of score|^2 at real images (N, C, H, W), |.| the Euclidean norm over all of an image's
    pixels; a loss that can be descended; score takes images to (N,)."""
    real, weight, score = images_and_score(7)
    slopes = real.flatten(1) * weight
    found = given(answer(score, real.clone()), ())
    truth, of_norms = slopes.square().sum(1).mean(), slopes.norm(dim=1).mean()
    for other, why in {
        of_norms: "That is the mean of |g|: square each norm.",
        of_norms.square(): "That is the square of the mean of |g|: square each norm first, then take the mean.",
        truth / 49: "It is smaller by 7^2 for 7 images: take the gradient of the sum of the scores, not of their mean.",
        truth / 12: "It is smaller by 12 for 12 pixels: the squared norm is a sum over pixels.",
        truth * 7: "It is larger by 7 for 7 images: a mean over images.",
        truth / 2: "That is half of it: the gamma / 2 stands before this term.",
    }.items():
        if torch.allclose(found, other, rtol=1e-4):
            raise Wrong(why)
    why = f"Of a score with gradient w x it should be {truth:.3f} at these images, and yours is {found:.3f}. At which images do you look?"
    same(found, truth.detach(), why)
    descended(found, truth, weight)


@exercise(4, 2)
def mode_seeking(answer):
    """`f(generator, z1, z2, labels)`: the term above as a loss, |.| being the mean absolute difference over all entries, of noises (N, D) and labels
    (N,), both images of the same label; finite, and large, where G ignores its noise."""
    weight, z1, z2 = torch.randn(4, 12, requires_grad=True), torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.arange(6) % 3

    def generator(z, labels):
        return (z @ weight * (1 + labels[:, None])).view(-1, 1, 3, 4)

    found = given(answer(generator, z1, z2, labels), ())
    truth = (z1 - z2).abs().mean() / (generator(z1, labels) - generator(z2, labels)).abs().mean()
    if torch.allclose(found, 1 / truth, rtol=1e-4):
        raise Wrong("Descended, that would pull the images together: the distance of the images stands below.")
    if found > 1_000 * truth:
        raise Wrong("The two images are the same: one of each noise.")
    why = f"For this generator it should be {truth:.3f}, and yours is {found:.3f}: mean absolute differences, both images of one label."
    same(found, truth.detach(), why, 1e-3)
    descended(found, truth, weight, "generator")
    dead = given(answer(lambda z, labels: torch.zeros(len(z), 1, 3, 4), z1, z2, labels), (), "Where G ignores its noise, the term")
    if dead < 100:
        raise Wrong(f"Where G ignores its noise it should cost much, and costs {dead:.3f}: keep the divisor above a small number.")


@exercise(4, 3)
def gradient_penalty(answer):
    """`f(score, real, fake)`: the penalty of WGAN-GP, the mean of (|gradient of score| - 1)^2 at random points between real and made images
    (N, C, H, W), each pair with a random share of its own; score takes images to (N,)."""
    real, weight, score = images_and_score(4_000)
    for length in (2.0, 0.5):
        slope, truth = length * weight.detach() / weight.detach().norm(), (length - 1) ** 2
        found = given(answer(lambda x, slope=slope: x.flatten(1) @ slope, real[:50].clone(), real[50:100].clone()), ())
        same(found, truth, f"Of a score that slopes by {length:g} everywhere it should be {truth:g}, and yours is {found:.3f}.", 1e-3)
    unit = torch.ones(12).view(1, 1, 3, 4) / weight.detach().norm()  # this score slopes there by 1
    real, fake = 3 * unit.repeat(4_000, 1, 1, 1), unit.repeat(4_000, 1, 1, 1)
    several = torch.stack([given(answer(score, real.clone(), fake.clone()), ()) for _ in range(6)])
    found, said = several.mean(), "Of a score whose slope rises from 1 at the fake to 3 at the real image it should be 1.33, the mean of (2 u)^2"
    if several.std() > 0.5:
        raise Wrong("Each pair of images should have a random share of its own; in yours all pairs have the same.")
    for value, why in {
        2.0: "The points should lie between the images, not at the ends.",
        0.0: "It looks at the made images alone.",
        4.0: "It looks at the real images alone.",
        1.0: "The points should lie at random between the images, not half way; and each image's own norm counts, not their mean.",
    }.items():
        if abs(found - value) < 0.03:
            raise Wrong(f"{said}, and yours is {found:.2f}. {why}")
    if abs(found - 4 / 3) > 0.08:
        raise Wrong(f"{said}, and yours is {found:.2f}. Is it u real + (1 - u) fake, with one u for all pixels of a pair, uniform from 0 to 1?")
    if several.std() < 1e-5:
        raise Wrong("The shares should be drawn anew each time; yours are the same at every call.")
    shares = (torch.arange(100) + 0.5) / 100
    slopes = torch.stack([((u * real[:1] + (1 - u) * fake[:1]).flatten(1) * weight).norm() for u in shares])
    descended(several[0], (slopes - 1).square().mean(), weight, rough=0.2)


def descended(loss, truth, weight, who: str = "discriminator", rough: float = 1e-3) -> None:
    """Wrong where the gradient of the loss in the weight of the score, or of the generator, is not that of the truth."""
    found = torch.autograd.grad(loss, weight, allow_unused=True, retain_graph=True)[0] if loss.requires_grad else None
    if found is None:
        mend = " Take the first gradient with create_graph=True." if who == "discriminator" else ""
        raise Wrong(f"The {who} can't descend it: no gradient reaches its weights.{mend}")
    wanted = torch.autograd.grad(truth, weight)[0]
    if (found - wanted).norm() > rough * wanted.norm():
        raise Wrong(f"Its value is right, its gradient is not: a part of it is detached, and the {who} would descend something else.")
