"""People with verbs. Whichever client they hold, a scene reads the same.

A person acts (`say`, `edit`, `react`, …) and sees (`sees`, `sees_typing`, …). What they see of a room
is compared as a small text, one message a line:

    ann: hello
    bob: good evening (edited)
      ann 👍
    ann: (removed)

The kinds, in `nio_person.py` and `js_person.py`, do the verbs with their client and give a `view`.
"""

from collections import Counter

from urllib.parse import quote

from .wait import until, until_equal


class Refused(AssertionError):
    """The server answered a verb with an error: `errcode` says which."""

    def __init__(self, errcode, message):
        super().__init__(f"{errcode}: {message}")
        self.errcode = errcode


def localpart(user_id):
    return user_id[1:].split(":")[0]


def transcript(view):
    """The text of a room's view: its messages in order, each with the reactions to it."""
    lines = []
    for message in view["messages"]:
        text = message["text"]
        if message["removed"]:
            text = "(removed)"
        elif message["unreadable"]:
            text = "(unreadable)"
        elif message["edited"]:
            text += " (edited)"
        lines.append(f"{localpart(message['sender'])}: {text}")
        lines += sorted(f"  {localpart(sender)} {key}" for sender, key in message["reactions"])
    return "\n".join(lines)


def dedent(text):
    """A text that a scene wrote indented; the first line says how deep."""
    lines = [line for line in text.splitlines() if line.strip()]
    depth = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    return "\n".join(line[depth:].rstrip() for line in lines)


class Person:
    """A user at a client of some kind. The kinds override what raises here."""

    kind = "person"

    def __init__(self, name, server, tls=False, crypto=False, folder=None, device="1"):
        self.name = name
        self.server = server
        self.tls = tls
        self.crypto = crypto
        self.folder = folder or server.folder
        self.label = f"{name}-{device}"
        self.password = f"the secret of {name}"
        self.user_id = f"@{name}:{server.name}"
        self.device_id = None
        self.access_token = None
        self.asked = 0
        self.synced, self.places = None, {}

    def __repr__(self):
        return f"{self.name} ({self.kind})"

    @property
    def url(self):
        return self.server.tls_url if self.tls else self.server.url

    # --- what a kind has to do with its client

    async def register(self):
        """Makes the account and is logged in afterwards."""
        raise NotImplementedError

    async def login(self):
        """Logs in with the password, which makes a new device."""
        raise NotImplementedError

    async def logout(self):
        raise NotImplementedError

    async def start(self):
        """Begins to sync, from where `pause` stopped if it did, and returns after the first answer."""
        raise NotImplementedError

    async def pause(self):
        """Closes the client as an app is closed, keeping its sync token."""
        raise NotImplementedError

    async def notices(self):
        """Waits until the client knows that the server is away, if it does anything about that."""

    async def comes_back(self):
        """Waits until the client has caught up with the server that is there again, likewise."""

    async def close(self):
        raise NotImplementedError

    async def create_room(self, name=None, invite=(), encrypted=False, **more):
        """`more` goes into the request as it is."""
        raise NotImplementedError

    async def invite(self, room, person):
        raise NotImplementedError

    async def join(self, room):
        raise NotImplementedError

    async def leave(self, room):
        raise NotImplementedError

    async def say(self, room, text):
        """Sends a message and gives its event ID."""
        raise NotImplementedError

    async def edit(self, room, event, text):
        raise NotImplementedError

    async def react(self, room, event, key):
        raise NotImplementedError

    async def remove(self, room, event):
        raise NotImplementedError

    async def typing(self, room, on=True):
        raise NotImplementedError

    async def read(self, room, event):
        raise NotImplementedError

    async def rename(self, name):
        raise NotImplementedError

    async def profile_name(self, person):
        raise NotImplementedError

    async def scroll_up(self, room, limit=20):
        """Fetches an older page; false when there is none."""
        raise NotImplementedError

    async def view(self, room):
        """What the client shows of the room now: messages, typing, read, members, membership, name."""
        raise NotImplementedError

    async def deliveries(self):
        """The IDs of all timeline events that `/sync` has brought, in order, repetitions included."""
        raise NotImplementedError

    # --- what everybody can do, whatever client they hold

    async def ask(self, method, path, body=None):
        """Asks the server as this person's client would, and gives the answer; `Refused` when it is an error."""
        status, answer = await self.server.request(method, f"/_matrix/client{path}", body, self.access_token)
        if status != 200:
            raise Refused(answer.get("errcode"), answer.get("error"))
        return answer

    async def is_refused(self, errcode, doing):
        """Expects that the server refuses what is being done."""
        try:
            done = await doing
        except Refused as refusal:
            assert refusal.errcode == errcode, f"{self!r} is refused with {refusal}, and not with {errcode}"
        else:
            raise AssertionError(f"{self!r} is not refused: {done}")

    async def in_room(self, method, room, path, body=None):
        return await self.ask(method, f"/v3/rooms/{quote(room)}/{path}", body)

    async def post(self, room, text, **more):
        """Says something without a client's detours: never encrypted, and fast. Gives the event ID."""
        self.asked += 1
        content = {"msgtype": "m.text", "body": text, **more}
        return (await self.in_room("PUT", room, f"send/m.room.message/{self.label}.{self.asked}", content))["event_id"]

    async def set(self, room, type, content, key=""):
        """Changes the room's state, and gives the event ID."""
        return (await self.in_room("PUT", room, f"state/{type}/{quote(key)}", content))["event_id"]

    async def state(self, room, type, key=""):
        """The content of a state event; none when there is none, or when it is none of this person's business."""
        try:
            return await self.in_room("GET", room, f"state/{type}/{quote(key)}")
        except Refused:
            return None

    async def whole_state(self, room):
        """The room's state as a sorted list of event IDs."""
        return sorted(event["event_id"] for event in await self.in_room("GET", room, "state"))

    async def enter(self, room_or_alias, via=None):
        """Joins with the help of another person's server; gives the room ID."""
        return await self._through("join", room_or_alias, via)

    async def knock_at(self, room_or_alias, via=None):
        return await self._through("knock", room_or_alias, via)

    async def _through(self, verb, room_or_alias, via):
        query = f"?via={via.server.name}&server_name={via.server.name}" if via else ""
        return (await self.ask("POST", f"/v3/{verb}/{quote(room_or_alias)}{query}", {}))["room_id"]

    async def kick(self, room, person):
        await self.in_room("POST", room, "kick", {"user_id": person.user_id})

    async def ban(self, room, person):
        await self.in_room("POST", room, "ban", {"user_id": person.user_id})

    async def unban(self, room, person):
        await self.in_room("POST", room, "unban", {"user_id": person.user_id})

    # --- what everybody can see

    async def sees_state(self, room, type, content, key=""):
        await until_equal(f"{self!r} sees {type}", lambda: self.state(room, type, key), content)

    async def sees_tombstone(self, room, replacement):
        async def look():
            return ((await self.state(room, "m.room.tombstone")) or {}).get("replacement_room")

        await until_equal(f"{self!r} sees where the room has gone", look, replacement)

    async def waits_for(self, what, look):
        await until(f"{self!r} sees {what}", look)

    async def sees_membership(self, room, person, membership):
        """What the room says of a person."""

        async def look():
            return ((await self.state(room, "m.room.member", person.user_id)) or {}).get("membership")

        await until_equal(f"{self!r} sees {person!r}", look, membership)

    async def place(self, room):
        """In which part of `/sync` the room is now: join, invite, knock, leave, or none."""
        since = f"&since={self.synced}" if self.synced else ""
        answer = await self.ask("GET", f"/v3/sync?timeout=0{since}")
        self.synced = answer["next_batch"]
        for kind, rooms in answer.get("rooms", {}).items():
            self.places.update(dict.fromkeys(rooms, kind))
        return self.places.get(room)

    async def is_out(self, room):
        """The room is no longer among this person's rooms, nor invites."""

        async def look():
            return await self.place(room) in (None, "leave")

        await until(f"{self!r} is out of the room", look)

    async def is_knocking(self, room):
        await until_equal(f"{self!r} is knocking", lambda: self.place(room), "knock")

    async def agrees_with(self, person, room):
        """Both servers come to the same state of the room."""

        async def states():
            return await self.whole_state(room), await person.whole_state(room)

        async def difference():
            mine, theirs = await states()
            return {"mine": sorted(set(mine) - set(theirs)), "theirs": sorted(set(theirs) - set(mine))}

        await until_equal(f"{self!r} and {person!r} agree", difference, {"mine": [], "theirs": []})

    async def read_all(self, room, limit=100):
        """Everything that was said in the room, oldest first, as far back as it can be read."""
        said, start = [], ""
        while True:
            page = await self.in_room("GET", room, f"messages?dir=b&limit={limit}{start}")
            said += [event for event in page["chunk"] if event["type"] == "m.room.message"]
            if not page.get("end"):
                return [event["content"].get("body", "(removed)") for event in reversed(said)]
            start = f"&from={quote(page['end'])}"

    async def has_read(self, room, texts):
        await until_equal(f"{self!r} reads everything", lambda: self.read_all(room), texts)

    async def transcript(self, room):
        return transcript(await self.view(room))

    async def sees(self, room, text):
        """The room's messages become exactly these."""
        await until_equal(f"{self!r} sees", lambda: self.transcript(room), dedent(text))

    async def sees_last(self, room, line):
        """The newest message of the room becomes this."""

        async def last():
            return (await self.transcript(room)).splitlines()[-1:]

        await until_equal(f"{self!r} sees last", last, [line])

    async def sees_invite(self, room):
        await until(f"{self!r} is invited", lambda: self._looks(room, "membership", "invite"))

    async def sees_room_name(self, room, name):
        await until(f"{self!r} sees the room's name", lambda: self._looks(room, "name", name))

    async def sees_members(self, room, **names):
        """The room's joined members and the names they show, by localpart; who has none shows that."""

        async def members():
            shown = (await self.view(room))["members"].items()
            return {localpart(user): localpart(user) if name == user else name for user, name in shown}

        await until_equal(f"{self!r} sees the members", members, names)

    async def sees_typing(self, room, *people):
        async def typing():
            return sorted(localpart(user) for user in (await self.view(room))["typing"])

        await until_equal(f"{self!r} sees who types", typing, sorted(person.name for person in people))

    async def sees_read(self, room, person, event):
        async def read_up_to():
            return (await self.view(room))["read"].get(person.user_id)

        await until_equal(f"{self!r} sees how far {person!r} has read", read_up_to, event)

    async def saw_nothing_twice(self):
        twice = [event for event, times in Counter(await self.deliveries()).items() if times > 1]
        assert not twice, f"{self!r} was sent again: {twice}"

    async def _looks(self, room, key, value):
        return (await self.view(room))[key] == value
