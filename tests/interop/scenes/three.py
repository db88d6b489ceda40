"""Two Ingles and a Synapse in one room: whoever was away hears from the others what was said meanwhile."""

from harness.synapse import Synapse
from harness.wait import until, until_equal

from .border import public_room


async def three(stage):
    home = await stage.server("home", federated=True)
    hill = await stage.server("hill", federated=True)
    abroad = await stage.server("abroad", Synapse, federated=True)
    [ann] = await stage.people(home, ann="nio")
    [carol] = await stage.people(hill, carol="nio")
    [bob] = await stage.people(abroad, bob="nio")
    everybody = ann, bob, carol

    # The Synapse hears from Ann's server that Carol has come, and Carol's hears from it that Ann is there.
    room = await public_room(bob)
    await ann.enter(room, via=bob)
    await ann.agrees_with(bob, room)
    await carol.enter(room, via=ann)
    said = []

    async def say(person, text):
        await person.post(room, text)
        said.append(text)

    async def all_have_heard():
        for person in everybody:

            async def heard():
                return sorted(await person.read_all(room))

            await until_equal(f"{person!r} has heard everything", heard, sorted(said))

    # A Synapse sends what is said to the servers that it knew of before it was said.
    for witness in everybody:
        for person in everybody:
            await witness.sees_membership(room, person, "join")
    for person in everybody:
        await say(person, f"{person.name} is here")
    await all_have_heard()

    # Each server is away once.
    for absent in everybody:
        absent.server.kill()
        for number in range(3):
            for person in everybody:
                if person is not absent:
                    await say(person, f"{person.name} {number}, without {absent.name}")
        await absent.server.start()
        await say(absent, f"{absent.name} is back")
        await all_have_heard()

    await ann.agrees_with(bob, room)
    await carol.agrees_with(bob, room)
    await bob.kick(room, carol)
    await carol.is_out(room)
    await ann.sees_membership(room, carol, "leave")
    await say(bob, "So much for Carol")

    async def heard():
        return said[-1] in await ann.read_all(room)

    await until("Ann hears the last word", heard)
    assert "So much for Carol" not in await carol.read_all(room)
    complaints = [line for server in (home, hill, abroad) for line in server.complaints()]
    assert not complaints, "the servers complain:\n" + "\n".join(complaints)
