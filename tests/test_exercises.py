"""The exercises: every solution is right, every plausible mistake is told apart, and by its reason."""

import math
import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from helpers import UserError, exercises
from helpers.models import matching

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "solutions").glob("0*.py"))
SOLUTIONS = {name: value for path in FILES for name, value in runpy.run_path(str(path)).items() if name in exercises.EXERCISES}


def lerped(score, real, fake, share, power=1, graph=True):
    x = torch.lerp(fake, real, share.expand_as(real)).detach().requires_grad_()
    (slope,) = torch.autograd.grad(score(x).sum(), x, create_graph=graph)
    return (slope.flatten(1).norm(dim=1) ** power - 1).square().mean()


def undone(order=lambda z, s, t: z * (-s).exp() - t, sign=-1, total=torch.sum, seen=lambda z, mask: mask * z):
    def coupling(z, mask, network):
        s, t = network(seen(z, mask))
        return mask * z + (1 - mask) * order(z, s, t), sign * total((1 - mask) * s, 1)

    return coupling


def norms_between(score, real, fake):
    x = torch.lerp(fake, real, torch.rand(len(real), 1, 1, 1)).requires_grad_()
    return torch.autograd.grad(score(x).sum(), x, create_graph=True)[0].flatten(1).norm(dim=1)


def one_sided(score, real, fake):
    return (norms_between(score, real, fake) - 1).relu().square().mean()


def of_mean_norms(score, real, fake):
    return (norms_between(score, real, fake).mean() - 1).square()


def by_vmap(score, real):
    return torch.func.vmap(torch.func.grad(lambda x: score(x[None])[0]))(real).flatten(1).square().sum(1).mean()


def walked(count=0, late=0, size=1.0):
    def euler(velocity, x, steps):
        for i in range(steps + count):
            x = x + size * velocity(x, torch.full((len(x),), (i + late) / steps)) / steps
        return x

    return euler


def full(x, t):
    return torch.full((len(x),), t)


def hopped(mean_velocity, x, steps, ahead=1, length=None):
    for i in range(steps):
        x = x + mean_velocity(x, full(x, i / steps), full(x, (i + ahead) / steps)) * (length or 1 / steps)
    return x


def written(next_logits, n, length, temperature, pick=lambda odds: torch.multinomial(odds, 1), later=None):
    words = torch.zeros(n, 0, dtype=torch.long)
    for i in range(length):
        words = torch.cat([words, (later if i and later else pick)((next_logits(words) / temperature).softmax(1))], dim=1)
    return words


def settled(sure, logits, words, hidden, keep):
    order = sure.masked_fill(words != hidden, -math.inf).argsort(1, descending=True)[:, :keep]
    return words.scatter(1, order, logits.argmax(2).gather(1, order))


def unscaled(a, b, t):
    """An arc whose angle is taken of vectors that need not have norm 1."""
    angle = (a @ b).clamp(-1, 1).acos()
    return ((1 - t) * angle).sin() / angle.sin() * a + (t * angle).sin() / angle.sin() * b


def heun(velocity, x, steps, late=1.0):
    for i in range(steps):
        t = torch.full((len(x),), i / steps)
        here = velocity(x, t)
        x = x + (here + velocity(x + here / steps, t + late / steps)) / (2 * steps)
    return x


def weighted(points, x, t):
    """The mean of the lines with the weights of noises that are not scaled by the time that is left."""
    weight = (-(x[:, None] - t[:, None, None] * points).square().sum(2) / (2 * (1 - t[:, None]))).softmax(1)
    return (weight @ points - x) / (1 - t[:, None])


def underflowing(points, x, t):
    noise = (x[:, None] - t[:, None, None] * points) / (1 - t[:, None, None])
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(noise).sum(2).exp()
    return ((weight / weight.sum(1, keepdim=True))[:, :, None] * (points - noise)).sum(1)


def squared(total=torch.sum, power=2, graph=True):
    def r1(score, real):
        x = real.requires_grad_()
        (slope,) = torch.autograd.grad(total(score(x)), x, create_graph=graph)
        return (slope.flatten(1).norm(dim=1) ** power).mean()

    return r1


MISTAKES = [  # of which exercise, the answer, a word of the reason
    ("bits_per_dim", lambda loss, dims: loss / (dims * math.log(2)), "knows nothing"),
    ("bits_per_dim", lambda loss, dims: loss / dims + math.log(256), "nats"),
    ("bits_per_dim", lambda loss, dims: 8 - loss / (dims * math.log(2)), "sure of the bin"),
    ("bits_per_dim", lambda loss, dims: loss / math.log(2) + 8, "sure of the bin"),
    ("bits_per_dim", lambda loss, dims: loss / (784 * math.log(2)) + 8, "3072 pixels"),
    ("bits_per_dim", lambda loss, dims: loss.abs() / (dims * math.log(2)) + 8, "sure of the bin"),
    ("bits_per_dim", lambda loss, dims: loss / dims + 8, "still in nats"),
    ("bits_per_dim", lambda loss, dims: (loss / math.log(2) + 8) / dims, "8 bits an image"),
    ("bits_per_dim", lambda loss, dims: None, "nothing"),
    ("bits_per_dim", lambda loss, dims: 8.0, "tensor"),
    ("bits_per_dim", lambda loss: loss, "TypeError"),
    ("bound", lambda log_p, dims, share: log_p - dims * math.log(256), "less room"),
    ("bound", lambda log_p, dims, share: log_p - dims * math.log(256 * share), "less room"),
    ("bound", lambda log_p, dims, share: log_p + dims * math.log(256 / share), "sign"),
    ("bound", lambda log_p, dims, share: log_p - math.log(256 / share), "1/256"),
    ("bound", lambda log_p, dims, share: log_p - 10 * math.log(256 / share), "less room"),
    ("ring", lambda x: torch.distributions.Normal(0.0, 1.5 / 2**0.5).log_prob(x).sum(1), "no hole"),
    ("ring", lambda x: torch.distributions.Normal(1.5, 0.12).log_prob(x.norm(dim=1)), "integrates"),
    ("ring", lambda x: SOLUTIONS["ring"](x).mean(), "shape"),
    ("ring", lambda x: SOLUTIONS["ring"](x) + 1 / len(x), "others are asked for"),
    ("guided", lambda told, untold, w, t: untold + w * (told - untold), "strength 0"),
    ("guided", lambda told, untold, w, t: told + w * (told - untold), "Before 0.2"),
    ("guided", lambda told, untold, w, t: told + w * ((t > 0.2) & (t < 0.8))[:, None] * (told - untold), "At 0.2 itself"),
    ("guided", lambda told, untold, w, t: told + w * ((t >= 0.2) & (t < 0.8))[:, None] * untold, "begun"),
    ("guided", lambda told, untold, w, t: told + 2.0 * bool(w) * ((t >= 0.2) & (t < 0.8))[:, None] * (told - untold), "strength of 0.5"),
    ("guided", lambda told, untold, w, t: told + w * ((t >= 0.2) & (t < 0.791))[:, None] * (told - untold), "Between"),
    ("endpoints", lambda x, v, t: (x - t[:, None] * v, x + t[:, None] * v), "x itself"),
    ("endpoints", lambda x, v, t: (x + (1 - t[:, None]) * v, x - t[:, None] * v), "At time 1"),
    ("endpoints", lambda x, v, t: (x - (1 - t[:, None]) * v, x + (1 - t[:, None]) * v), "At time 0"),
    ("midpoint", walked(), "twice a step"),
    ("midpoint", lambda velocity, x, steps: walked()(velocity, x, 2 * steps), "2.641"),
    ("midpoint", lambda velocity, x, steps: velocity(x, 0.0), "each row"),
    ("midpoint", lambda velocity, x, steps: heun(velocity, x, steps), "middle"),
    ("midpoint", lambda velocity, x, steps: SOLUTIONS["midpoint"](velocity, x, 2), "ends elsewhere"),
    ("midpoint", lambda velocity, x, steps: heun(velocity, x, steps, late=0.5), "ends elsewhere|2.641"),
    ("exact_velocity", lambda points, x, t: points.mean(0) - x, "one line"),
    ("exact_velocity", lambda points, x, t: (points.mean(0) - x) / (1 - t[:, None]), "beside a point"),
    ("exact_velocity", lambda points, x, t: points[torch.cdist(x, points).argmin(1)] / (1 - t[:, None]) - x / (1 - t[:, None]), "mean of all"),
    ("exact_velocity", lambda points, x, t: matching.exact_velocity(points, x, t).abs(), "one line"),
    ("exact_velocity", lambda points, x, t: weighted(points, x, t), "density of the noise"),
    ("exact_velocity", lambda points, x, t: underflowing(points, x, t), "softmax"),
    ("score", lambda x, v, t: (x - t[:, None] * v) / (1 - t[:, None]), "downhill"),
    ("score", lambda x, v, t: -(x - t[:, None] * v), "divide by it"),
    ("score", lambda x, v, t: -(x - t[:, None] * v) / (1 - t[:, None]) ** 2, "its square"),
    ("score", lambda x, v, t: v, "standard normal"),
    ("score", lambda x, v, t: -x, "autograd"),
    ("chain", lambda white, image: math.prod(white(image[:i]) for i in range(4)), "1 - next_white"),
    ("chain", lambda white, image: white(image), "at most three"),
    ("chain", lambda white, image: SOLUTIONS["chain"](lambda before: white(before[::-1]), image), "white first one"),
    ("chain", lambda white, image: SOLUTIONS["chain"](lambda before: white(tuple(sorted(before))[::-1]), image), "in this order"),
    ("chain", lambda white, image: math.prod(white(()) if pixel else 1 - white(()) for pixel in image), "0.3024"),
    ("bits", lambda logits, x: F.cross_entropy(logits.flatten(0, 1), x.flatten()), "in nats"),
    ("bits", lambda logits, x: 5 * SOLUTIONS["bits"](logits, x), "number of its pixels"),
    ("bits", lambda logits, x: -SOLUTIONS["bits"](logits, x), "needs 8 bits"),
    ("bits", lambda logits, x: SOLUTIONS["bits"](2 * logits, x), "softmax at each"),
    ("kernel_mask", lambda size, first: torch.ones(size, size).tril(-first), "rows above"),
    ("kernel_mask", lambda size, first: SOLUTIONS["kernel_mask"](size, not first), "must not see"),
    ("kernel_mask", lambda size, first: SOLUTIONS["kernel_mask"](size, True), "its own place"),
    ("kernel_mask", lambda size, first: torch.ones(size, size), "after it"),
    ("draw", lambda logits, n, length, t: written(logits, n, length, t, pick=lambda odds: odds.argmax(1, keepdim=True)), "likeliest"),
    ("draw", lambda logits, n, length, t: written(logits, n, length, 1 / t), "divide the logits"),
    ("draw", lambda logits, n, length, t: written(logits, n, length, 1.0), "squared"),
    ("draw", lambda logits, n, length, t: written(logits, n, length, t, later=lambda odds: odds.argmax(1, keepdim=True)), "likeliest"),
    ("draw", lambda logits, n, length, t: torch.multinomial(logits(torch.zeros(n, 0).long()).softmax(1), length, replacement=True), "knowing"),
    ("settle", lambda logits, words, hidden, keep: logits.argmax(2), "stays"),
    ("settle", lambda logits, words, hidden, keep: torch.where(words == hidden, logits.argmax(2), words), "two hidden words"),
    ("settle", lambda logits, words, hidden, keep: SOLUTIONS["settle"](logits, words, 5, keep), "stays"),
    ("settle", lambda logits, words, hidden, keep: settled(logits.amax(2), logits, words, hidden, keep), "don't compare"),
    ("settle", lambda logits, words, hidden, keep: settled(-logits.softmax(2).amax(2), logits, words, hidden, keep), "highest probability"),
    ("settle", lambda logits, words, hidden, keep: settled(logits.softmax(2).amax(2), -logits, words, hidden, keep), "largest logit"),
    ("hop", lambda u, x, steps: hopped(u, x, steps, ahead=0), "it should ask for"),
    ("hop", lambda u, x, steps: x + u(x, torch.zeros(len(x)), torch.ones(len(x))), "In 4 ways"),
    ("hop", lambda u, x, steps: hopped(u, x, steps, length=1.0), "its length"),
    ("hop", lambda u, x, steps: u(x, 0.0, 1.0), "each row"),
    ("fill", lambda v, x, known, mask, noise, t, s: torch.where(mask, known, x + (s - t) * v(x, full(x, t))), "put in with noise"),
    ("fill", lambda v, x, known, mask, noise, t, s: SOLUTIONS["fill"](v, x, known, ~mask, noise, t, s), "Where it is known"),
    ("fill", lambda v, x, known, mask, noise, t, s: torch.where(mask, (1 - t) * noise + t * known, x + (s - t) * v(x, full(x, t))), "the time is s"),
    ("fill", lambda v, x, known, mask, noise, t, s: torch.where(mask, (1 - s) * noise + s * known, x + s * v(x, full(x, t))), "s - t"),
    ("fill", lambda v, x, known, mask, noise, t, s: v(x, full(x, s)), "begins at t"),
    ("fill", lambda v, x, known, mask, noise, t, s: v(torch.where(mask, known, x), full(x, t)), "before anything"),
    ("coupling", undone(order=lambda z, s, t: (z - t) * (-s).exp()), "order"),
    ("coupling", undone(order=lambda z, s, t: z * s.exp() - t), "order"),
    ("coupling", undone(sign=1), "Sign"),
    ("coupling", undone(total=torch.mean), "Sum"),
    ("coupling", undone(seen=lambda z, mask: z), "network"),
    ("coupling", lambda z, mask, network: z, "two things"),
    ("coupling", lambda z, mask, network: (undone()(z, mask, network)[0], -network(mask * z)[0].sum(1)), "elements"),
    ("kl_between", lambda m, s, p, q: -SOLUTIONS["kl_between"](m, s, p, q), "sign"),
    ("kl_between", lambda m, s, p, q: SOLUTIONS["kl_between"](m, s, p, q) / 3, "sum"),
    ("kl_between", lambda m, s, p, q: SOLUTIONS["kl_between"](p, q, m, s), "prior || posterior"),
    ("kl_between", lambda m, s, p, q: SOLUTIONS["kl_between"](m, s / 2, p, q / 2), "logarithms"),
    ("kl_between", lambda m, s, p, q: SOLUTIONS["kl_between"](m, s, p, q).mean(), "shape"),
    ("kl_between", lambda m, s, p, q: (0.5 * (m.square() + (2 * s).exp() - 1) - s).sum(1), "the prior"),
    ("gaussian_likelihood", lambda m, x, sigma: -0.5 * (m - x).square().sum(1), "constant"),
    ("gaussian_likelihood", lambda m, x, sigma: -(m - x).square().sum(1), "torch.distributions"),
    ("gaussian_likelihood", lambda m, x, sigma: SOLUTIONS["gaussian_likelihood"](m, x, 1.0), "two places"),
    ("gaussian_likelihood", lambda m, x, sigma: SOLUTIONS["gaussian_likelihood"](m, x, sigma) / 6, "product"),
    ("leave_one_out", lambda f, m, s, e: SOLUTIONS["leave_one_out"](f, m, s, e) * s, "factor of the standard deviation"),
    ("leave_one_out", lambda f, m, s, e: (f(m + s * e) * e / s).mean(), "without a baseline"),
    ("leave_one_out", lambda f, m, s, e: ((f(m + s * e) - f(m + s * e).mean()) * e / s).mean(), "own reward"),
    ("leave_one_out", lambda f, m, s, e: -SOLUTIONS["leave_one_out"](f, m, s, e), "five draws"),
    ("importance_bound", lambda log_weights: log_weights.mean(0), "ELBO"),
    ("importance_bound", lambda log_weights: log_weights.logsumexp(0), "sum"),
    ("importance_bound", lambda log_weights: log_weights.exp().mean(0).log(), "finite"),
    ("importance_bound", lambda log_weights: log_weights.logsumexp(1) - math.log(5), "shape"),
    ("aggregate", lambda z, m, s: torch.distributions.Normal(m, s.exp()).log_prob(z[:, None]).sum(2).mean(1), "mean of the densities"),
    ("aggregate", lambda z, m, s: SOLUTIONS["aggregate"](z, m, s) + math.log(len(m)), "mixture"),
    ("gaussian_total_correlation", lambda c: -SOLUTIONS["gaussian_total_correlation"](c), "0.223"),
    ("gaussian_total_correlation", lambda c: 2 * SOLUTIONS["gaussian_total_correlation"](c), "0.223"),
    ("gaussian_total_correlation", lambda c: -0.5 * torch.logdet(c), "independent"),
    ("planar", lambda z, u, w, b: (SOLUTIONS["planar"](z, u, w, b)[0], torch.zeros(5)), "autograd"),
    ("planar", lambda z, u, w, b: (SOLUTIONS["planar"](z, u, w, b)[0], (1 + u @ w * torch.tanh(z @ w + b)).abs().log()), "slope"),
    ("planar", lambda z, u, w, b: (z + w * torch.tanh(z @ u + b)[:, None], torch.zeros(5)), "row by row"),
    ("arc", lambda a, b, t: torch.lerp(a, b, t), "chord"),
    ("arc", lambda a, b, t: torch.lerp(b, a, t), "At 0"),
    ("arc", lambda a, b, t: a.norm() * F.normalize(torch.lerp(a, b, t), dim=0), "quarter"),
    ("arc", lambda a, b, t: unscaled(a, b, t), "2.5|whatever the norm|finite"),
    ("gap", lambda information, entropy: information.topk(2, dim=0).values.diff(dim=0).abs().mean(), "entropies"),
    ("gap", lambda information, entropy: (information.max(0).values / entropy).mean(), "no gap"),
    ("gap", lambda information, entropy: ((information.max(0).values - information.min(0).values) / entropy).mean(), "not the last"),
    ("gap", lambda i, e: i.topk(2, dim=0).values.diff(dim=0).abs().sum() / e.sum(), "own entropy"),
    ("gap", lambda information, entropy: SOLUTIONS["gap"]((information / entropy).T, torch.ones(len(information))), "no gap"),
    ("best_loss", lambda p, q: SOLUTIONS["best_loss"](p, q) / math.log(2), "1.386"),
    ("best_loss", lambda p, q: 2 * math.log(2) - F.kl_div(q.log(), p, reduction="sum"), "finite|nothing in common"),
    ("best_loss", lambda p, q: -(p * (p / (p + q)).log() + q * (q / (p + q)).log()).sum(), "finite"),
    ("r1", squared(power=1), "square each norm"),
    ("r1", lambda score, real: squared(power=1)(score, real).square(), "square of the mean"),
    ("r1", squared(total=torch.mean), "mean"),
    ("r1", squared(graph=False), "create_graph"),
    ("r1", lambda score, real: 0.5 * squared()(score, real), "half of it"),
    ("r1", lambda score, real: squared()(score, real) * 7, "mean over images"),
    ("r1", lambda score, real: squared()(score, real) / 12, "sum over pixels"),
    ("r1", lambda score, real: squared(graph=False)(score, real) + 0 * score(real).sum(), "detached"),
    ("r1", lambda score, real: squared()(score, torch.randn_like(real)), "which images"),
    ("r1", lambda score, real: squared()(score, torch.zeros_like(real)), "which images"),
    ("mode_seeking", lambda g, z1, z2, y: 1 / SOLUTIONS["mode_seeking"](g, z1, z2, y), "together"),
    ("mode_seeking", lambda g, z1, z2, y: SOLUTIONS["mode_seeking"](g, z1, z2, y.flip(0)) * 2, "one label"),
    ("mode_seeking", lambda g, z1, z2, y: (z1 - z2).abs().mean() / (g(z1, y) - g(z2, y.flip(0))).abs().mean(), "one label"),
    ("mode_seeking", lambda g, z1, z2, y: SOLUTIONS["mode_seeking"](g, z1, z2, 0 * y), "one label"),
    ("mode_seeking", lambda g, z1, z2, y: SOLUTIONS["mode_seeking"](lambda z, y: g(z, y).detach() if z is z2 else g(z, y), z1, z2, y), "detached"),
    ("mode_seeking", lambda g, z1, z2, y: (z1 - z2).abs().mean() / (g(z1, y) - g(z1, y)).abs().mean().clamp(min=1e-6), "the same"),
    ("mode_seeking", lambda g, z1, z2, y: ((z1 - z2).abs().mean() / (g(z1, y) - g(z2, y)).abs().mean()).nan_to_num(0, 0, 0), "cost much"),
    ("mode_seeking", lambda g, z1, z2, y: (z1 - z2).abs().mean() / (g(z1, y) - g(z2, y)).abs().mean(), "finite"),
    ("mode_seeking", lambda g, z1, z2, y: SOLUTIONS["mode_seeking"](g, z1, z2, y).detach(), "generator can't descend"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.rand(())), "share of its own"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.tensor(0.5)), "half way"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.rand_like(real)), "one u for all pixels"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.rand(len(real), 1, 1, 1).round()), "not at the ends"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, 0.3 + 0.4 * torch.rand(len(real), 1, 1, 1)), "uniform from 0 to 1"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.rand(len(real), 1, 1, 1), power=2), "slopes by 2"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.zeros(len(real), 1, 1, 1)), "made images alone"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.ones(len(real), 1, 1, 1)), "real images alone"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, 0 * fake, torch.rand(len(real), 1, 1, 1)), "half way|u real"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real - fake, 0 * fake, torch.rand(len(real), 1, 1, 1)), "u real"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.linspace(0, 1, len(real)).view(-1, 1, 1, 1)), "drawn anew"),
    ("gradient_penalty", lambda score, real, fake: one_sided(score, real, fake), "slopes by 0.5"),
    ("gradient_penalty", lambda score, real, fake: of_mean_norms(score, real, fake), "each image's own"),
    ("gradient_penalty", lambda score, real, fake: lerped(score, real, fake, torch.rand(len(real), 1, 1, 1), graph=False), "create_graph"),
]


def test_every_exercise_has_a_solution_and_a_mistake():
    assert set(SOLUTIONS) == set(exercises.EXERCISES) == {name for name, _, _ in MISTAKES}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_a_solution_is_right(name, capsys):
    assert exercises.check(name, SOLUTIONS[name]), capsys.readouterr().out


@pytest.mark.parametrize(("name", "answer", "reason"), MISTAKES, ids=[f"{i}-{name}" for i, (name, _, _) in enumerate(MISTAKES)])
def test_a_mistake_is_told_with_its_reason(name, answer, reason, capsys):
    assert not exercises.check(name, answer)
    said = capsys.readouterr().out
    assert any(word in said for word in reason.split("|")), said


def test_answers_in_double_precision_or_as_a_list_are_right_too(capsys):
    assert exercises.check("bits_per_dim", lambda loss, dims: loss.double() / (dims * math.log(2)) + 8)
    assert exercises.check("bound", lambda log_p, dims, share: log_p.double() - dims * math.log(256 / share))
    assert exercises.check("coupling", lambda z, mask, network: list(SOLUTIONS["coupling"](z.double(), mask.double(), network)))
    assert exercises.check("best_loss", lambda p, q: SOLUTIONS["best_loss"](p, q).item())
    assert exercises.check("r1", by_vmap)
    assert exercises.check("kl_between", lambda *args: SOLUTIONS["kl_between"](*(one.double() for one in args)))
    assert exercises.check("aggregate", lambda *args: SOLUTIONS["aggregate"](*(one.double() for one in args)))
    assert exercises.check("planar", lambda *args: list(SOLUTIONS["planar"](*args)))


def test_an_unknown_exercise_is_said():
    with pytest.raises(UserError, match="There is no exercise"):
        exercises.check("copuling", None)
    with pytest.raises(UserError, match="There is no exercise"):
        exercises.task("copuling")
    assert "★★☆" in exercises.task("coupling")


def test_a_guess_is_compared(capsys):
    for guess, said in ((None, "set your guess"), (1.05, "well guessed"), (2.0, "what makes the difference")):
        exercises.predict("the tax", guess, 1.0)
        assert said in capsys.readouterr().out
