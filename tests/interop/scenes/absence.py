"""Somebody comes home to more messages than one sync holds, and reads up to where they left."""


async def absence(stage, ann, bob):
    server = await stage.server()
    ann, bob = await stage.people(server, ann=ann, bob=bob)
    room = await ann.create_room("The letter box", invite=[bob])
    await bob.sees_invite(room)
    await bob.join(room)
    await ann.sees_members(room, ann="ann", bob="bob")
    await ann.say(room, "Have a good journey")
    await bob.sees(room, "ann: Have a good journey")

    await bob.pause()
    letters = [f"Letter {number}" for number in range(1, 61)]
    for letter in letters:
        await ann.say(room, letter)
    await bob.start()
    assert len((await bob.view(room))["messages"]) < len(letters), "one sync brought everything: no gap to fill"
    while await bob.scroll_up(room):
        pass
    everything = "\n".join(["ann: Have a good journey", *(f"ann: {letter}" for letter in letters)])
    await bob.sees(room, everything)

    # A new login is a new device, which finds everything too.
    await bob.logout()
    phone = stage.person("bob", server, bob.kind, device="phone")
    await phone.login()
    assert phone.device_id != bob.device_id
    await phone.start()
    while await phone.scroll_up(room):
        pass
    await phone.sees(room, everything)

    await ann.leave(room)
    await phone.sees_members(room, bob="bob")
