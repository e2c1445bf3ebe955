"""Names of mobile networks and of spaces: reading, writing, drawing, and mistakes in them."""

import numpy as np
import pytest

from vision.errors import UserError
from vision.models.layers.variants import check_elastic, choice_of, parse, spell

SPACE = "r20.28-c16s2-w16.24d1.2k3.5.7e2.4-w32k5e6s2se0.1-h96"


@pytest.mark.parametrize(
    "text",
    [SPACE, "c16-w16e3-h64", "c8s2-w8e2-w16d2k5e2s2se1-h32", "r24-c16-w16e1-h64"],
)
def test_a_name_is_written_as_it_is_read(text):
    assert spell(parse(text).axes) == text


def test_letters_and_numbers_may_stand_in_any_order():
    assert spell(parse("h96-se1.0s2e6k5w32-c16").axes) == "c16-w32k5e6s2se0.1-h96"


def test_the_numbers_of_a_space():
    space = parse(SPACE)
    assert space.size == 2 * 2 * 2 * 3 * 2 * 2 and space.depth == 2
    assert spell(space.smallest()) == "r20-c16s2-w16e2-w32k5e6s2-h96"
    assert spell(space.largest()) == "r28-c16s2-w24d2k7e4-w32k5e6s2se1-h96"
    assert set(space.free()) == {"r", "0.w", "0.d", "0.k", "0.e", "1.se"}


def test_drawn_networks_are_of_the_space_and_cover_it():
    space = parse("c8-w8.16e2-w16e2k3.5-h8")
    random = np.random.default_rng(0)
    names = {spell(space.sample(random)) for _ in range(60)}
    assert len(names) == space.size == 4
    for name in names:
        space.check(choice_of(name))


def test_a_mutation_changes_one_number():
    space = parse(SPACE)
    random = np.random.default_rng(0)
    choice = space.smallest()
    changed = set()
    for _ in range(100):
        other = space.mutate(choice, random)
        space.check(other)
        (axis,) = [axis for axis in choice if choice[axis] != other[axis]]
        changed.add(axis)
    assert changed == set(space.free())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c16-w16e3x2-h64", "'w16e3x2' = 'x' is unknown: choose from w, d, k, e, s, se"),
        ("c16-w16e3sse1-h64", "'sse' is unknown .did you mean 'se'"),
        ("c16-w16e3k4-h64", "k in 'w16e3k4' = '4' is unknown: choose from 3, 5, 7"),
        ("c16-w16-h64", "'w16' has no e, as in e4"),
        ("c16-w16e3", "has no h"),
        ("w16e3-h64", "has no c"),
        ("c16-h64", "has no w of stage 1"),
        ("c16-w16e3-h64-h64", "has h twice"),
        ("c16-w16e3e4-h64", "has e twice"),
        ("c16-w16e-h64", "'w16e' must be letters with numbers"),
        ("c16-w16e3--h64", "'' must be letters with numbers"),
        ("c16k3-w16e3-h64", "'c16k3' = 'k' is unknown"),
        ("c16-w16e3d99-h64", "d in 'w16e3d99' must be from 1 to 32"),
        ("c16-w0e3-h64", "w in 'w0e3' must be from 1"),
        ("r4-c16-w8e3-h64", "r in 'r4' must be from 8"),
    ],
)
def test_mistakes_in_a_name(text, message):
    with pytest.raises(UserError, match=message) as error:
        parse(text)
    assert "model.variant" in str(error.value) and len(str(error.value).splitlines()) <= 2


def test_a_space_is_not_a_network():
    with pytest.raises(UserError, match="--variant = .* is a space of 2 networks"):
        choice_of("c16-w16.24e3-h64", "--variant")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("r20-c16s2-w16e2k9-w32k5e6s2-h96", "choose from 3, 5, 7"),
        ("r20-c16s2-w16e3-w32k5e6s2-h96", "e of stage 1 is 3, but the space has 2, 4"),
        ("r20-c16s2-w16e2-h96", "of stage 2 is in only one of the two"),
        ("c16s2-w16e2-w32k5e6s2-h96", "r is in only one of the two"),
    ],
)
def test_networks_of_another_space(name, message):
    with pytest.raises(UserError, match=message):
        parse(SPACE).check(choice_of(name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SPACE, "not in r: give it one number"),
        ("c8s1.2-w8.16e2-h8", "not in s of the stem c"),
        ("c8-w8.16e1.2-h8", "e of stage 1 must be at least 2"),
        ("c8-w8e2-h8", "names one network, not a space"),
    ],
)
def test_spaces_whose_networks_cannot_share_weights(text, message):
    with pytest.raises(UserError, match=message):
        check_elastic(parse(text))
