"""What an error says survives the way from another process."""

import pickle

import pytest

from glomtile import errors
from glomtile.errors import ArgumentError, GlomtileError

KINDS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, GlomtileError) and kind is not ArgumentError
]


@pytest.mark.parametrize("hint", [None, "try again"])
@pytest.mark.parametrize("received", [-3, "x" * 100, None])
def test_a_wrong_argument_comes_out_of_a_pickle_as_it_went_in(received: object, hint: str | None) -> None:
    error = ArgumentError("window_px", "a whole number >= 1", received, hint)
    once = pickle.loads(pickle.dumps(error))
    for back in (once, pickle.loads(pickle.dumps(once))):
        assert type(back) is ArgumentError
        assert (str(back), back.args) == (str(error), error.args)
        assert (back.where, back.message, back.hint) == ("window_px", error.message, hint)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_error_comes_out_of_a_pickle_as_it_went_in(kind: type[GlomtileError]) -> None:
    back = pickle.loads(pickle.dumps(kind("a.png", "expected an image, got none", "look")))
    assert type(back) is kind
    assert str(back) == "a.png: expected an image, got none (look)"
