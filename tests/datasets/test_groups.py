import json

import pytest

from glomtile.datasets.pairing import prepared_groups, read_groups
from glomtile.errors import InputError


def table(folder, text):
    path = folder / "groups.csv"
    path.write_text(text)
    return path


def test_groups_and_fixed_splits_are_read(tmp_path):
    path = table(tmp_path, "stem,group,split\na,s1,test\nb,s1,\nc,s2,\nunknown,s9,nonsense\n")
    assert read_groups(path, ["a", "b", "c"]) == ({"a": "s1", "b": "s1", "c": "s2"}, {"s1": "test"})


def test_the_split_column_may_be_absent(tmp_path):
    assert read_groups(table(tmp_path, "group,stem\ns,a\n"), ["a"]) == ({"a": "s"}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stem,group\na,s1\na,s2\nb,s1\n", "one group for a, got 's1' and 's2'"),
        ("stem,group,split\na,s1,tset\nb,s1,\n", "train, valid, test or out for a, got 'tset'"),
        ("stem,group,split\na,s1,test\nb,s1,train\n", "one split for group s1, got test and train"),
        ("stem,group\na,s1\n", "a line for every image, got none for b"),
        ("stem,group\na,s1\nb,\n", "a group for every image, got an empty cell for b"),
        ("stem,group\na,s1\nb.x.png,s1\nb.png,s1\n", "none for b.*without its suffix, b for b.png"),
        ("name,group\na,s1\n", "stem, group"),
    ],
)
def test_a_table_that_leaves_doubt_is_refused(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        read_groups(table(tmp_path, text), ["a", "b"])


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        ({"a": "s1", "b": "s1", "c": "s2"}, {"a": "s1", "b": "s1"}),
        ({"a": None, "b": None}, None),
        ({"a": "s1"}, None),
    ],
)
def test_what_prepare_was_told_of_groups_is_known_afterwards(tmp_path, groups, found):
    images = tmp_path / "test/images"
    assert prepared_groups(images, ["a", "b"]) is None
    sources = [{"stem": stem, "group": group} for stem, group in groups.items()]
    (tmp_path / "prepare.json").write_text(json.dumps({"sources": sources}))
    assert prepared_groups(images, ["a", "b"]) == found
