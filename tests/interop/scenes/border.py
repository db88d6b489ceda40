"""The border: an Ingle and a Synapse over real TLS, and people on both sides of it.

Every act is played twice, with the host of the room on either side: `await between.play(act, act)`.
"""

import contextlib

from harness.synapse import Synapse


class Border:
    def __init__(self, home, abroad, ann, bob):
        self.home, self.abroad = home, abroad
        self.ann, self.bob = ann, bob

    async def play(self, *acts):
        """Plays acts, each with the host on either side, and says of all that fail why."""
        failures = []
        for act in acts:
            for host, guest in (self.ann, self.bob), (self.bob, self.ann):
                try:
                    await act(host, guest)
                except Exception as failure:
                    failure.add_note(f"in the act {act.__name__!r} with {host!r} as the host")
                    failures.append(failure)
        if failures:
            raise ExceptionGroup("acts have failed", failures)


@contextlib.asynccontextmanager
async def border(stage, ann="nio", bob="nio", crypto=False):
    """Ann at an Ingle, Bob at a Synapse. In the end neither server has complained of the other."""
    home = await stage.server("home", federated=True)
    abroad = await stage.server("abroad", Synapse, federated=True)
    [ann] = await stage.people(home, crypto=crypto, ann=ann)
    [bob] = await stage.people(abroad, crypto=crypto, bob=bob)
    yield Border(home, abroad, ann, bob)
    complaints = home.complaints() + abroad.complaints()
    assert not complaints, "the servers complain:\n" + "\n".join(complaints)


async def shared_room(host, guest, name="The bridge", **more):
    """A room of the host's that the guest has joined by invite."""
    room = await host.create_room(name, invite=[guest], **more)
    await guest.sees_invite(room)
    await guest.join(room)
    await host.sees_membership(room, guest, "join")
    return room


async def public_room(host, **more):
    options = {"preset": "public_chat", **more}
    return (await host.ask("POST", "/v3/createRoom", options))["room_id"]
