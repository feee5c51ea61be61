from __future__ import annotations

import itertools
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.datasets.splitting import (
    SPLITS,
    require_shares,
    split_counts,
    split_folds,
    split_groups,
    split_neighbours,
)
from glomtile.errors import UsageError

SHARES = (0.7, 0.15, 0.15)


def runs(dealt):
    return 1 + sum(a != b for a, b in pairwise(dealt))


@given(st.integers(3, 500), st.integers(0, 1000))
def test_every_image_is_dealt_once_and_no_share_stays_empty(count, seed):
    dealt = split_neighbours(count, SHARES, seed)
    assert len(dealt) == count
    assert Counter(dealt) == dict(zip(SPLITS, split_counts(count, SHARES), strict=True))
    assert set(dealt) == set(SPLITS)


def test_sixteen_images_give_eleven_three_and_two():
    assert split_counts(16, SHARES) in ([11, 3, 2], [11, 2, 3])


def test_three_images_give_one_each_and_two_are_refused():
    assert split_counts(3, SHARES) == [1, 1, 1]
    with pytest.raises(UsageError, match="at least 3 images for train, valid, test, got 2"):
        split_counts(2, SHARES)


def test_a_share_of_zero_gets_nothing():
    assert split_counts(5, (0.8, 0.2, 0.0)) == [4, 1, 0]
    assert "test" not in split_neighbours(40, (0.5, 0.5, 0.0), 1)


def test_neighbours_by_name_stay_together():
    assert runs(split_neighbours(16, SHARES, 137)) == 3
    assert runs(split_neighbours(1100, SHARES, 137)) <= 15


def test_a_large_set_takes_each_split_from_all_over():
    dealt = split_neighbours(1100, SHARES, 137)
    for start in range(0, 1100, 220):
        assert set(dealt[start : start + 220]) == set(SPLITS)


def test_the_seed_decides():
    assert split_neighbours(16, SHARES, 1) == split_neighbours(16, SHARES, 1)
    assert len({tuple(split_neighbours(16, SHARES, seed)) for seed in range(20)}) > 1


@given(st.lists(st.sampled_from("abcdefgh"), min_size=8, max_size=60), st.integers(0, 99))
def test_a_group_is_never_parted(groups, seed):
    if len(set(groups)) < 3:
        return
    dealt = split_groups(groups, SHARES, seed)
    homes = {(group, split) for group, split in zip(groups, dealt, strict=True)}
    assert len(homes) == len(set(groups))
    assert set(dealt) == set(SPLITS)


def test_a_fixed_group_goes_where_it_was_sent():
    groups = ["a", "a", "b", "c", "d"]
    dealt = split_groups(groups, SHARES, 0, {"a": "test", "elsewhere": "train"})
    assert dealt[:2] == ["test", "test"]
    assert set(dealt) == set(SPLITS)


def test_a_group_fixed_to_no_split_is_refused():
    with pytest.raises(UsageError, match="expected train, valid, test for group 'a', got 'tset'"):
        split_groups(["a", "b", "c", "d"], SHARES, 0, {"a": "tset"})


def test_too_few_groups_are_refused():
    with pytest.raises(UsageError, match="expected at least 3 groups"):
        split_groups(["a", "a", "b"], SHARES, 0)


def test_group_sizes_follow_the_shares():
    groups = [f"slide{number}" for number in range(100) for _ in range(10)]
    assert Counter(split_groups(groups, SHARES, 3)) == {"train": 700, "valid": 150, "test": 150}


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_shares_that_make_no_sense_are_refused(shares):
    with pytest.raises(UsageError, match="expected three shares"):
        require_shares(shares)


sizes_and_folds = st.lists(st.integers(1, 6), min_size=2, max_size=9).flatmap(
    lambda sizes: st.tuples(st.just(sizes), st.integers(2, len(sizes)))
)


def row(sizes: list[int]) -> list[str]:
    return [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]


@given(sizes_and_folds)
def test_every_fold_is_one_stretch_and_no_group_is_parted(case: tuple[list[int], int]) -> None:
    sizes, folds = case
    groups = row(sizes)
    dealt = split_folds(groups, folds)
    assert [fold for fold, _ in itertools.groupby(dealt)] == list(range(folds))
    assert len(set(zip(groups, dealt, strict=True))) == len(sizes)


@given(sizes_and_folds)
def test_no_other_cut_is_more_even(case: tuple[list[int], int]) -> None:
    """Against all cuts, tried one by one."""
    sizes, folds = case
    dealt = split_folds(row(sizes), folds)

    def squares(cuts: tuple[int, ...]) -> int:
        return sum(sum(sizes[a:b]) ** 2 for a, b in itertools.pairwise((0, *cuts, len(sizes))))

    best = min(squares(cuts) for cuts in itertools.combinations(range(1, len(sizes)), folds - 1))
    assert sum(dealt.count(fold) ** 2 for fold in range(folds)) == best


def test_the_same_images_are_dealt_the_same() -> None:
    assert split_folds(["a", "b", "b", "c", "d"], 3) == [0, 1, 1, 2, 2]


@given(sizes_and_folds, st.randoms())
def test_images_of_a_group_stay_together_wherever_they_stand(
    case: tuple[list[int], int], chance: random.Random
) -> None:
    sizes, folds = case
    groups = row(sizes)
    chance.shuffle(groups)
    dealt = split_folds(groups, folds)
    assert len(set(zip(groups, dealt, strict=True))) == len(sizes)
    ordered = sorted(groups, key=groups.index)
    assert [dealt[groups.index(group)] for group in ordered] == split_folds(ordered, folds)


@pytest.mark.parametrize(
    ("groups", "folds", "message"),
    [
        (["a", "b"], 3, "expected at most 2, the number of groups, got 3"),
        (["a", "b"], 1, "expected at least 2"),
        ([], 2, "expected at most 0"),
    ],
)
def test_what_cannot_be_dealt_is_refused(groups: list[str], folds: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        split_folds(groups, folds)
