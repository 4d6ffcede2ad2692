"""The mathematics of the flows, against autograd and against integrals that can be computed."""

import math

import pytest
import torch
from conftest import stir, tiny_flow
from torch.autograd.functional import jacobian

from helpers import UserError
from helpers.models.bijections import (
    NARROWEST,
    AffineCoupling,
    Compose,
    ElementwiseAffine,
    Invertible1x1,
    Logit,
    MixtureCoupling,
    MultiScale,
    Squeeze,
    channel_mask,
    checkerboard_mask,
    coupling_layers,
)
from helpers.models.flows import Dequantization, RealNVP, RealNVPConfig, VariationalDequantization
from helpers.models.layers import ELU, GatedConvNet

SHAPES = [(1, 28, 28), (1, 28, 56), (3, 32, 32)]


def coupling(mask, channels, context_channels=0):
    return AffineCoupling(mask, channels, GatedConvNet(channels + context_channels, 2 * channels, 6, 1))


def mixture_coupling(channels, context_channels=0):
    return MixtureCoupling(channels, 3, GatedConvNet(channels // 2 + context_channels, channels // 2 * 11, 6, 1))


# name -> (bijection, shape of one input)
BIJECTIONS = {
    "squeeze": lambda: (Squeeze(), (2, 4, 4)),
    "logit": lambda: (Logit(), (1, 4, 4)),
    "coupling, channel mask": lambda: (coupling(channel_mask(4), 4), (4, 2, 2)),
    "coupling, checkerboard": lambda: (coupling(checkerboard_mask(4, 4), 1), (1, 4, 4)),
    "coupling, context": lambda: (coupling(channel_mask(4), 4, context_channels=1), (4, 2, 2)),
    "coupling, mixtures": lambda: (mixture_coupling(4), (4, 2, 2)),
    "coupling, mixtures, context": lambda: (mixture_coupling(4, context_channels=1), (4, 2, 2)),
    "1x1 convolution": lambda: (Invertible1x1(4), (4, 2, 2)),
    "elementwise affine": lambda: (ElementwiseAffine(12), (12,)),
    "actnorm": lambda: (ElementwiseAffine(3, 1, 1), (3, 2, 2)),
    "multi-scale": lambda: (MultiScale([Squeeze(), Compose(Squeeze(), *coupling_layers(8, 2, 6, 1))], (1, 4, 4)), (1, 4, 4)),
    "whole flow": lambda: (tiny_flow((1, 4, 4)).flow, (1, 4, 4)),
    "whole flow of mixtures": lambda: (tiny_flow((1, 4, 4), mixtures=3).flow, (1, 4, 4)),
}


@pytest.mark.parametrize("name", BIJECTIONS)
def test_bijection(name):
    """A round trip is the identity, its log-determinants cancel, and they are those of autograd's Jacobian."""
    torch.manual_seed(1)
    bijection, shape = BIJECTIONS[name]()
    bijection = stir(bijection, 0.2).double()
    x = torch.rand(2, *shape, dtype=torch.float64)
    context = torch.randn(2, 1, *shape[1:], dtype=torch.float64) if "context" in name else None
    z, log_det = bijection(x, context)
    back, inverse_log_det = bijection.inverse(z, context)
    assert log_det.shape == inverse_log_det.shape == (2,)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, -inverse_log_det, rtol=0, atol=1e-9)
    for i in range(2):
        one = None if context is None else context[i : i + 1]
        matrix = jacobian(lambda v, one=one: bijection(v.view(1, *shape), one)[0].flatten(), x[i].flatten())
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_decode_inverts_encode(shape):
    model = tiny_flow(shape)
    images = torch.rand(2, *shape, dtype=torch.float64)
    images[0, 0, 0, 0], images[0, 0, 0, 1] = 0.0, 1.0
    latents = model.encode(images)
    assert latents.shape == (2, math.prod(shape))  # the whole latent, factored-out halves included
    torch.testing.assert_close(model.decode(latents), images, rtol=0, atol=1e-9)
    z, log_det = model.flow(images)
    torch.testing.assert_close(model.flow.inverse(z)[1], -log_det, rtol=0, atol=1e-8)


def test_eight_bit_images_survive_a_round_trip():
    model = tiny_flow()
    images = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    assert torch.equal(model.encode(images), model.encode(images))  # nothing is drawn at random
    assert torch.equal((model.decode(model.encode(images)) * 256).floor().to(torch.uint8), images)
    as_float = images.double() / 255  # k / 255 must fall into bin k
    assert torch.equal(model._bins(as_float), model._bins(images))


def test_training_starts_standardised():
    """After `initialize`, the latents of that batch have mean 0 and width 1, in every dimension."""
    torch.manual_seed(0)
    model = tiny_flow()
    images = torch.randint(0, 256, (512, 1, 8, 8), dtype=torch.uint8)
    torch.manual_seed(1)
    model.initialize(images)
    torch.manual_seed(1)
    latents, _ = model.flow(model.dequantization(images.double())[0])
    assert latents.mean(0).abs().max() < 1e-6 and (latents.std(0) - 1).abs().max() < 1e-6


def test_what_never_changes_starts_with_a_width():
    """log 0 would end the training before its first step; what has a width is standardised as ever."""
    affine, x = ElementwiseAffine(2), torch.randn(50, 2)
    x[:, 0] = 3.0
    affine.initialize(x)
    z, log_det = affine(x)
    assert z.isfinite().all() and log_det.isfinite().all() and affine.log_std[0].exp().item() == pytest.approx(NARROWEST)
    assert z[:, 1].std().item() == pytest.approx(1, abs=1e-5)


def test_elu_is_elu():
    x = torch.linspace(-30, 30, 1001, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ELU()(x), torch.nn.functional.elu(x), rtol=0, atol=1e-12)
    mine, theirs = (torch.autograd.grad(f(x).sum(), x)[0] for f in (ELU(), torch.nn.functional.elu))
    away = x.detach().abs() > 1e-9  # at exactly 0 both clamps pass the gradient on: the slope there is 2, not 1
    torch.testing.assert_close(mine[away], theirs[away], rtol=0, atol=1e-12)


def test_a_mixture_of_one_is_an_affine_coupling():
    """logit sigmoid((x - mu) / e^w) is (x - mu) / e^w: nothing else is left of it."""
    torch.manual_seed(0)
    coupling = MixtureCoupling(4, 1, GatedConvNet(2, 10, 6, 1)).double()
    stir(coupling, 0.2)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    s, t, _, mu, w = coupling.read(x[:, :2], None)
    z, log_det = coupling(x)
    torch.testing.assert_close(z[:, 2:], ((x[:, 2:] - mu[:, 0]) * (-w[:, 0]).exp() + t) * s.exp())
    torch.testing.assert_close(log_det, (s - w[:, 0]).flatten(1).sum(1))


def test_a_mixture_is_inverted_in_its_tails_too():
    """In float32 a distribution function near 1 has no digits left: 1 - F has."""
    torch.manual_seed(0)
    coupling = MixtureCoupling(4, 3, GatedConvNet(2, 22, 6, 1))
    stir(coupling, 0.2)
    z = torch.linspace(-30, 30, 4_000).view(-1, 4, 1, 1)
    back, _ = coupling(coupling.inverse(z)[0])
    torch.testing.assert_close(back, z, rtol=1e-4, atol=1e-3)


def test_couplings_start_as_the_identity():
    x = torch.randn(3, 4, 4, 4)
    z, log_det = coupling(channel_mask(4), 4)(x)
    assert torch.equal(z, x) and not log_det.any()


def test_a_coupling_keeps_what_its_mask_shows():
    mask = checkerboard_mask(4, 4)
    x = torch.randn(3, 1, 4, 4)
    z, _ = stir(coupling(mask, 1))(x)
    seen = mask.bool().expand_as(x)
    assert torch.equal(z[seen], x[seen]) and not torch.isclose(z[~seen], x[~seen]).any()


def test_a_checkerboard_is_a_choice_of_channels_after_squeezing():
    squeezed, _ = Squeeze()(checkerboard_mask(4, 4)[None])
    assert torch.equal(squeezed, torch.tensor([1.0, 0, 0, 1])[None, :, None, None].expand(1, 4, 2, 2))


@pytest.mark.parametrize("kind", ["uniform", "variational, at start", "variational"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dequantization_fills_the_bin_and_never_leaves_it(kind, dtype):
    torch.manual_seed(0)
    module = Dequantization() if kind == "uniform" else VariationalDequantization(1, 2, 6, 1)
    if kind == "variational":
        stir(module, 0.2)
    bins = torch.randint(0, 256, (400, 1, 8, 8)).to(dtype)
    bins[0], bins[1] = 0, 255
    y, _ = module.to(dtype)(bins)
    assert torch.equal((y * 256).floor(), bins)
    place = y * 256 - bins
    assert place.min() < 0.01 and place.max() > 0.99
    if kind != "variational":  # both are uniform: the flow starts as the identity
        histogram = torch.histc(place.float(), 10, 0, 1) / place.numel()
        assert (histogram - 0.1).abs().max() < 0.01


def test_variational_dequantization_starts_uniform():
    bins = torch.randint(0, 256, (8, 1, 8, 8)).double()
    _, log_q = VariationalDequantization(1, 2, 6, 1).double()(bins)
    torch.testing.assert_close(log_q, Dequantization()(bins)[1], rtol=0, atol=1e-7)


def test_variational_density_integrates_to_one():
    """E_q[1 / q(u)] is the volume of the unit box, whatever the flow: a wrong log-determinant would miss it."""
    torch.manual_seed(0)
    module = stir(VariationalDequantization(1, 2, 6, 1), 0.1).double()
    bins = torch.randint(0, 256, (1, 1, 2, 2)).double().expand(40_000, -1, -1, -1)
    _, log_q = module.noise(bins, torch.rand_like(bins))
    assert abs((-log_q).exp().mean().item() - 1) < 0.05
    assert log_q.std() > 0.02  # it is not simply uniform


def test_the_bound_lies_below_the_exact_likelihood():
    """Without couplings the pixels are independent: a bin's probability is a difference of two Gaussian integrals."""
    mean, std = 0.3, 2.0
    config = RealNVPConfig(image_shape=(1, 2, 2), couplings=(0,), width=(4,), dequantization_couplings=0)
    model = RealNVP(config).double()
    with torch.no_grad():
        model.flow.bijections[-1].mean.fill_(mean)
        model.flow.bijections[-1].log_std.fill_(math.log(std))
    images = torch.randint(0, 256, (64, 1, 2, 2), dtype=torch.uint8)
    images[0] = 0  # the widest bin after the logit: here the bound is loosest

    def below(level):
        y = config.margin + (1 - 2 * config.margin) * level.double() / 256
        return torch.distributions.Normal(mean, std).cdf(y.logit())

    exact = (below(images.int() + 1) - below(images.int())).log().flatten(1).sum(1)
    torch.manual_seed(0)
    with torch.no_grad():
        draws = torch.stack([model.log_prob(images) for _ in range(400)])
        tight = model.log_prob(images, samples=4_000)
    bound, error = draws.mean(0), draws.std(0) / len(draws) ** 0.5
    assert (bound <= exact + 5 * error + 1e-4).all()
    assert bound[0] < exact[0] - 5 * error[0]
    torch.testing.assert_close(tight, exact, rtol=0, atol=0.15)
    assert (bound - exact).abs().mean() > (tight - exact).abs().mean()


def test_log_prob_is_the_change_of_variables():
    """With the noise held still: log N(z) + log|det| by autograd, for the bits/dim that `loss` reports."""
    model = tiny_flow((1, 4, 4))
    images = torch.randint(0, 256, (1, 1, 4, 4), dtype=torch.uint8)
    torch.manual_seed(3)
    found = model.log_prob(images)
    torch.manual_seed(3)
    y, log_q = model.dequantization(images.double())
    matrix = jacobian(lambda v: model.flow(v.view(1, 1, 4, 4))[0].flatten(), y.flatten())
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(model.flow(y)[0]).sum()
    expected = normal + torch.linalg.slogdet(matrix).logabsdet - log_q
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)
    torch.manual_seed(3)
    terms = model.loss(images)
    torch.testing.assert_close(terms["loss"], -expected.squeeze() / (16 * math.log(2)), rtol=0, atol=1e-9)
    torch.testing.assert_close(terms["loss"], terms["flow"] + terms["dequantization"])


def test_temperature_scales_the_latents():
    model = tiny_flow()
    torch.manual_seed(0)
    latents = model.encode(model.sample(8, temperature=0.5))
    torch.manual_seed(0)
    torch.testing.assert_close(latents, 0.5 * torch.randn(8, 64, dtype=torch.float64), rtol=0, atol=1e-4)
    assert torch.equal(model.sample(2, temperature=0.0)[0], model.sample(2, temperature=0.0)[1])


# ---- conditional flows

LABELLED = {"digits": ((1, 8, 8), {"classes": 10}), "pairs": ((1, 8, 16), {"classes": 10, "parts": 2})}


@pytest.mark.parametrize("name", LABELLED)
def test_a_label_changes_the_density_and_stays_exact(name):
    shape, labels = LABELLED[name]
    model = tiny_flow(shape, **labels).eval()
    images = torch.rand(3, *shape, dtype=torch.float64)
    first, second = torch.tensor([0, 1, 7]), torch.tensor([1, 2, 9])
    latents = model.encode(images, first)
    torch.testing.assert_close(model.decode(latents, first), images, rtol=0, atol=1e-9)
    assert ((model.decode(latents, second) - images).abs().amax(dim=(1, 2, 3)) > 1e-3).all()
    found = []
    for given in (first, second):
        torch.manual_seed(0)
        found.append(model.log_prob(images, given))
    assert ((found[0] - found[1]).abs() > 1e-3).all()
    torch.manual_seed(0)
    assert torch.equal(model.class_log_probs(images)[:, 7], model_log_prob(model, images, 7))
    context = model._context(first[:1], 1)
    matrix = jacobian(lambda v: model.flow(v.view(1, *shape), context)[0].flatten(), images[0].flatten())
    torch.testing.assert_close(model.flow(images[:1], context)[1][0], torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=1e-8)


def model_log_prob(model, images, label):
    torch.manual_seed(0)
    return model.log_prob(images, torch.full((len(images),), label))


def test_the_parts_of_a_pair_get_the_digits_of_its_label():
    model = tiny_flow((1, 8, 16), classes=10, parts=2)
    context = model._context(torch.tensor([37, 4]), 2)
    assert context.shape == (2, 10, 1, 2)
    assert context.argmax(1).squeeze(1).tolist() == [[3, 7], [0, 4]] and context.sum(1).eq(1).all()


GREY = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.sample(2), "No labels were given.*0 to 99"),
        (lambda m: m.log_prob(GREY.repeat(1, 1, 1, 2)), "No labels were given.*0 to 99"),
        (lambda m: m.sample(2, labels=torch.tensor([3, 100])), "from 3 to 100.*0 to 99"),
        (lambda m: m.sample(2, labels=torch.tensor([-1, 5])), "from -1 to 5.*0 to 99"),
        (lambda m: m.sample(2, labels=torch.tensor([3])), r"\(1,\).*2 whole numbers"),
        (lambda m: m.sample(2, labels=torch.tensor([0.0, 1.0])), "float32.*whole numbers"),
        (lambda m: tiny_flow((1, 8, 12), classes=10, parts=2), "8x12.*of each part.*divisible by 4"),
        (lambda m: tiny_flow().eval().class_log_probs(GREY), "knows no labels"),
        (lambda m: tiny_flow().eval().log_prob(GREY, torch.tensor([1, 2])), "knows none"),
    ],
)
def test_bad_labels_get_one_sentence(call, says):
    with pytest.raises(UserError, match=says):
        call(tiny_flow((1, 8, 16), classes=10, parts=2).eval())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.loss(GREY[:, 0]), r"\(N, 1, 8, 8\).*\(2, 8, 8\)"),
        (lambda m: m.loss(GREY.expand(2, 3, 8, 8)), r"\(N, 1, 8, 8\).*\(2, 3, 8, 8\)"),
        (lambda m: m.encode(GREY.int()), "int32.*uint8"),
        (lambda m: m.loss(GREY.half()), "float16.*float32"),
        (lambda m: m.log_prob(GREY, samples=0), "0 importance samples.*at least 1"),
        (lambda m: m.loss(GREY.float() + 2), r"\[0, 1\].*255"),
        (lambda m: m.loss(GREY.float() * math.nan), "NaN"),
        (lambda m: m.sample(0), "at least 1"),
        (lambda m: m.sample(1, temperature=-0.1), "-0.1.*from 0 up"),
        (lambda m: m.sample(1, temperature=math.nan), "nan.*from 0 up"),
        (lambda m: m.sample(1, labels=torch.tensor([1])), "knows none"),
        (lambda m: m.decode(torch.zeros(2, 65)), r"\(2, 65\).*\(N, 64\)"),
        (lambda m: tiny_flow((1, 10, 8)), "10x8.*divisible by 4"),
        (lambda m: RealNVP(RealNVPConfig(width=(8,))), "2 scales but 1 widths"),
    ],
)
def test_bad_input_gets_one_sentence(call, says):
    with pytest.raises(UserError, match=says):
        call(tiny_flow())
