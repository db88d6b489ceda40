"""Where was that recipe? Words are found in every room that one is in, and in no other."""


async def search(stage):
    server = await stage.server()
    ann, bob = await stage.people(server, ann="js", bob="js")
    kitchen = await ann.create_room("The kitchen", invite=[bob])
    await bob.sees_invite(kitchen)
    await bob.join(kitchen)
    diary = await ann.create_room("The diary")
    for number in range(1, 26):
        await ann.say(kitchen, f"Recipe {number}: pancakes")
    wrong = await ann.say(kitchen, "Grandmother's pancakes have milk")
    await ann.edit(kitchen, wrong, "Grandmother's pancakes have buttermilk")
    secret = await ann.say(diary, "I burnt the pancakes")

    found = await bob.search("PANCAKES")
    assert found["count"] == 26 and len(found["texts"]) >= 26, found
    assert "I burnt the pancakes" not in found["texts"], "Bob reads Ann's diary"
    assert "pancakes" in [word.lower() for word in found["highlights"]], found["highlights"]
    assert (await bob.search("buttermilk"))["texts"], "what was edited is not found"
    assert "I burnt the pancakes" in (await ann.search("pancakes burnt"))["texts"]

    await ann.remove(diary, secret)
    server.kill()
    await server.start()
    assert (await ann.search("burnt"))["texts"] == []
    assert (await bob.search("pancakes"))["count"] == 26
    await bob.leave(kitchen)
    await ann.say(kitchen, "More pancakes for me")
    assert "More pancakes for me" not in (await bob.search("pancakes"))["texts"]
