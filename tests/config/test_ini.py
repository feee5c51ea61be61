from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glomtile.config.ini import parse


def values(text: str) -> dict[tuple[str, str], object]:
    return {(entry.section, entry.key): entry.value for entry in parse(text).entries}


def messages(text: str) -> list[tuple[str, int, str]]:
    return [(f.severity, f.line, f.message) for f in parse(text, "x.config").findings]


def test_a_plain_file_is_read_with_its_line_numbers():
    parsed = parse('; a comment\n[model]\nmodel = "FlexUNet"\n\n[train]\nepochs = 100\n')
    assert [(e.section, e.key, e.value, e.line) for e in parsed.entries] == [
        ("model", "model", "FlexUNet", 3),
        ("train", "epochs", 100, 6),
    ]
    assert parsed.findings == ()


def test_comments_blanks_and_letters_do_not_matter():
    text = (
        "\ufeff# first\r\n  ; indented\r\n[ train ] ; section\r\n"
        '  Epochs   =   3   ; three\r\nmodel_dir="./a;b#c" # path\r\n\tpatience: 5\r\n'
    )
    assert values(text) == {
        ("train", "epochs"): 3,
        ("train", "model_dir"): "./a;b#c",
        ("train", "patience"): 5,
    }
    assert messages(text) == []


def test_a_key_written_twice_counts_last_and_is_told_with_both_lines():
    text = "[train]\nepochs = 1\npatience = 2\nepochs = 3\n"
    assert values(text)["train", "epochs"] == 3
    ((severity, line, message),) = messages(text)
    assert (severity, line) == ("warning", 4)
    assert "line 2" in message


def test_a_section_written_twice_counts_as_one():
    text = "[train]\nepochs = 1\n[model]\nnum_layers = 2\n[train]\npatience = 3\n"
    assert values(text)["train", "epochs"] == 1
    assert values(text)["train", "patience"] == 3
    ((severity, line, message),) = messages(text)
    assert (severity, line) == ("warning", 5)
    assert "line 1" in message


def test_a_percent_sign_is_a_sign_like_any_other():
    """Reference §6.4: there it made the whole file fall back to its defaults."""
    text = '[train]\nimages_dir = "./50%/%(x)s"\nepochs = 3\n'
    assert values(text) == {("train", "images_dir"): "./50%/%(x)s", ("train", "epochs"): 3}
    assert messages(text) == []


def test_one_bad_value_leaves_the_others_alone():
    """Reference §6.4: there a value that failed silently became the default."""
    text = "[train]\nepochs = 1 +\npatience = 3\n"
    assert values(text) == {("train", "patience"): 3}
    assert messages(text) == [
        ("error", 2, "expected a number, a text in quotes or a list"),
    ]


def test_a_value_goes_on_while_a_bracket_is_open():
    text = "[mask]\nrgb_map = {(0,0,0):0, ; black\n(255,0,0):1,\n  }\n[model]\nbase_kernels = (3,\n 3)\n"
    assert values(text) == {
        ("mask", "rgb_map"): {(0, 0, 0): 0, (255, 0, 0): 1},
        ("model", "base_kernels"): (3, 3),
    }


def test_a_list_inside_an_open_bracket_is_not_taken_for_a_section():
    assert values("[a]\nx = [\n[1, 2],\n[3, 4]]\n") == {("a", "x"): [[1, 2], [3, 4]]}


def test_a_forgotten_bracket_costs_only_its_own_key():
    text = "[mask]\nrgb_map = {(0,0,0):0,\ntolerance = 3\n[train]\nepochs = 5\n"
    assert values(text) == {("mask", "tolerance"): 3, ("train", "epochs"): 5}
    assert [(severity, line) for severity, line, _ in messages(text)] == [("error", 2)]
    assert values("[mask]\nrgb_map = {(0,0,0):0,\n[train]\nepochs = 5\n") == {("train", "epochs"): 5}


def test_an_indented_line_goes_on_with_the_value_above():
    assert values('[train]\nmodel_dir =\n    "./models"\n') == {("train", "model_dir"): "./models"}


def test_lines_that_are_no_setting_are_told_and_left_out():
    text = "epochs = 1\n[train]\nwhat is this\nepochs =\npatience = 4\n"
    assert values(text) == {("train", "patience"): 4}
    assert [(severity, line) for severity, line, _ in messages(text)] == [
        ("warning", 1),
        ("warning", 3),
        ("warning", 4),
    ]


def test_a_text_without_quotes_is_taken_with_a_warning():
    text = "[model]\noptimizer = Adam\n"
    assert values(text) == {("model", "optimizer"): "Adam"}
    assert messages(text) == [("warning", 2, "read as the text 'Adam'; write texts in quotes")]


def test_an_empty_text_has_no_settings():
    assert parse("").entries == ()
    assert parse("\n\n; only a comment\n[train]\n").entries == ()


atoms = (
    st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
    | st.text(max_size=12)
)
literals = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(atoms, inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), literals, max_size=6))
def test_every_literal_that_python_writes_is_read_back(settings):
    text = "[model]\n" + "".join(f"{key} = {value!r} ; note\n" for key, value in settings.items())
    parsed = parse(text)
    assert {entry.key: entry.value for entry in parsed.entries} == settings
    assert parsed.findings == ()


@given(
    st.text(alphabet=st.sampled_from("[]{}()='\";#%\\ \n\tab1,.:_="), max_size=120) | st.text(max_size=120)
)
def test_any_text_is_read_or_told_and_never_breaks_the_reader(text):
    parsed = parse(text, "x")
    lines = len(text.splitlines()) + text.count("\r") + 1
    assert all(0 < finding.line <= lines for finding in parsed.findings)
    assert len({(entry.section, entry.key) for entry in parsed.entries}) == len(parsed.entries)
