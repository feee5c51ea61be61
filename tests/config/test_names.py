from __future__ import annotations

from glomtile.config.ini import nearest, parse, resolve_names


def placed(text: str):
    found, findings = resolve_names(parse(text).entries, "x.config")
    return {target: entry.value for target, entry in found.items()}, [str(finding) for finding in findings]


def test_an_unknown_key_is_left_out_and_the_nearest_name_offered():
    found, told = placed("[model]\nlearning_rat = 0.1\n")
    assert found == {}
    assert told == ["x.config:2 [model] learning_rat: unknown key, left out; did you mean learning_rate?"]


def test_the_nearest_name_is_sought_in_other_sections_too():
    _, told = placed("[model]\noverlaping = 32\n")
    assert told == [
        "x.config:2 [model] overlaping: unknown key, left out; did you mean overlapping of [tiledinfer]?"
    ]


def test_a_key_like_no_other_gets_no_suggestion():
    assert placed("[model]\nxyzzy = 1\n")[1] == ["x.config:2 [model] xyzzy: unknown key, left out"]


def test_a_key_that_only_one_other_section_has_counts_there():
    found, told = placed("[model]\nepochs = 3\n")
    assert found == {("train", "epochs"): 3}
    assert told == ["x.config:2 [model] epochs: wrong section; read as [train] epochs"]


def test_a_key_that_several_other_sections_have_is_left_out_and_they_are_named():
    found, told = placed('[model]\nmasks_dir = "./x"\n')
    assert found == {}
    assert "it is one of [train], [valid], [test]" in told[0]


def test_the_right_place_wins_whichever_comes_first():
    for text in ("[model]\nepochs = 3\n[train]\nepochs = 5\n", "[train]\nepochs = 5\n[model]\nepochs = 3\n"):
        found, told = placed(text)
        assert found == {("train", "epochs"): 5}
        assert len(told) == 1
        assert told[0].endswith("which is also set and takes precedence")


def test_a_misspelling_that_the_reference_reads_is_read():
    found, told = placed("[deformation]\nalpah = 900\n")
    assert found == {("deformation", "alpha"): 900}
    assert "misspelt; read as [deformation] alpha" in told[0]


def test_a_section_in_capitals_is_read_and_told_once():
    found, told = placed("[Train]\nepochs = 3\npatience = 4\n")
    assert found == {("train", "epochs"): 3, ("train", "patience"): 4}
    assert len(told) == 1


def test_an_unknown_section_is_told_once_with_the_nearest_name():
    found, told = placed("[tiledinfr]\noverlapping = 3\nsplit_size = 4\n")
    assert found == {}
    assert told == ["x.config:2 [tiledinfr]: unknown section, left out; did you mean [tiledinfer]?"]


def test_nearest_knows_when_nothing_is_near():
    assert nearest("epochz", ["epochs", "patience"]) == "epochs"
    assert nearest("zzz", ["epochs", "patience"]) is None
