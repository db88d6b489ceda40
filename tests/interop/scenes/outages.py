"""Servers that are killed, or hang, while the other side goes on: in the end both have everything."""

import asyncio

from harness.wait import until_equal

from .border import border, shared_room


async def outages(stage):
    async with border(stage) as between:
        await restarts(between)
        await between.play(long_absence)
        await forks(between)


async def restarts(between):
    """200 messages both ways, while each server is killed and started again in turn."""
    ann, bob = between.ann, between.bob
    room = await shared_room(ann, bob)
    sent = {ann: [], bob: []}

    async def talk(person, count):
        for _ in range(count):
            text = f"{person.name} {len(sent[person]) + 1}"
            await person.post(room, text)
            sent[person].append(text)

    await asyncio.gather(talk(ann, 40), talk(bob, 40))
    between.home.kill()
    await talk(bob, 30)
    await between.home.start()
    await asyncio.gather(talk(ann, 10), talk(bob, 10))
    between.abroad.kill()
    await talk(ann, 30)
    await between.abroad.start()
    await asyncio.gather(talk(ann, 20), talk(bob, 20))

    for person in ann, bob:

        async def heard():
            texts = await person.read_all(room)
            assert len(texts) == len(set(texts)), f"{person!r} heard something twice"
            return {speaker.name: [text for text in texts if text in said] for speaker, said in sent.items()}

        expected = {speaker.name: said for speaker, said in sent.items()}
        await until_equal(f"{person!r} has heard everything", heard, expected, deadline=60)
    await ann.agrees_with(bob, room)


async def long_absence(host, guest):
    """More is said while a server is away than is sent to it afterwards; it finds the rest when somebody reads."""
    room = await shared_room(host, guest)
    await host.post(room, "Good night")
    await guest.has_read(room, ["Good night"])
    guest.server.kill()
    dreams = [f"Dream {number}" for number in range(230)]
    for dream in dreams:
        await host.post(room, dream)
    await guest.server.start()
    await host.post(room, "Good morning")
    await guest.has_read(room, ["Good night", *dreams, "Good morning"])


async def forks(between):
    """Either server hangs while the other changes the room; what both have changed is resolved alike."""
    ann, bob = between.ann, between.bob
    room = await shared_room(ann, bob)
    levels = await ann.state(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), bob.user_id: 50}
    levels["events"] = {**levels.get("events", {}), "m.room.topic": 50, "m.room.name": 50}
    await ann.set(room, "m.room.power_levels", levels)
    await bob.sees_state(room, "m.room.power_levels", levels)
    for number, (sleeper, waker) in enumerate([(ann, bob), (bob, ann)] * 2):
        sleeper.server.pause()
        for text in "one", "two", "three":
            await waker.post(room, f"{waker.name} {text} {number}")
            await waker.set(room, "m.room.topic", {"topic": f"{text} of {waker.name}, {number}"})
        waker.server.pause()
        sleeper.server.resume()
        await sleeper.post(room, f"{sleeper.name} {number}")
        await sleeper.set(room, "m.room.topic", {"topic": f"Of {sleeper.name}, {number}"})
        await sleeper.set(room, "m.room.name", {"name": f"Named by {sleeper.name}, {number}"})
        waker.server.resume()
        # Whatever is said next ties both ends together.
        await asyncio.gather(ann.post(room, f"ann again {number}"), bob.post(room, f"bob again {number}"))
        await ann.agrees_with(bob, room)

    async def missing():
        heard = [sorted(await person.read_all(room)) for person in (ann, bob)]
        return sorted(set(heard[0]) ^ set(heard[1]))

    await until_equal("both have heard the same", missing, [])
    assert len(await ann.read_all(room)) == 4 * (3 + 1 + 2)
