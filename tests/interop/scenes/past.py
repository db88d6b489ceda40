"""What was said before somebody from another server came: history, edits, threads, redactions, moments."""

import asyncio
import time
from urllib.parse import quote

from .border import border, public_room

VERSIONS = ["1", "6", "9", "10", "11", "12"]


async def past(stage):
    async with border(stage) as between:
        await between.play(long_history, what_became_of_it)


async def versions(stage):
    async with border(stage) as between:
        await between.play(every_version)


async def long_history(host, guest):
    """500 events from before the join, read to the very first one."""
    room = await public_room(host)
    for number in range(500):
        await host.post(room, f"Letter {number}")
        if number == 249:
            middle = int(time.time() * 1000)
    await guest.enter(room, via=host)
    await guest.has_read(room, [f"Letter {number}" for number in range(500)])

    # A moment in the middle, and what is around it.
    for direction, letter in ("b", "Letter 249"), ("f", "Letter 250"):
        found = await guest.ask("GET", f"/v1/rooms/{quote(room)}/timestamp_to_event?ts={middle}&dir={direction}")
        context = await guest.in_room("GET", room, f"context/{quote(found['event_id'])}?limit=4")
        assert context["event"]["content"]["body"] == letter, context["event"]
        assert len(context["events_before"]) == len(context["events_after"]) == 2, context


async def what_became_of_it(host, guest):
    """Moments, edits, threads, reactions and redactions from before the join are those of the other side."""
    room = await public_room(host)
    secret = await host.post(room, "The key is under the mat")
    draft = await host.post(room, "Diner at eight")
    new = {"msgtype": "m.text", "body": "Dinner at eight"}
    await host.post(room, "* Dinner at eight", **{"m.new_content": new, "m.relates_to": {"rel_type": "m.replace", "event_id": draft}})
    thread = {"rel_type": "m.thread", "event_id": draft}
    reply = await host.post(room, "And the wine?", **{"m.relates_to": thread})
    await host.in_room("PUT", room, f"redact/{quote(secret)}/1", {"reason": "burglars"})
    for number in range(30):
        await host.post(room, f"Filler {number}")
    moment = int(time.time() * 1000)

    await guest.enter(room, via=host)
    found = await guest.ask("GET", f"/v1/rooms/{quote(room)}/timestamp_to_event?ts={moment}&dir=b")
    event = await guest.in_room("GET", room, f"event/{quote(found['event_id'])}")
    assert event["content"]["body"] == "Filler 29", event

    await guest.read_all(room)
    gone = await guest.in_room("GET", room, f"event/{quote(secret)}")
    assert gone["content"] == {} and "redacted_because" in gone["unsigned"], gone
    edited = await guest.in_room("GET", room, f"event/{quote(draft)}")
    relations = edited["unsigned"]["m.relations"]
    assert relations["m.replace"]["content"]["m.new_content"] == new, edited
    assert relations["m.thread"]["latest_event"]["event_id"] == reply, edited
    assert relations["m.thread"]["count"] == 1, edited
    threads = await guest.ask("GET", f"/v1/rooms/{quote(room)}/threads")
    assert [root["event_id"] for root in threads["chunk"]] == [draft], threads
    answers = await guest.ask("GET", f"/v1/rooms/{quote(room)}/relations/{quote(draft)}/m.thread")
    assert [answer["event_id"] for answer in answers["chunk"]] == [reply], answers

    # And from now on in both directions.
    more = await guest.post(room, "Red", **{"m.relates_to": thread})
    regret = await guest.post(room, "I drank it")
    await guest.in_room("PUT", room, f"redact/{quote(regret)}/1", {})

    async def seen():
        root = await host.in_room("GET", room, f"event/{quote(draft)}")
        return root["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"] == more

    await host.waits_for("the answer in the thread", seen)

    async def redacted():
        seen = await host.in_room("GET", room, "messages?dir=b&limit=10")
        return [event["content"] for event in seen["chunk"] if event["event_id"] == regret] == [{}]

    await host.waits_for("the redaction", redacted)


async def every_version(host, guest):
    await asyncio.gather(*(room_of_version(host, guest, version) for version in VERSIONS))


async def room_of_version(host, guest, version):
    room = await public_room(host, room_version=version, name=f"Version {version}")
    await host.post(room, "Who comes?")
    await guest.enter(room, via=host)
    slip = await guest.post(room, "I come")
    await host.has_read(room, ["Who comes?", "I come"])
    await host.post(room, "Welcome")
    await host.in_room("PUT", room, f"redact/{quote(slip)}/{version}", {})
    levels = await host.state(room, "m.room.power_levels")
    levels["users"] = {**levels.get("users", {}), guest.user_id: 50}
    await host.set(room, "m.room.power_levels", levels)
    await guest.sees_state(room, "m.room.power_levels", levels)
    await guest.set(room, "m.room.topic", {"topic": f"Of {guest.name}"})
    await host.sees_state(room, "m.room.topic", {"topic": f"Of {guest.name}"})
    for person in host, guest:
        await person.has_read(room, ["Who comes?", "(removed)", "Welcome"])
    await guest.agrees_with(host, room)
    await guest.leave(room)
    await host.sees_membership(room, guest, "leave")
