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

from .wait import until, until_equal


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

    # --- what everybody can see

    async def transcript(self, room):
        return transcript(await self.view(room))

    async def sees(self, room, text):
        """The room's messages become exactly these."""
        await until_equal(f"{self!r} sees", lambda: self.transcript(room), dedent(text))

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
