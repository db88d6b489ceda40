"""What one can see of another server: aliases, its public rooms, spaces, people, and what they do."""

from urllib.parse import quote

from harness.wait import until, until_equal

from .border import border, public_room, shared_room


async def sights(stage):
    async with border(stage) as between:
        await between.play(aliases, directory, profiles, spaces, signs_of_life, presence)


async def aliases(host, guest):
    room = await public_room(host, room_alias_name="bridge", topic="Over the water")
    alias = f"#bridge:{host.server.name}"
    found = await guest.ask("GET", f"/v3/directory/room/{quote(alias)}")
    assert found["room_id"] == room and host.server.name in found["servers"], found
    assert await guest.enter(alias) == room
    await host.sees_membership(room, guest, "join")
    await host.ask("DELETE", f"/v3/directory/room/{quote(alias)}")
    await guest.is_refused("M_NOT_FOUND", guest.ask("GET", f"/v3/directory/room/{quote('#nothing:' + host.server.name)}"))


async def directory(host, guest):
    for name in "Harbour", "Lighthouse":
        await public_room(host, name=f"{name} of {host.name}", visibility="public", topic="Over the water")
    where = f"/v3/publicRooms?server={host.server.name}"

    async def names(**search):
        return sorted(room["name"] for room in (await guest.ask("POST", where, search))["chunk"] if "name" in room)

    both = [f"Harbour of {host.name}", f"Lighthouse of {host.name}"]
    await until_equal(f"{guest!r} finds the rooms", names, both)
    assert await names(filter={"generic_search_term": "lightHOUSE"}) == both[1:]
    page = await guest.ask("GET", f"{where}&limit=1")
    rest = await guest.ask("GET", f"{where}&limit=1&since={quote(page['next_batch'])}")
    assert sorted(room["name"] for room in page["chunk"] + rest["chunk"]) == both, (page, rest)


async def profiles(host, guest):
    await host.rename(f"{host.name} the Great")
    picture = f"mxc://{host.server.name}/picture"
    await host.ask("PUT", f"/v3/profile/{quote(host.user_id)}/avatar_url", {"avatar_url": picture})
    profile = await guest.ask("GET", f"/v3/profile/{quote(host.user_id)}")
    assert profile == {"displayname": f"{host.name} the Great", "avatar_url": picture}, profile
    name = await guest.ask("GET", f"/v3/profile/{quote(host.user_id)}/displayname")
    assert name == {"displayname": f"{host.name} the Great"}, name
    await guest.is_refused("M_NOT_FOUND", guest.ask("GET", f"/v3/profile/{quote('@nobody:' + host.server.name)}"))

    # Whoever shares a room is found by name.
    await shared_room(host, guest)

    async def found():
        answer = await guest.ask("POST", "/v3/user_directory/search", {"search_term": "the great"})
        return host.user_id in [user["user_id"] for user in answer["results"]]

    await until(f"{guest!r} finds {host!r}", found)


async def spaces(host, guest):
    garden, shed = await public_room(host, name="Garden", topic="Green"), await public_room(host, name="Shed")
    space = await public_room(host, name="House", creation_content={"type": "m.space"})
    for room in garden, shed:
        await host.set(space, "m.space.child", {"via": [host.server.name]}, key=room)

    async def walk(room):
        answer = await guest.ask("GET", f"/v1/rooms/{quote(room)}/hierarchy")
        return [shown.get("name") for shown in answer["rooms"]]

    async def summary(room):
        return await guest.ask("GET", f"/v1/room_summary/{quote(room)}?via={host.server.name}")

    seen = await summary(garden)
    assert (seen["name"], seen["topic"], seen["num_joined_members"]) == ("Garden", "Green", 1), seen
    assert seen.get("membership") in (None, "leave"), seen
    await guest.enter(space, via=host)
    assert sorted(await walk(space)) == ["Garden", "House", "Shed"]
    assert (await summary(space))["membership"] == "join"


async def signs_of_life(host, guest):
    """Typing and receipts, also for threads."""
    room = await shared_room(host, guest)
    said = await host.say(room, "Anybody there?")
    await guest.sees(room, f"{host.name}: Anybody there?")
    await host.typing(room)
    await guest.sees_typing(room, host)
    await host.typing(room, False)
    await guest.sees_typing(room)
    await guest.read(room, said)
    await host.sees_read(room, guest, said)


async def presence(host, guest):
    await shared_room(host, guest)
    path = f"/v3/presence/{quote(host.user_id)}/status"
    await host.ask("PUT", path, {"presence": "online", "status_msg": f"Rowing, says {host.name}"})

    async def seen():
        return (await guest.ask("GET", path)).get("status_msg")

    await until_equal(f"{guest!r} sees what {host!r} does", seen, f"Rowing, says {host.name}")
