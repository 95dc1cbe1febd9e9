"""Each selector on a tensor small enough to see the whole answer."""

import math

import pytest
import torch
from torch.testing import assert_close

from minimonkey.compression import selectors
from minimonkey.errors import UsageError
from minimonkey.pyramid import Span


def directions(*degrees: float) -> torch.Tensor:
    """One group of unit vectors in the plane, at these angles."""
    radians = torch.tensor(degrees) * math.pi / 180
    return torch.stack((radians.cos(), radians.sin()), dim=-1)[None]


# -- attention ---------------------------------------------------------------------------------------------------------------


def test_attention_by_hand():
    """Four positions; 2 and 3 ask, 1 and 2 are asked for. Keys are logarithms of the weights that they should get."""
    keys, queries, rows = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]).log(), torch.ones(1, 2, 1), torch.tensor([2, 3])
    row_2, row_3 = torch.tensor([2 / 6, 3 / 6]), torch.tensor([2 / 10, 3 / 10])  # of 1+2+3, and of 1+2+3+4
    assert_close(selectors.attention_to(queries, keys, rows, Span(1, 3), scale=1.0), (row_2 + row_3) / 2)
    assert_close(selectors.attention_to(2 * queries, keys, rows, Span(1, 3), scale=0.5), (row_2 + row_3) / 2)

    near_2, near_3 = torch.tensor([2 / 5, 3 / 5]), torch.tensor([0, 3 / 7])  # each sees two tokens, itself the second
    assert_close(selectors.attention_to(queries, keys, rows, Span(1, 3), scale=1.0, sliding_window=2), (near_2 + near_3) / 2)

    alone = selectors.attention_to(queries[:, :1], keys, torch.tensor([3]), Span(0, 2), scale=1.0)
    assert_close(alone, torch.tensor([1 / 10, 2 / 10]))


def test_heads_share_keys_in_groups_and_count_alike():
    keys = torch.tensor([[[1.0], [3.0]], [[1.0], [1.0]]]).log()
    queries = torch.tensor([0.0, 1.0, 5.0, 7.0]).view(4, 1, 1)  # two heads to each key head; equal keys make 5 and 7 alike
    expected = torch.tensor([(1 / 2 + 1 / 4 + 1 / 2 + 1 / 2) / 4])
    assert_close(selectors.attention_to(queries, keys, torch.tensor([1]), Span(0, 1), scale=1.0), expected)


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("at_once", [256, 5])
def test_attention_is_that_of_the_whole_map(monkeypatch, at_once, window):
    """Gaps between the rows that ask, and blocks of them."""
    monkeypatch.setattr(selectors, "ROWS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(4, 30, 8, generator=generator), torch.randn(2, 30, 8, generator=generator)
    logits = queries @ keys.repeat_interleave(2, dim=0).transpose(1, 2) * 0.3
    places = torch.arange(30)
    unseen = places > places[:, None]
    if window:
        unseen |= places <= places[:, None] - window
    maps = logits.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    rows = torch.tensor([14, 15, 17, 18, 19, 20, 24, 25, 29])
    scores = selectors.attention_to(queries[:, rows], keys, rows, Span(4, 14), scale=0.3, sliding_window=window)
    assert_close(scores, maps[:, rows, 4:14].mean(dim=(0, 1)))


# -- by score, by chance, by place -------------------------------------------------------------------------------------------


def test_the_best_in_their_order_and_the_first_of_equals():
    assert selectors.best(torch.tensor([0.1, 0.4, 0.2, 0.4, 0.3]), 3).tolist() == [1, 3, 4]
    groups = torch.tensor([[0.2, 0.3, 0.2, 0.2, 0.2], [0.0, 0.0, 0.1, 0.0, 0.1]])
    assert selectors.best(groups, 3).tolist() == [[0, 1, 2], [0, 2, 4]]
    assert selectors.best(torch.ones(1, 4), 4).tolist() == [[0, 1, 2, 3]]
    assert selectors.best(torch.ones(2, 4), 0).tolist() == [[], []]


def test_chance_by_seed():
    """Of torch.rand(2, 8, dtype=float64) after manual_seed(0), the three greatest of each row."""
    assert selectors.at_random(2, 8, 3, seed=0).tolist() == [[0, 3, 5], [0, 5, 6]]
    assert selectors.at_random(1, 8, 3, seed=1).tolist() != [[0, 3, 5]]
    assert selectors.at_random(1, 8, 8, seed=0).tolist() == [list(range(8))]
    assert selectors.at_random(1, 8, 0, seed=0).tolist() == [[]]


def test_chance_is_repeatable_and_fair():
    assert selectors.at_random(2, 8, 4, seed=1).tolist() == selectors.at_random(2, 8, 4, seed=1).tolist()
    assert selectors.at_random(1, 8, 4, seed=1).tolist() != selectors.at_random(1, 8, 4, seed=2).tolist()
    picks = torch.stack([selectors.at_random(2, 8, 4, seed) for seed in range(500)])
    assert (picks.diff(dim=-1) > 0).all()
    counts = picks.flatten().bincount(minlength=8)
    assert counts.sum() == 500 * 2 * 4
    assert counts.min() > 430 and counts.max() < 570  # 500 each, give or take 4 standard deviations of 16


def test_even_choices_are_the_middles_of_equal_stretches():
    assert selectors.evenly(1, 8, 4).tolist() == [[1, 3, 5, 7]]
    assert selectors.evenly(2, 6, 2).tolist() == [[1, 4], [1, 4]]
    assert selectors.evenly(1, 5, 3).tolist() == [[0, 2, 4]]
    assert selectors.evenly(1, 4, 4).tolist() == [[0, 1, 2, 3]]
    assert selectors.evenly(1, 3, 0).tolist() == [[]]


# -- averages ----------------------------------------------------------------------------------------------------------------


def test_a_tile_is_averaged_down_to_the_budget():
    """Two tiles of 4 x 4 tokens with one feature, their numbers 0 to 15 and a hundred more."""
    tiles = torch.stack((torch.arange(16.0), 100 + torch.arange(16.0)))[..., None]
    picks, averages = selectors.pooled(tiles, 8)  # 2 rows of 4 columns: rows 0 and 1 together, rows 2 and 3
    assert picks.tolist() == [[0, 1, 2, 3, 8, 9, 10, 11]] * 2
    assert averages[0, :, 0].tolist() == [2, 3, 4, 5, 10, 11, 12, 13]
    assert averages[1, :, 0].tolist() == [102, 103, 104, 105, 110, 111, 112, 113]

    picks, averages = selectors.pooled(tiles[:1], 5)  # 2 x 2 = 4 is square, 1 x 4 is as many, 1 x 5 doesn't fit
    assert picks.tolist() == [[0, 2, 8, 10]]
    assert averages[0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]

    picks, averages = selectors.pooled(tiles[:1], 12)  # 3 rows of 4 columns, their windows 0-1, 1-2, 2-3
    assert picks.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]
    assert averages[0, :, 0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_all_tokens_or_none():
    tiles = torch.randn(2, 9, 3)
    picks, averages = selectors.pooled(tiles, 9)
    assert picks.tolist() == [list(range(9))] * 2
    assert torch.equal(averages, tiles)
    picks, averages = selectors.pooled(tiles, 0)
    assert (picks.shape, averages.shape) == ((2, 0), (2, 0, 3))


def test_each_cell_has_a_token_of_its_own():
    for keep in range(1, 257):
        picks, averages = selectors.pooled(torch.zeros(1, 256, 1), keep)
        assert picks.shape == averages.shape[:2]
        assert 0.9 * keep <= picks.shape[1] <= keep or keep < 23
        assert (picks.diff() > 0).all()
        assert picks.max() < 256


def test_a_tile_that_is_not_square():
    with pytest.raises(UsageError, match="pools square tiles, and these have 6 tokens"):
        selectors.pooled(torch.zeros(1, 6, 2), 3)


# -- what lies apart ---------------------------------------------------------------------------------------------------------


def test_diverse_tokens_lie_far_apart():
    """Angles 0, 10, 130, 280, 0. 130 is farthest from its neighbour, 120 degrees; 280 is 150 from that. Then 10 is 90 from the
    nearest chosen, 0 only 80; of the two at 0 the earlier comes first."""
    features = directions(0, 10, 130, 280, 0)
    expected = [[], [2], [2, 3], [1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4]]
    assert [selectors.diverse(features, keep).tolist()[0] for keep in range(6)] == expected


def test_groups_are_chosen_from_by_themselves():
    features = torch.cat((directions(0, 10, 100), directions(0, 100, 10)))
    assert selectors.diverse(features, 2).tolist() == [[0, 2], [0, 1]]  # 100 and the one farther from it
    weights = torch.tensor([[1.0, 0.5, 0.9], [0.1, 0.2, 1.0]])
    assert selectors.marginal(features, weights, 1).tolist() == [[0], [2]]
    assert selectors.relevant_and_diverse(features, weights, 1).tolist() == [[0], [2]]


def test_length_does_not_make_a_token_diverse():
    assert selectors.diverse(directions(0, 20, 90) * torch.tensor([[[1.0], [50.0], [1.0]]]), 2).tolist() == [[0, 2]]


def test_relevance_is_the_mean_cosine_stretched():
    features = directions(0, 60, 90, 180)
    queries = directions(0)[0] * 7  # its length doesn't count
    assert_close(selectors.relevance(features, queries), torch.tensor([[1.0, 0.75, 0.5, 0.0]]))
    two = selectors.relevance(features, torch.cat((queries, directions(90)[0])))  # sums 1, 1.366, 1, -1
    assert_close(two, torch.tensor([[2 / 2.3660254, 1.0, 2 / 2.3660254, 0.0]]))
    assert selectors.relevance(directions(30, 30), queries).tolist() == [[1.0, 1.0]]


def test_relevant_and_diverse_by_determinant():
    """Angles 0, 20, 90 with relevance 1, 0.9, 0.4. Pairs, by the square of r_i r_j sin: 0 and 20: 0.0948; 0 and 90: 0.16;
    so the less relevant third goes before the second, which repeats the first."""
    features, weights = directions(0, 20, 90), torch.tensor([[1.0, 0.9, 0.4]])
    assert selectors.relevant_and_diverse(features, weights, 1).tolist() == [[0]]
    assert selectors.relevant_and_diverse(features, weights, 2).tolist() == [[0, 2]]
    assert selectors.relevant_and_diverse(features, weights * torch.tensor([1, 1, 0.5]), 2).tolist() == [[0, 1]]
    assert selectors.relevant_and_diverse(features, weights, 3).tolist() == [[0, 1, 2]]  # three in a plane: nothing is left to gain
    assert selectors.relevant_and_diverse(features, weights, 0).tolist() == [[]]


def test_greedy_determinants_are_those_of_the_matrix():
    """The same choices as with the determinant of each candidate and those chosen, computed anew."""
    generator = torch.Generator().manual_seed(3)
    features, weights = torch.randn(3, 12, 10, generator=generator), 0.2 + 0.8 * torch.rand(3, 12, generator=generator)
    picks = selectors.relevant_and_diverse(features, weights, 6)
    for group in range(3):
        unit = torch.nn.functional.normalize(features[group].double(), dim=-1)
        kernel = weights[group][:, None] * (unit @ unit.T) * weights[group]
        chosen: list[int] = []
        for _ in range(6):
            rest = [token for token in range(12) if token not in chosen]
            chosen.append(max(rest, key=lambda token: float(torch.linalg.det(kernel[chosen + [token]][:, chosen + [token]]))))
        assert picks[group].tolist() == sorted(chosen)


def test_marginal_relevance():
    """Angles 0, 20, 90, 180 with relevance 1, 0.9, 0.4, 0. After the first: 0.45 - 0.47, 0.2 - 0, 0 + 0.5: the opposite one comes
    second, whatever its relevance; then 0.45 - 0.47 against 0.2 - 0: the one at 90."""
    features, weights = directions(0, 20, 90, 180), torch.tensor([[1.0, 0.9, 0.4, 0.0]])
    expected = [[], [0], [0, 3], [0, 2, 3], [0, 1, 2, 3]]
    assert [selectors.marginal(features, weights, keep).tolist()[0] for keep in range(5)] == expected


@pytest.mark.parametrize("choose", [selectors.diverse, selectors.marginal, selectors.relevant_and_diverse])
def test_the_first_of_equals(choose):
    features = torch.tensor([[[1.0, 0.0]] * 5])
    weights = [] if choose is selectors.diverse else [torch.ones(1, 5)]
    assert choose(features, *weights, 3).tolist() == [[0, 1, 2]]
