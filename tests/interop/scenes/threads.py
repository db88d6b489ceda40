"""Two conversations in one room: what is said in a thread stays there, is counted there and read there."""

from harness.wait import until_equal


async def threads(stage):
    server = await stage.server()
    ann, bob = await stage.people(server, ann="js", bob="js")
    room = await ann.create_room("The workshop", invite=[bob])
    await bob.sees_invite(room)
    await bob.join(room)
    await ann.sees_members(room, ann="ann", bob="bob")

    root = await ann.say(room, "What shall we build?")
    await bob.sees(room, "ann: What shall we build?")
    await bob.reply_in_thread(room, root, "A boat")
    await bob.reply_in_thread(room, root, "A big one")
    await bob.say(room, "By the way, lunch is ready")
    await ann.sees(room, """
        ann: What shall we build?
        bob: By the way, lunch is ready
    """)
    await until_equal("Ann has one unread message, and two in the thread", lambda: ann.unread(room, root), [1, 2])
    # Whose message it answers takes part in a thread.
    seen = {"root": "What shall we build?", "answers": 2, "newest": "A big one", "mine": True}
    await until_equal("Ann sees the thread", lambda: ann.threads(room), [seen])
    # The library counts an answer twice that comes while it still asks for those before.
    await until_equal("Bob sees the thread", lambda: bob.threads(room), [seen])

    # What she reads in the thread is read there alone.
    await ann.read_thread(room, root)
    await until_equal("the thread is read", lambda: ann.unread(room, root), [1, 0])
    await ann.reply_in_thread(room, root, "With sails")
    seen = {**seen, "answers": 3, "newest": "With sails"}
    await until_equal("Bob sees the answer", lambda: bob.threads(room), [seen])
    await until_equal("Bob has it unread", lambda: bob.unread(room, root), [0, 1])

    # Who comes with a new device finds the thread in the list, after a restart as well.
    server.kill()
    await server.start()
    tablet = stage.person("ann", server, "js", device="tablet")
    await tablet.login()
    await tablet.start()
    await tablet.open_threads(room)
    await until_equal("the tablet lists the thread", lambda: tablet.threads(room), [seen])
    await until_equal("the tablet has the message unread", lambda: tablet.unread(room, root), [1, 0])
