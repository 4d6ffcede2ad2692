"""Masked words: what is hidden, in which order it is settled, and that the codebook stays as it is."""

import pytest
import torch
from conftest import started, stir

from helpers import UserError, training
from helpers.models.autoencoders import VAE, VAEConfig
from helpers.models.codebook import VQVAE, VQVAEConfig
from helpers.models.masked import MaskedConfig, MaskedWords, hidden_share

SMALL = MaskedConfig((1, 16, 16), width=8, codes=12, code_width=4, reader_width=16, reader_layers=2, reader_heads=2, steps=4)


def small(**changes) -> MaskedWords:
    torch.manual_seed(0)
    model = MaskedWords(SMALL.__class__(**{**SMALL.__dict__, **changes}))
    return stir(model).eval()


def drafts(model, n=50, steps=4, given=None, temperature=1.0):
    given = torch.full((n, 16), 12) if given is None else given
    return list(model.drafts(torch.zeros(n, dtype=torch.long), temperature, steps, given))


def test_every_word_sees_every_other_that_is_not_hidden():
    model = small()
    words, label = torch.randint(12, (1, 16)), torch.zeros(1, dtype=torch.long)
    before = model.reader(words, label)
    for place in (0, 7, 15):
        other = words.clone()
        other[0, place] = (other[0, place] + 1) % 12
        assert (model.reader(other, label) != before).any(2).all()


def test_a_cosine_of_the_words_stays_hidden_and_none_in_the_end():
    hidden = [(words == 12).sum(1) for words in drafts(small())]
    assert [count.unique().tolist() for count in hidden] == [[int(16 * hidden_share(step / 4))] for step in (1, 2, 3)] + [[0]]
    assert hidden_share(0) == 1 and hidden_share(1).abs() < 1e-6


def test_what_is_settled_stays_and_what_is_given_too():
    model, given = small(), torch.full((50, 16), 12)
    given[:, 3:9] = torch.randint(12, (50, 6))
    before = given
    for words in drafts(model, given=given):
        settled = before < 12
        assert torch.equal(words[settled], before[settled])
        before = words
    assert (before < 12).all()


def test_one_pass_draws_every_word_by_itself():
    """Of one pass the words' frequencies are the reader's own, with nothing known."""
    model = small()
    words = drafts(model, 6_000, 1)[-1]
    expected = model.reader(torch.full((1, 16), 12), torch.zeros(1, dtype=torch.long)).softmax(2)[0]
    found = torch.nn.functional.one_hot(words, 12).float().mean(0)
    assert (found - expected).abs().max() < 0.03


def test_without_chance_the_surest_are_settled_first():
    model = small(chance=0.0)
    hidden = torch.full((20, 16), 12)
    odds = model.reader(hidden, torch.zeros(20, dtype=torch.long)).softmax(2)
    first = drafts(model, 20, temperature=0.0)[0]
    for row, sure in zip(first, odds.amax(2), strict=True):
        assert sure[row < 12].min() >= sure[row == 12].max()


def test_the_loss_is_of_hidden_words_alone(digits):
    model = small(image_shape=digits.image_shape)
    inputs = []
    model.reader.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    torch.manual_seed(0)
    loss = model.loss(digits.train_images[:40])["loss"]
    hidden, words = inputs[0] == 12, model.encode(digits.train_images[:40])
    assert hidden.any(1).all() and torch.equal(inputs[0][~hidden], words[~hidden])
    logits = model.reader(inputs[0], torch.zeros(40, dtype=torch.long)).log_softmax(2)
    assert loss.item() == pytest.approx(-logits.gather(2, words[..., None])[..., 0][hidden].mean().item(), rel=1e-5)


def test_a_hole_is_filled_from_all_sides():
    model = small()
    image, known = torch.randint(256, (2, 1, 16, 16), dtype=torch.uint8), torch.ones(16, 16, dtype=torch.bool)
    known[4:8, 4:12] = False
    words = model.encode(image * known)
    seen = []
    model.reader.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    filled = model.sample(2, start=image, known=known)
    assert filled.shape == image.shape
    hole = torch.zeros(4, 4, dtype=torch.bool)
    hole[1, 1:3] = True
    assert torch.equal(seen[0] == 12, hole.flatten().expand(2, -1)) and torch.equal(seen[0][:, ~hole.flatten()], words[:, ~hole.flatten()])


def test_training_leaves_the_codebook_alone(digits, tmp_path):
    trained, model, config, start = started("masked", "vqvae", digits, tmp_path)
    training.fit(model, digits, config, progress=False, start=start)
    for name, tensor in trained.autoencoder.state_dict().items():
        assert torch.equal(tensor, model.autoencoder.state_dict()[name]), name


@pytest.mark.parametrize("asked", [{"n": 0}, {"temperature": -1.0}, {"start": torch.zeros(2, 1, 16, 16)}])
def test_a_drawing_that_there_is_not_is_a_sentence(asked):
    with pytest.raises(UserError):
        small().sample(**{"n": 2} | asked)


@pytest.mark.parametrize("steps", [-1, 0, 17])
def test_passes_that_there_are_not_are_a_sentence(steps):
    with pytest.raises(UserError, match="1 to 16"):
        small().sample(2, steps=steps)


def test_it_starts_from_a_codebook_or_from_itself():
    with pytest.raises(UserError, match="VQVAE"):
        MaskedWords.settings_from(VAE, VAEConfig())
    assert MaskedWords.settings_from(VQVAE, VQVAEConfig(codes=77)) == {"width": 32, "blocks": 1, "codes": 77, "code_width": 16, "decay": 0.99}
    assert MaskedWords.settings_from(MaskedWords, SMALL)["reader_width"] == 16
    with pytest.raises(UserError, match="heads"):
        small(reader_heads=3)
