from __future__ import annotations

from dynamic.compiled.plan import Stretch, Tree, plan

# Nodes:  0 - 1 - 2      a, b, c share the stem (0); a and b part behind the first site.
#           |   - 3
#           - 4 - 5
TREE = Tree.of([("x", "l"), ("x", "r"), ("y", "l")])
A, B, C = 2, 3, 5


def test_the_tree() -> None:
    assert TREE.paths == ((0, 1, 2), (0, 1, 3), (0, 4, 5))
    assert TREE.leaves == (A, B, C)
    assert (TREE.meet(A, B), TREE.meet(A, C), TREE.meet(1, C), TREE.meet(A, A)) == (1, 0, 0, A)


def test_whole_answers_alone_are_never_cut() -> None:
    assert plan(TREE) == tuple(Stretch(start=None, end=leaf) for leaf in (A, B, C))


def test_a_ladder_emits_where_the_next_rung_parts() -> None:
    assert set(plan(TREE, ladders=[(C, A)])) == {
        *plan(TREE),
        Stretch(start=None, end=C, emits=(0,)),
        Stretch(start=0, end=A),
        Stretch(start=0, end=B),
        Stretch(start=0, end=C),
    }


def test_the_second_of_three_rungs_emits_what_the_first_did_not_run() -> None:
    made = plan(TREE, ladders=[(C, A, B)])
    assert Stretch(start=None, end=C, emits=(0,)) in made
    assert Stretch(start=0, end=A, emits=(1,)) in made
    assert Stretch(start=1, end=B) in made
    assert Stretch(start=None, end=A) in made  # alone, it emits nothing


def test_a_look_gives_the_looks_before_it_and_all_that_others_go_on_from() -> None:
    made = plan(TREE, looks=[("pooled", 0), ("pooled", 1)])
    assert Stretch(start=None, end=0, emits=(0,), looks=(("pooled", 0),)) in made
    assert Stretch(start=None, end=1, emits=(0, 1), looks=(("pooled", 0), ("pooled", 1))) in made
    assert Stretch(start=0, end=1, emits=(1,), looks=(("pooled", 1),)) in made
    assert {s for s in made if s.end == A} == {Stretch(start=start, end=A) for start in (None, 0, 1)}
    assert {s for s in made if s.end == C} == {Stretch(start=start, end=C) for start in (None, 0)}


def test_where_the_images_are_all_there_is_nothing_is_emitted() -> None:
    made = plan(TREE, ladders=[(C, A)], looks=[("pooled", 0), ("pooled", 1)], bare=[0])
    assert all(0 not in stretch.emits and stretch.start != 0 for stretch in made)
    assert Stretch(start=None, end=0, looks=(("pooled", 0),)) in made
    assert Stretch(start=None, end=1, emits=(1,), looks=(("pooled", 0), ("pooled", 1))) in made
    assert {s for s in made if s.end == C} == {Stretch(start=None, end=C)}


def test_configurations_that_a_network_cannot_tell_apart_are_one() -> None:
    tree = Tree.of([("x", "l"), ("x", "l")])
    assert tree.leaves == (2,)
    assert plan(tree, ladders=[(2, 2)]) == (Stretch(start=None, end=2),)
