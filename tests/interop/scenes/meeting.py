"""Everybody at one encrypted table, each with another client: whoever speaks is understood by all."""

from harness.wait import until


async def meeting(stage):
    server = await stage.server()
    ann, bob, carol = await stage.people(server, crypto=True, ann="sdk", bob="js", carol="nio")
    room = await ann.create_room("The table", invite=[bob, carol], encrypted=True)
    for person in bob, carol:
        await person.sees_invite(room)
        await person.join(room)
    for person in ann, bob, carol:
        await person.sees_members(room, ann="ann", bob="bob", carol="carol")

    said = ""
    for person, text in (ann, "Is this seat taken?"), (bob, "It is not"), (carol, "Have some soup"):
        await person.say(room, text)
        said += f"""
            {person.name}: {text}
        """
        for listener in ann, bob, carol:
            await listener.sees(room, said)

    # The lights go out, and on again, while one of them is outside.
    await carol.pause()
    server.kill()
    await ann.notices()
    await server.start()
    await ann.comes_back()
    await bob.say(room, "Where is the candle?")
    await carol.start()
    said += """
            bob: Where is the candle?
    """
    for listener in ann, bob, carol:
        await listener.sees(room, said)
        await listener.saw_nothing_twice()

    # Who leaves the table does not hear what is said there; who has a new device does.
    await carol.leave(room)
    for person in ann, bob:
        await person.sees_members(room, ann="ann", bob="bob")
    tablet = stage.person("bob", server, "js", crypto=True, device="tablet")
    await tablet.login()
    await tablet.start()
    await until("Ann knows the new device", lambda: _knows(ann, tablet))
    await ann.say(room, "Now for dessert")
    await bob.sees(room, said + """
            ann: Now for dessert
    """)
    await tablet.sees_last(room, "ann: Now for dessert")
    assert "dessert" not in await carol.transcript(room)


async def _knows(person, device):
    return device.device_id in await person.devices_of(device)
