"""The codebook and its prior: words that move to what chose them, and a probability of texts that is one."""

import math

import pytest
import torch
from conftest import stir

from helpers import UserError, measures, recipes, training, weights
from helpers.experiments.autoregressive import word_sources
from helpers.models.codebook import VQVAE, Codebook, VQVAEConfig, perplexity
from helpers.models.layers import attend

SMALL = {"image_shape": (1, 8, 8), "width": 8, "codes": 3, "code_width": 2, "prior_width": 8, "prior_layers": 2, "prior_heads": 2, "dropout": 0.0}
IMAGES = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def tiny(amount=0.3, **changes):
    torch.manual_seed(0)
    return stir(VQVAE(VQVAEConfig(**SMALL | changes)), amount).eval()


def test_a_word_is_the_running_mean_of_what_chose_it():
    torch.manual_seed(0)
    book = Codebook(3, 2, decay=0.9)
    centres = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0]])
    book.place(centres)
    for _ in range(100):
        which = torch.randint(3, (4, 5, 5))
        h = (centres[which] + 1.0 + 0.1 * torch.randn(4, 5, 5, 2)).permute(0, 3, 1, 2)
        _, words, chosen = book(h)
    assert chosen.shape == (4, 5, 5) and perplexity(chosen, 3) > 2.5
    assert sorted(map(tuple, book.words.round().int().tolist())) == [(-2, 1), (1, 4), (4, 1)]
    torch.testing.assert_close(words, book.words[chosen].permute(0, 3, 1, 2), rtol=0, atol=0.1)
    before = book.words.clone()
    book.eval()(h)
    assert torch.equal(book.words, before)


def test_a_dead_word_is_given_another_place():
    torch.manual_seed(0)
    book = Codebook(4, 2, decay=0.5)
    book.words[:] = torch.tensor([[0.0, 0.0], [50.0, 50.0], [-50.0, 50.0], [50.0, -50.0]])
    h = torch.randn(8, 2, 4, 4)
    for _ in range(10):
        book(h)
    assert book.words.abs().max() < 5 and perplexity(book(h)[2], 4) > 2


def test_the_gradient_passes_through_the_choice():
    book = Codebook(5, 2, decay=0.9).eval()
    h = torch.randn(1, 2, 3, 3, requires_grad=True)
    through, words, _ = book(h)
    torch.testing.assert_close(through, words)
    through.mul(torch.arange(18.0).view_as(h)).sum().backward()
    torch.testing.assert_close(h.grad, torch.arange(18.0).view_as(h))


def test_perplexity():
    assert perplexity(torch.tensor([[0, 1], [2, 3]]), 8) == pytest.approx(4) and perplexity(torch.zeros(9, dtype=torch.long), 8) == pytest.approx(1)


@pytest.mark.parametrize("classes", [0, 3])
def test_the_prior_is_a_probability_of_texts_and_each_word_is_told_those_before_it(classes):
    model = tiny(classes=classes)
    texts = torch.cartesian_prod(*[torch.arange(3)] * 4)
    labels = torch.full((81,), 1) if classes else None
    assert model.log_prob_of_words(texts, labels).exp().sum().item() == pytest.approx(1, abs=1e-5)
    logits = model.writer(texts, model._label(labels, 81))
    for i in range(4):
        same = (texts[:, :i] == texts[0, :i]).all(1)
        torch.testing.assert_close(logits[same, i], logits[:1, i].expand(int(same.sum()), -1))
    assert (logits[:, 3] - logits[0, 3]).abs().max() > 0.01
    if classes:
        assert not torch.allclose(model.log_prob_of_words(texts, labels), model.log_prob_of_words(texts, labels + 1))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_pytorch_and_so_are_its_gradients(causal):
    torch.manual_seed(0)
    ours = [torch.randn(2, 3, 7, 4, requires_grad=True) for _ in range(3)]
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    found = attend(*ours, causal=causal), torch.nn.functional.scaled_dot_product_attention(*theirs, is_causal=causal)
    torch.testing.assert_close(*found)
    for attended in found:
        attended.square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_texts_are_drawn_with_their_probability():
    """With keys and values that are kept from word to word: the same as reading the whole text anew."""
    model = tiny(1.0)
    texts = torch.cartesian_prod(*[torch.arange(3)] * 4)
    p = model.log_prob_of_words(texts).exp()
    torch.manual_seed(1)
    drawn = model.writer.draw(torch.zeros(40_000, dtype=torch.long))
    share = torch.bincount((drawn * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81) / 40_000
    assert (share - p).abs().max() < 5 * (p.max() / 40_000).sqrt() and p.max() > 2 / 81
    greedy, known = model.writer.draw(torch.zeros(1, dtype=torch.long), temperature=0.0), []
    for i in range(4):
        text = torch.tensor([known + [0] * (4 - i)])
        known.append(model.writer(text, torch.zeros(1, dtype=torch.long))[0, i].argmax().item())
    assert greedy[0].tolist() == known


def test_what_is_given_stays():
    model = tiny(1.0)
    start = torch.tensor([[2, 0], [1, 1]]).repeat(300, 1)
    drawn = model.writer.draw(torch.zeros(600, dtype=torch.long), start=start)
    assert torch.equal(drawn[:, :2], start) and len(torch.unique(drawn, dim=0)) > 4
    texts = torch.cartesian_prod(*[torch.arange(3)] * 4)
    rest = texts[(texts[:, :2] == start[0]).all(1)]
    p = model.log_prob_of_words(rest).softmax(0)
    share = torch.stack([(drawn[::2] == text).all(1).float().mean() for text in rest])
    assert (share - p).abs().max() < 0.12


def test_images_to_words_and_back():
    model = tiny()
    words = model.encode(IMAGES)
    assert words.shape == (6, 4) and words.dtype == torch.long and words.max() < 3
    image = model.decode(words)
    assert image.shape == (6, 1, 8, 8) and image.min() >= 0 and image.max() <= 1
    torch.testing.assert_close(image, model.rebuilt(IMAGES / 255)[0], rtol=0, atol=1e-5)
    first = model.sample(5, 0.7, start=words[:5, :3])
    assert first.shape == (5, 1, 8, 8)


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_it_trains_and_is_measured(digits, adversarial):
    model, config = recipes.recipe("vqvae-conditional", "smoke", digits, {"adversarial": adversarial}, epochs=4)
    record = training.fit(model, digits, config, progress=False)
    first, last = record["epochs"][0], record["epochs"][-1]
    assert last["validation_autoencoder_error"] < first["validation_autoencoder_error"]
    assert last["validation_prior_loss"] < math.log(model.config.codes) - 0.2  # of guessing; it may rise at first, as more words come into use
    assert ("train_critic_loss" in last) == bool(adversarial) and last["validation_autoencoder_perplexity"] > 2
    found = measures.evaluate(model.eval(), digits, only=("codes",))
    assert found["code_nats"] == pytest.approx(4 * last["validation_prior_loss"], rel=0.1) and found["perplexity"] > 2


def test_training_that_starts_from_a_trained_codebook_keeps_its_words(tmp_path):
    trained, model = tiny(), VQVAE(VQVAEConfig(**SMALL))
    weights.save_model(trained, tmp_path / "words.safetensors", {})
    weights.start_from(model, tmp_path / "words.safetensors")
    model.initialize(IMAGES)  # as training does first
    assert torch.equal(model.codebook.words, trained.codebook.words)


def test_what_is_no_text():
    model = tiny()
    for words in (torch.zeros(2, 5, dtype=torch.long), torch.zeros(2, 4)):
        with pytest.raises(UserError, match=r"whole numbers \(N, 4\)"):
            model.decode(words)
    with pytest.raises(UserError, match="temperature -1"):
        model.sample(2, -1)
    with pytest.raises(UserError, match="halved twice"):
        tiny(image_shape=(1, 10, 8))
    with pytest.raises(UserError, match="3 heads can't share a width of 8"):
        tiny(prior_heads=3)
    with pytest.raises(UserError, match="from 2 up"):
        tiny(codes=1)


def test_words_come_from_four_places():
    """Any word; at each place those that training images have there; the prior's; whole texts of training images."""
    model = tiny()
    texts, sources = model.encode(IMAGES), word_sources(model, IMAGES)
    torch.manual_seed(1)
    drawn = {name: words(300) for name, words in sources.items() if name != "words of training images"}
    assert all(words.shape == (300, 4) and words.min() >= 0 and words.max() < 3 for words in drawn.values())
    assert all(set(drawn["any words"][:, place].tolist()) == {0, 1, 2} for place in range(4))
    assert all(set(drawn["each place's own words"][:, place].tolist()) == set(texts[:, place].tolist()) for place in range(4))
    assert sorted(map(tuple, sources["words of training images"](6).tolist())) == sorted(map(tuple, texts.tolist()))
