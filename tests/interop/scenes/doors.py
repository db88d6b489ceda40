"""Every way into a room on another server, and out of it again."""

from .border import border, public_room, shared_room

KNOCK = "m.room.join_rules", {"join_rule": "knock"}


async def doors(stage):
    async with border(stage) as between:
        await between.play(invites, knocks, restricted, kicked_and_banned, kept_out, gone_and_back, moved)


async def invites(host, guest):
    room = await shared_room(host, guest)
    await host.post(room, "Come in")
    await guest.sees(room, f"{host.name}: Come in")

    # Declined, withdrawn, and a second invite after both.
    room = await host.create_room("The cellar", invite=[guest])
    await guest.sees_invite(room)
    await guest.leave(room)
    await host.sees_membership(room, guest, "leave")
    await guest.is_out(room)
    await host.invite(room, guest)
    await guest.sees_invite(room)
    await host.kick(room, guest)
    await guest.is_out(room)
    await guest.is_refused("M_FORBIDDEN", guest.enter(room, via=host))
    await host.invite(room, guest)
    await guest.sees_invite(room)
    await guest.join(room)
    await guest.sees_membership(room, host, "join")
    await guest.agrees_with(host, room)


async def knocks(host, guest):
    room = await host.create_room("The study")
    await guest.is_refused("M_FORBIDDEN", guest.knock_at(room, via=host))
    await host.set(room, *KNOCK)

    # Taken back, turned away, let in. A Synapse tells nobody that a knock is taken back, nor the other server that it
    # is turned away.
    await guest.knock_at(room, via=host)
    await host.sees_membership(room, guest, "knock")
    await guest.is_knocking(room)
    await guest.leave(room)
    if guest.server.kind != "synapse":
        await host.sees_membership(room, guest, "leave")
    await guest.knock_at(room, via=host)
    await host.sees_membership(room, guest, "knock")
    await host.kick(room, guest)
    if host.server.kind != "synapse":
        await guest.is_out(room)
    await guest.knock_at(room, via=host)
    await host.sees_membership(room, guest, "knock")
    await host.invite(room, guest)
    await guest.sees_invite(room)
    await guest.join(room)
    await host.post(room, "Sit down")
    await guest.sees(room, f"{host.name}: Sit down")


async def restricted(host, guest):
    club = await public_room(host)
    allow = [{"type": "m.room_membership", "room_id": club}]
    for rule, version in ("restricted", "9"), ("knock_restricted", "10"), ("restricted", "12"):
        bar = await host.create_room("The bar", room_version=version)
        await host.set(bar, "m.room.join_rules", {"join_rule": rule, "allow": allow})
        await guest.is_refused("M_FORBIDDEN", guest.enter(bar, via=host))
        await guest.enter(club, via=host)
        await guest.enter(bar, via=host)
        await host.sees_membership(bar, guest, "join")
        await guest.post(bar, "Cheers")
        await host.sees(bar, f"{guest.name}: Cheers")
        await guest.agrees_with(host, bar)
        await guest.leave(club)
        await host.sees_membership(club, guest, "leave")


async def kicked_and_banned(host, guest):
    room = await public_room(host)
    # Whoever is removed before their server knows who else is there never learns it.
    await guest.enter(room, via=host)
    await host.sees_membership(room, guest, "join")
    await guest.agrees_with(host, room)
    await host.kick(room, guest)
    await guest.is_out(room)
    await guest.enter(room, via=host)
    await guest.agrees_with(host, room)
    await guest.post(room, "Sorry")
    await host.sees(room, f"{guest.name}: Sorry")
    await host.ban(room, guest)
    await guest.is_out(room)
    await guest.is_refused("M_FORBIDDEN", guest.enter(room, via=host))
    await host.unban(room, guest)
    await guest.enter(room, via=host)
    await guest.post(room, "Never again")
    await host.sees(room, f"""
        {guest.name}: Sorry
        {guest.name}: Never again
    """)


async def kept_out(host, guest):
    """A server ACL: what the server says in the room is not heard, what it says elsewhere is."""
    room, elsewhere = await shared_room(host, guest), await shared_room(host, guest)
    # A name in an ACL has no port.
    nobody = {"allow": ["*"], "deny": [guest.server.host], "allow_ip_literals": True}
    await host.set(room, "m.room.server_acl", nobody)
    await guest.sees_state(room, "m.room.server_acl", nobody)
    await guest.post(room, "Can you hear me?")
    await guest.post(elsewhere, "Can you hear me here?")
    await host.sees(elsewhere, f"{guest.name}: Can you hear me here?")
    await host.sees(room, "")


async def gone_and_back(host, guest):
    room = await shared_room(host, guest)
    await host.post(room, "Before")
    await guest.sees(room, f"{host.name}: Before")
    await guest.leave(room)
    await host.sees_membership(room, guest, "leave")
    await host.post(room, "In between")
    await host.set(room, "m.room.topic", {"topic": "Absence"})
    await host.invite(room, guest)
    await guest.sees_invite(room)
    await guest.enter(room)
    await host.post(room, "After")
    await guest.has_read(room, ["Before", "In between", "After"])
    await guest.sees_state(room, "m.room.topic", {"topic": "Absence"})
    await guest.agrees_with(host, room)


async def moved(host, guest):
    """The room is upgraded; the guest finds the way from the old one to the new one."""
    room = await public_room(host, room_version="10", name="The old flat")
    await guest.enter(room, via=host)
    upgrade = await host.in_room("POST", room, "upgrade", {"new_version": "12"})
    new = upgrade["replacement_room"]

    await guest.sees_tombstone(room, new)
    await guest.enter(new, via=host)
    created = await guest.state(new, "m.room.create")
    assert created["predecessor"]["room_id"] == room, created
    await guest.post(new, "Nice place")
    await host.sees(new, f"{guest.name}: Nice place")
    await guest.agrees_with(host, new)
