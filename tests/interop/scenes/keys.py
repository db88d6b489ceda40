"""Two people set up their keys, trust each other, lose a device and lose nothing else."""

from harness.wait import until


async def keys(stage):
    server = await stage.server()
    ann, bob = await stage.people(server, crypto=True, ann="js", bob="js")
    recovery_key = await ann.bootstrap()
    await bob.bootstrap()
    assert await ann.is_ready() and await bob.is_ready()

    room = await ann.create_room("The cellar", invite=[bob], encrypted=True)
    await bob.sees_invite(room)
    await bob.join(room)
    await ann.sees_members(room, ann="ann", bob="bob")
    await ann.say(room, "The wine is behind the coal")
    await bob.sees(room, "ann: The wine is behind the coal")

    await verify(ann, bob, room)
    await until("Ann trusts Bob", lambda: ann.trusts(bob))
    await until("Bob trusts Ann", lambda: bob.trusts(ann))
    await until("Bob trusts Ann's device", lambda: _trusted(bob, ann))

    server.kill()
    await server.start()
    await bob.say(room, "Nobody will look there")
    so_far = """
        ann: The wine is behind the coal
        bob: Nobody will look there
    """
    await ann.sees(room, so_far)
    await until("both sessions are in Ann's backup", lambda: _backed_up(ann, 2))

    # A second device, and nothing but the recovery key.
    tablet = stage.person("ann", server, "js", crypto=True, device="tablet")
    await tablet.login()
    await tablet.start()
    await until("Bob knows the new device", lambda: _knows(bob, tablet))
    assert await tablet.recover(recovery_key) == 2
    await tablet.scroll_up(room)
    await tablet.sees(room, so_far)
    assert await tablet.is_ready()
    await until("Bob trusts the new device", lambda: _trusted(bob, tablet))

    # The first device is lost; from now on it gets no keys, and is logged out.
    await tablet.remove_device(ann.device_id)
    await until("Bob knows that the device is gone", lambda: _devices(bob, ann, [tablet.device_id]))
    await bob.say(room, "Who drank it?")
    await tablet.sees(room, so_far + """
        bob: Who drank it?
    """)
    await ann.close()


async def verify(one, other, room):
    """Compares emoji, as two people with two telephones do."""
    await one.ask_verification(other, room)
    await until(f"{other!r} is asked", lambda: _phase(other, "Requested"))
    await other.accept_verification()
    await until(f"{one!r} may begin", lambda: _phase(one, "Ready"))
    await one.start_sas()
    emoji = await until(f"{one!r} sees emoji", lambda: _emoji(one))
    assert emoji == await until(f"{other!r} sees emoji", lambda: _emoji(other))
    await one.confirm_sas()
    # A client that has not heard this answers twice at once, and nobody knows what arrives first.
    await until(f"{other!r} hears", lambda: other.heard(room, "m.key.verification.mac", one.user_id))
    await other.confirm_sas()
    for person in one, other:
        await until(f"{person!r} is done", lambda: _phase(person, "Done"))


async def _phase(person, phase):
    return (await person.verification())["phase"] == phase


async def _emoji(person):
    return (await person.verification())["emoji"]


async def _backed_up(person, count):
    return await person.keys_in_backup() == count


async def _trusted(person, device):
    return (await person.devices_of(device)).get(device.device_id)


async def _knows(person, device):
    return device.device_id in await person.devices_of(device)


async def _devices(person, other, devices):
    return list(await person.devices_of(other)) == devices
