from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomtile.config.ini import (
    NotALiteralError,
    control_character,
    parse,
    read_literal,
    read_path,
    resolve_names,
)


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


def test_comments_blanks_and_capitals_do_not_matter():
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


def test_the_last_of_duplicate_keys_counts():
    text = "[train]\nepochs = 1\npatience = 2\nepochs = 3\n"
    assert values(text)["train", "epochs"] == 3
    ((severity, line, message),) = messages(text)
    assert (severity, line) == ("warning", 4)
    assert "line 2" in message


def test_duplicate_sections_are_merged():
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
    assert messages(text) == [("error", 2, "expected a number, a text in quotes or a list")]


def test_a_value_continues_while_a_bracket_is_open():
    text = "[mask]\nrgb_map = {(0,0,0):0, ; black\n(255,0,0):1,\n  }\n[model]\nbase_kernels = (3,\n 3)\n"
    assert values(text) == {
        ("mask", "rgb_map"): {(0, 0, 0): 0, (255, 0, 0): 1},
        ("model", "base_kernels"): (3, 3),
    }


def test_a_list_inside_an_open_bracket_is_no_section():
    assert values("[a]\nx = [\n[1, 2],\n[3, 4]]\n") == {("a", "x"): [[1, 2], [3, 4]]}


def test_a_forgotten_bracket_costs_only_its_own_key():
    text = "[mask]\nrgb_map = {(0,0,0):0,\ntolerance = 3\n[train]\nepochs = 5\n"
    assert values(text) == {("mask", "tolerance"): 3, ("train", "epochs"): 5}
    assert [(severity, line) for severity, line, _ in messages(text)] == [("error", 2)]
    assert values("[mask]\nrgb_map = {(0,0,0):0,\n[train]\nepochs = 5\n") == {("train", "epochs"): 5}


def test_an_indented_line_continues_the_value_above():
    assert values('[train]\nmodel_dir =\n    "./models"\n') == {("train", "model_dir"): "./models"}


def test_lines_that_are_no_setting_are_findings():
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
def test_any_text_is_read_or_a_finding(text):
    parsed = parse(text, "x")
    lines = len(text.splitlines()) + text.count("\r") + 1
    assert all(0 < finding.line <= lines for finding in parsed.findings)
    assert len({(entry.section, entry.key) for entry in parsed.entries}) == len(parsed.entries)


# --- values ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100", 100),
        ("-0.5", -0.5),
        ("0.00007", 0.00007),
        ('"Adam"', "Adam"),
        ("'it''s'", "its"),
        ("(3, 3)", (3, 3)),
        ("[1, 2,]", [1, 2]),
        ("{(0,0,0):0,(255,0,0):1,}", {(0, 0, 0): 0, (255, 0, 0): 1}),
        ("True", True),
        ("None", None),
        ("100,", (100,)),
        ('"50 %, 7; #1"', "50 %, 7; #1"),
    ],
)
def test_a_literal_is_read_as_python_reads_it(text, value):
    literal = read_literal(text)
    assert literal.value == value
    assert not literal.unquoted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Adam", "Adam"),
        ("./models/", "./models/"),
        ("../../dataset/Glo meruli", "../../dataset/Glo meruli"),
        ("data/train/images", "data/train/images"),
        ("C:\\data\\images", "C:\\data\\images"),
        ("best.h5", "best.h5"),
        ("true", True),
        ("FALSE", False),
        ("none", None),
    ],
)
def test_a_word_or_path_without_quotes_is_taken_and_marked(text, value):
    literal = read_literal(text)
    assert literal.value == value
    assert literal.unquoted


@pytest.mark.parametrize(
    "text",
    [
        '__import__("os").system("true")',
        "open('x', 'w')",
        "exit()",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "f'{1}'",
        "os.environ['HOME']",
        "(x := 1)",
        "1 if True else 2",
        "{'a': print()}",
        "eval(open('x').read()",
        "().__class__.__bases__[0]",
    ],
)
def test_code_is_refused(text):
    with pytest.raises(NotALiteralError, match="got code"):
        read_literal(text)


@pytest.mark.parametrize("text", ["1 + 1", "2 ** 10", "1024 * 2", "1 < 2"])
def test_a_calculation_is_refused(text):
    with pytest.raises(NotALiteralError, match="got a calculation"):
        read_literal(text)


@pytest.mark.parametrize(
    "text", ["", "  ", '"open', "{1: 2", "(1, 2", "$(reboot)", "`ls`", "a; b", "1 2", "@"]
)
def test_what_is_broken_or_no_value_is_refused(text):
    with pytest.raises(NotALiteralError, match="expected"):
        read_literal(text)


def test_a_windows_path_in_quotes_gives_no_warning(recwarn):
    assert read_literal(r'"..\dataset\images"').value == r"..\dataset\images"
    assert not recwarn.list


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize("ending", ["", "  ", " ; note", "# it's"])
@pytest.mark.parametrize(
    "path",
    [
        *(r"C:\Users\me\images", r"C:\new\train", "C:\\data\\", r"\\server\new", r"..\x\0", r"D:\\data\new"),
        *(r"..\train", r"data\train\images", r"data\validation", "data\\"),
    ],
)
def test_a_quoted_windows_path_is_what_is_written(path, quote, ending):
    literal = read_path(f"{quote}{path}{quote}{ending}")
    assert literal.value == path
    assert not literal.unquoted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"C:\\new\\train"', r"C:\new\train"),
        (r'"\\\\server\\new"', r"\\server\new"),
        (r'r"C:\new"', r"C:\new"),
        (r"C:\new", r"C:\new"),
        ('"data/new"', "data/new"),
        (r"'im\xe9g\u0434s\tnow'", "im\xe9g\u0434s\tnow"),
        ("None", None),
        ("('a\\n',)", ("a\n",)),
    ],
)
def test_any_other_path_is_read_as_python_reads_it(text, value):
    assert read_path(text).value == value


def test_code_is_no_path():
    for text in ("open('C:\\new', 'w')", "'a\\n' + open('x')", "'C:\\new' % 1"):
        with pytest.raises(NotALiteralError):
            read_path(text)


@pytest.mark.parametrize("text", [r'"C:\Users"', r'["C:\Users", 1]', '"C:\\data\\"', r"('\x', 2)"])
def test_backslashes_that_break_a_text_are_named(text):
    with pytest.raises(NotALiteralError, match="write / or double the backslash"):
        read_literal(text)


def test_a_control_character_from_a_backslash_is_a_finding():
    assert "'\\n'" in (control_character("C:\new", r'"C:\new"') or "")
    assert control_character(r"C:\new", r'"C:\\new"') is None
    assert control_character("two\nlines", '"""two\nlines"""') is None
    assert control_character(3, "3") is None


# --- names ---


def resolved(text: str):
    found, findings = resolve_names(parse(text).entries, "x.config")
    return {target: entry.value for target, entry in found.items()}, [str(finding) for finding in findings]


def test_an_unknown_key_is_left_out_with_a_suggestion():
    found, findings = resolved("[model]\nlearning_rat = 0.1\n")
    assert found == {}
    assert findings == ["x.config:2 [model] learning_rat: unknown key, left out; did you mean learning_rate?"]


def test_suggestions_include_other_sections():
    _, findings = resolved("[model]\noverlaping = 32\n")
    assert findings == [
        "x.config:2 [model] overlaping: unknown key, left out; did you mean overlapping of [tiledinfer]?"
    ]


def test_a_key_like_no_other_gets_no_suggestion():
    assert resolved("[model]\nxyzzy = 1\n")[1] == ["x.config:2 [model] xyzzy: unknown key, left out"]


def test_a_key_of_one_other_section_counts_there():
    found, findings = resolved("[model]\nepochs = 3\n")
    assert found == {("train", "epochs"): 3}
    assert findings == ["x.config:2 [model] epochs: wrong section; read as [train] epochs"]


def test_a_key_of_several_other_sections_is_left_out():
    found, findings = resolved('[model]\nmasks_dir = "./x"\n')
    assert found == {}
    assert "it is one of [train], [valid], [test]" in findings[0]


def test_the_right_section_takes_precedence():
    for text in ("[model]\nepochs = 3\n[train]\nepochs = 5\n", "[train]\nepochs = 5\n[model]\nepochs = 3\n"):
        found, findings = resolved(text)
        assert found == {("train", "epochs"): 5}
        assert len(findings) == 1
        assert findings[0].endswith("which is also set and takes precedence")


def test_a_section_in_capitals_is_read_with_one_finding():
    found, findings = resolved("[Train]\nepochs = 3\npatience = 4\n")
    assert found == {("train", "epochs"): 3, ("train", "patience"): 4}
    assert len(findings) == 1


def test_an_unknown_section_has_one_finding_with_a_suggestion():
    found, findings = resolved("[tiledinfr]\noverlapping = 3\nsplit_size = 4\n")
    assert found == {}
    assert findings == ["x.config:2 [tiledinfr]: unknown section, left out; did you mean [tiledinfer]?"]
