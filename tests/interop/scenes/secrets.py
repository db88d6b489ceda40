"""An encrypted room across the border: new devices, lost devices, outages, and trust."""

from harness.wait import until

from .border import border, shared_room
from .keys import verify


async def secrets(stage, ann, bob):
    async with border(stage, ann=ann, bob=bob, crypto=True) as between:

        async def devices(host, guest):
            await devices_that_come_and_go(stage, host, guest)

        await between.play(devices)


async def devices_that_come_and_go(stage, host, guest):
    room = await shared_room(host, guest, encrypted=True)
    await host.sees_members(room, ann="ann", bob="bob")
    await guest.sees_members(room, ann="ann", bob="bob")
    await host.say(room, "The first secret")
    await guest.sees(room, f"{host.name}: The first secret")
    await guest.say(room, "The second secret")
    so_far = f"""
        {host.name}: The first secret
        {guest.name}: The second secret
    """
    await host.sees(room, so_far)

    # While the guest's server is down, one device of the host's comes and goes, and another one comes and stays.
    guest.server.kill()
    lost = await new_device(stage, host, "lost")
    await lost.logout()
    await lost.close()
    tablet = await new_device(stage, host, "tablet")
    await host.say(room, "Nobody there?")
    await guest.server.start()
    so_far += f"""
        {host.name}: Nobody there?
    """
    await guest.sees(room, so_far)

    # Who is back finds out for whom to encrypt, and to whom to listen.
    await until(f"{guest!r} knows the new device", lambda: knows(guest, tablet, lost))
    await guest.say(room, "I was away")
    await until("the tablet reads it", lambda: reads(tablet, room, "I was away"))
    await tablet.say(room, "From the tablet")
    so_far += f"""
        {guest.name}: I was away
        {host.name}: From the tablet
    """
    for person in host, guest:
        await person.sees(room, so_far)


async def parted(stage, ann, bob):
    async with border(stage, ann=ann, bob=bob, crypto=True) as between:

        async def again(host, guest):
            await meet_again(stage, host, guest)

        await between.play(again)


async def meet_again(stage, host, guest):
    """Whoever meets somebody again knows the device that the other has got since they parted."""
    room = await shared_room(host, guest, encrypted=True)
    await guest.sees_members(room, ann="ann", bob="bob")
    await host.sees_members(room, ann="ann", bob="bob")
    await host.say(room, "Farewell")
    await guest.sees(room, f"{host.name}: Farewell")
    await guest.say(room, "Write to me")
    await host.sees(room, f"""
        {host.name}: Farewell
        {guest.name}: Write to me
    """)
    await host.leave(room)
    await guest.sees_membership(room, host, "leave")
    tablet = await new_device(stage, host, "later")

    room = await shared_room(guest, host, encrypted=True)
    await guest.sees_members(room, ann="ann", bob="bob")
    await until(f"{guest!r} knows the new device", lambda: knows(guest, tablet))
    await guest.say(room, "There you are")
    for device in host, tablet:
        await until(f"{device!r} reads it", lambda: reads(device, room, "There you are"))

    # Now it is the guest who leaves and comes back.
    await guest.leave(room)
    await host.sees_membership(room, guest, "leave")
    watch = await new_device(stage, host, "last")
    room = await shared_room(host, guest, encrypted=True)
    await guest.sees_members(room, ann="ann", bob="bob")
    await until(f"{guest!r} knows the newest device", lambda: knows(guest, watch), deadline=60)
    await guest.say(room, "Here I am")
    for device in host, tablet, watch:
        await until(f"{device!r} reads it", lambda: reads(device, room, "Here I am"))
    await host.leave(room)
    await guest.sees_membership(room, host, "leave")


async def new_device(stage, person, label):
    device = stage.person(person.name, person.server, person.kind, crypto=True, device=f"{label}-{person.server.kind}")
    await device.login()
    await device.start()
    return device


async def knows(person, device, lost=None):
    """Whether somebody's client would encrypt for a device, and not for a lost one."""
    devices = await person.devices_of(device)
    return device.device_id in devices and not (lost and lost.device_id in devices)


async def reads(person, room, text):
    return text in [message["text"] for message in (await person.view(room))["messages"]]


async def trust(stage):
    """Two people on different servers verify each other with emoji, and a new device of one of them is trusted too."""
    async with border(stage, ann="js", bob="js", crypto=True) as between:
        ann, bob = between.ann, between.bob
        recovery_key = await ann.bootstrap()
        await bob.bootstrap()
        room = await shared_room(ann, bob, encrypted=True)
        await ann.sees_members(room, ann="ann", bob="bob")
        await bob.sees_members(room, ann="ann", bob="bob")
        await ann.say(room, "Is that you?")
        await bob.sees(room, "ann: Is that you?")
        await verify(ann, bob, room)
        for one, other in (ann, bob), (bob, ann):
            await until(f"{one!r} trusts {other!r}", lambda: one.trusts(other))
            await until(f"{one!r} trusts the device", lambda: trusted(one, other))
        tablet = stage.person("ann", ann.server, "js", crypto=True, device="tablet")
        await tablet.login()
        await tablet.start()
        await tablet.recover(recovery_key)
        await until("Bob trusts Ann's new device", lambda: trusted(bob, tablet))


async def trusted(person, device):
    return (await person.devices_of(device)).get(device.device_id)
