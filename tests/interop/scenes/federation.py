"""Ann's server and a Synapse, over real TLS: they meet, and neither loses what the other missed."""

from harness.synapse import Synapse


async def federation(stage, ann, bob):
    home = await stage.server("home", federated=True)
    abroad = await stage.server("abroad", Synapse, federated=True)
    [ann] = await stage.people(home, ann=ann)
    [bob] = await stage.people(abroad, bob=bob)

    room = await ann.create_room("The bridge", invite=[bob])
    await bob.sees_invite(room)
    await bob.join(room)
    await ann.sees_members(room, ann="ann", bob="bob")
    await bob.sees_members(room, ann="ann", bob="bob")

    hello = await ann.say(room, "Hello over there")
    await bob.sees(room, "ann: Hello over there")
    await bob.typing(room)
    await ann.sees_typing(room, bob)
    answer = await bob.say(room, "Hello back there")
    await bob.edit(room, answer, "Hello over here")
    await bob.react(room, hello, "🌉")
    await ann.sees(room, """
        ann: Hello over there
          bob 🌉
        bob: Hello over here (edited)
    """)
    await ann.read(room, answer)
    await bob.sees_read(room, ann, answer)
    await bob.rename("Robert")
    await ann.sees_members(room, ann="ann", bob="Robert")

    # Each server is away once while the other talks.
    home.kill()
    lost = await bob.say(room, "Are you there?")
    await home.start()
    await ann.sees(room, """
        ann: Hello over there
          bob 🌉
        bob: Hello over here (edited)
        bob: Are you there?
    """)
    abroad.kill()
    await ann.remove(room, lost)
    await ann.say(room, "I am. Are you?")
    await abroad.start()
    so_far = """
        ann: Hello over there
          bob 🌉
        bob: Hello over here (edited)
        bob: (removed)
        ann: I am. Are you?
    """
    await bob.sees(room, so_far)
    await bob.say(room, "Always")
    for person in ann, bob:
        await person.sees(room, so_far + """
        bob: Always
        """)
        await person.saw_nothing_twice()
