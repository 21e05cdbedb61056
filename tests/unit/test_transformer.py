"""Transformers: what the decorator declares, and what a transformer may know."""

from __future__ import annotations

from bus.model.message import Opened, Outgoing, child_key
from bus.model.transformer import TransformContext, transformer
from bus.model.values import ValueMaps
from bus.testing import a_message


def _echo(opened: Opened, context: TransformContext) -> Outgoing:
    """Sends the key along with the body."""
    return Outgoing(type="target.step.v1", body=opened.message.body + context.key.encode())


def test_a_transformer_is_named_by_its_module_and_function() -> None:
    assert transformer(takes="a.b.v1", makes="c.d.v1")(_echo).name == f"{__name__}._echo"


def test_one_type_or_several_are_declared_alike() -> None:
    one = transformer(takes="a.b.v1", makes="c.d.v1")(_echo)
    several = transformer(takes=["a.b.v1", "a.b.v2"], makes=("c.d.v1",))(_echo)

    assert (one.takes, one.makes) == (("a.b.v1",), ("c.d.v1",))
    assert (several.takes, several.makes) == (("a.b.v1", "a.b.v2"), ("c.d.v1",))


def test_its_digest_follows_the_source_of_its_module() -> None:
    here = transformer(takes="a.b.v1", makes="c.d.v1")(_echo)
    same_module = transformer(takes="x.y.v1", makes="c.d.v1")(test_a_transformer_is_named_by_its_module_and_function)  # type: ignore[arg-type]  # only its source matters
    another = transformer(takes="a.b.v1", makes="c.d.v1")(child_key)  # type: ignore[arg-type]  # only its source matters

    assert here.digest == same_module.digest
    assert here.digest != another.digest
    assert len(here.digest) == 12


def test_it_is_called_with_the_opened_message_and_its_context() -> None:
    made = transformer(takes="a.b.v1", makes="c.d.v1")(_echo)

    output = made(Opened(a_message(body=b"body-"), {}), TransformContext(maps=ValueMaps(), key="key"))

    assert output == Outgoing(type="target.step.v1", body=b"body-key")


def test_the_keys_of_several_outputs_are_those_of_the_children() -> None:
    context = TransformContext(maps=ValueMaps(), key="key")

    keys = [context.key_of(index) for index in range(3)]

    assert keys == [child_key("key", index) for index in range(3)]
    assert len(set(keys)) == 3
