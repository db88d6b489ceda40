"""A room moves to a newer version: everybody finds the new one, with all that was on the walls."""

from harness.wait import until, until_equal


async def moving(stage):
    server = await stage.server()
    ann, bob = await stage.people(server, ann="js", bob="js")
    old = await ann.create_room(
        "The old house", [bob], room_version="9", topic="Two floors", preset="public_chat", room_alias_name="house"
    )
    await bob.sees_invite(old)
    await bob.join(old)
    await ann.sees_members(old, ann="ann", bob="bob")
    powers = {"users": {ann.user_id: 100, bob.user_id: 10}}
    await ann.set_state(old, "m.room.power_levels", "", powers)
    await bob.tag(old, "m.favourite")
    await until("Bob has tagged it", lambda: _has(bob, old, "tags", ["m.favourite"]))

    new = await ann.upgrade(old, "11")
    await until("Bob finds the sign on the door", lambda: _has(bob, old, "after", new))
    assert await bob.joins_by(f"#house:{server.name}") == new
    await bob.sees_room_name(new, "The old house")
    facts = {
        "version": "11",
        "before": old,
        "after": None,
        "tags": ["m.favourite"],
        "topic": "Two floors",
        "powers": powers["users"],
        "alias": f"#house:{server.name}",
    }
    await until_equal("all is there", lambda: bob.facts(new), facts)
    await bob.say(new, "It smells of paint")
    await ann.sees(new, "bob: It smells of paint")
    try:
        await bob.say(old, "Is anybody left?")
    except AssertionError as refusal:
        assert "403" in str(refusal) or "M_FORBIDDEN" in str(refusal), refusal
    else:
        raise AssertionError("somebody speaks in the old room")


async def _has(person, room, name, value):
    return (await person.facts(room))[name] == value
