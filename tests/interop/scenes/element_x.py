"""What a day with Element X is: the room list over sliding sync, people who talk, a phone without a network."""

from harness.wait import until, until_equal


async def element_x(stage):
    server = await stage.server()
    ann, bob = await stage.people(server, ann="sdk", bob="sdk")

    # Ann's rooms, the newest first.
    hearth = await ann.create_room("The hearth", invite=[bob], encrypted=True)
    cellar = await ann.create_room("The cellar")
    attic = await ann.create_room("The attic")
    await ann.sees_list("The attic", "The cellar", "The hearth")
    await bob.sees_list("The hearth")
    await bob.filter_list("invites")
    await bob.sees_list("The hearth")
    await bob.join(hearth)
    await bob.sees_list()
    await bob.filter_list("all")
    await bob.sees_in_list(hearth, encrypted=True, members=[2, 0], direct=False)

    # A direct chat is named after the other.
    chat = await bob.create_room(invite=[ann], direct=True)
    await ann.sees_in_list(chat, name="bob")
    await ann.join(chat)
    await bob.sees_in_list(chat, name="ann", direct=True, members=[2, 0])
    await bob.filter_list("people")
    await bob.sees_list("ann")
    await bob.filter_list("search", "heart")
    await bob.sees_list("The hearth")
    await bob.filter_list("all")

    # A push tells two IDs; the client asks for the rest. Unread, until Bob looks.
    hello = await ann.say(hearth, "Hello Bob")
    shown = {"room": "The hearth", "sender": None, "direct": False, "encrypted": True, "noisy": True, "members": 2}
    await until_equal("Bob is notified", lambda: bob.notification(hearth, hello), shown)
    await bob.sees_in_list(hearth, messages=1)
    await bob.filter_list("unread")
    await bob.sees_list("The hearth")
    await bob.sees(hearth, "ann: Hello Bob")
    await bob.read(hearth, hello)
    await bob.sees_list()
    await bob.filter_list("all")
    await ann.sees_read(hearth, bob, hello)

    await bob.typing(hearth)
    await ann.sees_typing(hearth, bob)
    answer = await bob.say(hearth, "Good morning")
    await bob.typing(hearth, False)
    await ann.sees_typing(hearth)
    await bob.edit(hearth, answer, "Good evening")
    await ann.react(hearth, answer, "🌙")
    await ann.react(hearth, hello, "👋")
    await ann.react(hearth, hello, "👋")  # Taken back.
    so_far = """
        ann: Hello Bob
        bob: Good evening (edited)
          ann 🌙
    """
    for person in ann, bob:
        await person.sees(hearth, so_far)

    # What happens in a room moves it up, and a favourite is found again.
    await ann.say(cellar, "Is there any wine left?")
    await ann.sees_list("The cellar", "The hearth", "bob", "The attic")
    await ann.favour(attic)
    await ann.filter_list("favourites")
    await ann.sees_list("The attic")
    await ann.filter_list("all")
    await ann.leave(attic)
    await ann.sees_list("The cellar", "The hearth", "bob")

    # Bob's phone is off while Ann talks; he goes on where he was.
    await bob.pause()
    await ann.say(hearth, "Are you there?")
    await bob.start()
    so_far += """
        ann: Are you there?
    """
    await bob.sees(hearth, so_far)

    # The server goes away under both; their clients notice, and come back by themselves.
    server.kill()
    for person in ann, bob:
        await person.sees_sync("Offline")
    await server.start()
    for person in ann, bob:
        await person.sees_sync("Running")
        await person.comes_back()
    await bob.say(hearth, "The light went out")
    so_far += """
        bob: The light went out
    """
    for person in ann, bob:
        await person.sees(hearth, so_far)
        await person.saw_nothing_twice()

    # A second phone, and nothing but the recovery key.
    key = await bob.make_recovery_key()
    tablet = stage.person("bob", server, "sdk", device="tablet")
    await tablet.login()
    await tablet.start()
    await tablet.recover(key)
    await until("the tablet is verified", tablet.is_verified)
    while await tablet.scroll_up(hearth):
        pass
    await tablet.sees(hearth, so_far)
    await tablet.logout()
    await ann.say(hearth, "Good night")
    await bob.sees(hearth, so_far + """
        ann: Good night
    """)
