"""Two people talk, and the server is killed while they do."""


async def conversation(stage, ann, bob, encrypted=False):
    server = await stage.server()
    ann, bob = await stage.people(server, crypto=encrypted, ann=ann, bob=bob)

    room = await ann.create_room("The hearth", encrypted=encrypted)
    await ann.invite(room, bob)
    await bob.sees_invite(room)
    await bob.join(room)
    await bob.sees_room_name(room, "The hearth")
    await ann.sees_members(room, ann="ann", bob="bob")
    await bob.sees_members(room, ann="ann", bob="bob")

    hello = await ann.say(room, "Hello Bob")
    await bob.sees(room, "ann: Hello Bob")
    await bob.typing(room)
    await ann.sees_typing(room, bob)
    evening = await bob.say(room, "Good morning")
    await bob.typing(room, False)
    await ann.sees_typing(room)
    await bob.edit(room, evening, "Good evening")
    await bob.react(room, hello, "👋")
    slip = await ann.say(room, "Is the stove on?")
    await ann.remove(room, slip)
    for person in ann, bob:
        await person.sees(room, """
            ann: Hello Bob
              bob 👋
            bob: Good evening (edited)
            ann: (removed)
        """)

    await ann.read(room, evening)
    await bob.sees_read(room, ann, evening)
    await bob.rename("Robert")
    await ann.sees_members(room, ann="ann", bob="Robert")
    assert await ann.profile_name(bob) == "Robert"

    # Bob closes his client; the power fails; he comes back with the token he had.
    await bob.pause()
    missed = await ann.say(room, "Have you gone?")
    server.kill()
    await ann.notices()
    await server.start()
    await ann.comes_back()
    again = await ann.say(room, "The light went out")
    await ann.react(room, missed, "💡")
    await bob.start()
    so_far = """
        ann: Hello Bob
          bob 👋
        bob: Good evening (edited)
        ann: (removed)
        ann: Have you gone?
          ann 💡
        ann: The light went out
    """
    await bob.sees(room, so_far)

    # Now both wait for news when it fails again; their clients find back by themselves.
    server.kill()
    for person in ann, bob:
        await person.notices()
    await server.start()
    for person in ann, bob:
        await person.comes_back()
    await bob.say(room, "I am back")
    await ann.sees(room, so_far + """
        bob: I am back
    """)
    await bob.react(room, again, "🔌")
    await ann.say(room, "We need a new fuse")
    for person in ann, bob:
        await person.sees(room, so_far + """
          bob 🔌
        bob: I am back
        ann: We need a new fuse
        """)
        await person.saw_nothing_twice()
    await bob.sees_members(room, ann="ann", bob="Robert")
