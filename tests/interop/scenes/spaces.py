"""A village: a space with rooms for everybody, for its members, and for those who knock."""

from harness.wait import until_equal

SPACE = {"creation_content": {"type": "m.space"}}


async def spaces(stage):
    server = await stage.server()
    ann, bob, eve = await stage.people(server, ann="js", bob="js", eve="js")

    village = await ann.create_room("The village", [bob], **SPACE)
    farm = await ann.create_room("The farm", preset="public_chat", **SPACE)
    square = await ann.create_room("The square", preset="public_chat", topic="Where all meet")
    members = [{"type": "m.room_membership", "room_id": village}]
    hall = await _closed(ann, "The town hall", {"join_rule": "restricted", "allow": members})
    barn = await _closed(ann, "The barn", {"join_rule": "knock"})
    vault = await ann.create_room("The vault")
    for parent, child, suggested in [
        (village, square, True),
        (village, hall, False),
        (village, farm, False),
        (village, vault, False),
        (farm, barn, False),
    ]:
        await ann.set_state(parent, "m.space.child", child, {"via": [server.name], "suggested": suggested})

    # Bob sees what he may enter, not what he may not even know; the pages are small.
    await bob.sees_invite(village)
    await bob.join(village)
    await bob.sees_room_name(village, "The village")
    seen = await bob.hierarchy(village, page=2)
    assert sorted(map(tuple, seen["rooms"])) == [
        ("The barn", "knock"),
        ("The farm", "public"),
        ("The square", "public"),
        ("The town hall", "restricted"),
        ("The village", "invite"),
    ], seen
    assert seen["pages"] > 1, seen
    assert [name for name, _ in (await bob.hierarchy(village, suggested=True))["rooms"]] == ["The village", "The square"]

    # A member of the village comes into the hall, a stranger does not.
    await bob.join(hall)
    await ann.sees_members(hall, ann="ann", bob="bob")
    await _refused(eve.join(hall))
    await _refused(eve.join(barn))

    # Eve knocks and is let in; she knocks elsewhere and thinks better of it.
    await eve.knock(barn, "It rains")
    await until_equal("Ann hears Eve", lambda: ann.knocking(barn), {eve.user_id: "It rains"})
    await until_equal("Eve knocks", lambda: _membership(eve, barn), "knock")
    await ann.invite(barn, eve)
    await eve.sees_invite(barn)
    await eve.join(barn)
    await ann.sees_members(barn, ann="ann", eve="eve")
    await ann.say(barn, "Come in")
    await eve.sees(barn, "ann: Come in")
    await bob.knock(barn, "It is cold")
    await until_equal("Ann hears Bob", lambda: ann.knocking(barn), {bob.user_id: "It is cold"})
    server.kill()
    await server.start()
    await bob.leave(barn)
    await until_equal("Ann hears nobody", lambda: ann.knocking(barn), {})


async def _closed(person, name, rule):
    rules = {"type": "m.room.join_rules", "content": rule}
    return await person.create_room(name, initial_state=[rules])


async def _membership(person, room):
    return (await person.view(room))["membership"]


async def _refused(doing):
    try:
        await doing
    except AssertionError as refusal:
        assert "403" in str(refusal) or "M_FORBIDDEN" in str(refusal), refusal
    else:
        raise AssertionError("somebody came in who may not")
