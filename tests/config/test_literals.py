from __future__ import annotations

import pytest

from glomtile.config.ini import NotALiteralError, control_character, read_literal, read_path


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
def test_code_is_refused_by_that_name(text):
    with pytest.raises(NotALiteralError, match="got code"):
        read_literal(text)


@pytest.mark.parametrize("text", ["1 + 1", "2 ** 10", "1024 * 2", "1 < 2"])
def test_a_calculation_is_refused_by_that_name(text):
    with pytest.raises(NotALiteralError, match="got a calculation"):
        read_literal(text)


@pytest.mark.parametrize(
    "text", ["", "  ", '"open', "{1: 2", "(1, 2", "$(reboot)", "`ls`", "a; b", "1 2", "@"]
)
def test_what_is_broken_or_no_value_is_refused(text):
    with pytest.raises(NotALiteralError, match="expected"):
        read_literal(text)


def test_a_windows_path_in_quotes_makes_no_noise(recwarn):
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


def test_a_control_character_that_a_backslash_made_is_told():
    assert "'\\n'" in (control_character("C:\new", r'"C:\new"') or "")
    assert control_character(r"C:\new", r'"C:\\new"') is None
    assert control_character("two\nlines", '"""two\nlines"""') is None
    assert control_character(3, "3") is None
