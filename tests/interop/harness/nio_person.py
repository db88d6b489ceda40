"""A person who uses matrix-nio.

nio hands over events as they come and keeps no timeline; the fold that a bot would write (edits,
reactions, redactions) is `Folded`, over the same events.
"""

import asyncio

import nio

from .people import Person, Refused


def good(answer):
    """The answer, unless the server refused."""
    if isinstance(answer, nio.ErrorResponse):
        raise Refused(answer.status_code, answer.message)
    return answer


class Folded:
    """The messages of a room as its timeline events make them."""

    def __init__(self):
        self.known = set()
        self.messages = []
        self.later = []  # Edits, reactions and redactions, with what they are about.

    def add(self, event, at_start=False):
        if event["event_id"] in self.known:
            return
        self.known.add(event["event_id"])
        content = event.get("content", {})
        relation = content.get("m.relates_to", {})
        if event["type"] == "m.room.redaction":
            self.later.append(("remove", content.get("redacts") or event.get("redacts"), event))
        elif event["type"] == "m.reaction" and relation:
            self.later.append(("react", relation["event_id"], event))
        elif relation.get("rel_type") == "m.replace":
            self.later.append(("edit", relation["event_id"], event))
        elif event["type"] in ("m.room.message", "m.room.encrypted"):
            self.messages.insert(0 if at_start else len(self.messages), event)

    def view(self):
        removed = {about for kind, about, _ in self.later if kind == "remove"}
        return [self._message(event, removed) for event in self.messages]

    def _message(self, event, removed):
        id = event["event_id"]
        about = [(kind, later) for kind, target, later in self.later if target == id and later["event_id"] not in removed]
        edits = [later for kind, later in about if kind == "edit" and later["sender"] == event["sender"]]
        content = edits[-1]["content"].get("m.new_content", {}) if edits else event["content"]
        return {
            "id": id,
            "sender": event["sender"],
            "text": content.get("body", ""),
            "edited": bool(edits),
            "removed": id in removed or "redacted_because" in event.get("unsigned", {}),
            "unreadable": event["type"] == "m.room.encrypted",
            "reactions": [(later["sender"], later["content"]["m.relates_to"]["key"]) for kind, later in about if kind == "react"],
        }


class OldClient(nio.AsyncClient):
    """Speaks as clients did before version 1.1 of the specification."""

    async def send(self, method, path, *args, **named):
        return await super().send(method, path.replace("/_matrix/client/v3/", "/_matrix/client/r0/"), *args, **named)


class NioPerson(Person):
    kind = "nio"
    client_kind = nio.AsyncClient

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.client = None
        self.token = None
        self.loop = None
        self.rooms = {}
        self.memberships = {}
        self.reads = {}
        self.prev_batch = {}
        self.delivered = []

    def _make_client(self):
        store = self.folder / f"nio-{self.label}"
        store.mkdir(exist_ok=True)
        config = nio.AsyncClientConfig(
            encryption_enabled=self.crypto, max_timeout_retry_wait_time=0.5, max_limit_exceeded=0, request_timeout=30
        )
        client = self.client_kind(
            self.url, self.user_id, store_path=str(store), config=config, ssl=self.server.trust() if self.tls else None
        )
        client.add_response_callback(self._synced, nio.SyncResponse)
        return client

    async def register(self):
        self.client = self._make_client()
        answer = good(await self.client.register(self.name, self.password, device_name="nio"))
        assert answer.user_id == self.user_id, answer
        self.device_id, self.access_token = answer.device_id, answer.access_token

    async def login(self):
        self.client = self._make_client()
        answer = good(await self.client.login(self.password, device_name="nio"))
        self.device_id, self.access_token = answer.device_id, answer.access_token

    async def logout(self):
        good(await self.client.logout())

    async def start(self):
        if self.client is None:
            self.client = self._make_client()
            self.client.restore_login(self.user_id, self.device_id, self.access_token)
        # The full state, as bots do: nio forgets rooms and members when it is closed.
        sync = self.client.sync_forever(timeout=10_000, since=self.token, full_state=True)
        synced = asyncio.ensure_future(self.client.synced.wait())
        self.loop = asyncio.ensure_future(sync)
        await asyncio.wait([synced, self.loop], return_when=asyncio.FIRST_COMPLETED)
        if self.loop.done():
            await self.loop
        assert self.token, f"{self!r}: the first sync was refused"

    async def pause(self):
        await self.close()

    async def close(self):
        if self.loop:
            self.loop.cancel()
            await asyncio.gather(self.loop, return_exceptions=True)
            self.loop = None
        if self.client:
            await self.client.close()
            self.client = None

    async def _synced(self, answer):
        self.token = answer.next_batch
        for kind in "join", "invite", "leave":
            self.memberships.update(dict.fromkeys(getattr(answer.rooms, kind), kind))
        for room, joined in answer.rooms.join.items():
            if joined.timeline.limited or room not in self.rooms:
                # What lies above a gap is asked for again by `scroll_up`.
                self.rooms[room] = Folded()
                self.prev_batch[room] = joined.timeline.prev_batch
            for event in joined.timeline.events:
                self.delivered.append(event.event_id)
                self.rooms[room].add(event.source)
            for event in joined.ephemeral:
                if isinstance(event, nio.ReceiptEvent):
                    for receipt in event.receipts:
                        self.reads.setdefault(room, {})[receipt.user_id] = receipt.event_id

    async def create_room(self, name=None, invite=(), encrypted=False, **more):
        initial = [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        answer = await self.client.room_create(
            name=name,
            invite=[person.user_id for person in invite],
            initial_state=initial if encrypted else (),
            **more,
        )
        return good(answer).room_id

    async def invite(self, room, person):
        good(await self.client.room_invite(room, person.user_id))

    async def join(self, room):
        good(await self.client.join(room))

    async def leave(self, room):
        good(await self.client.room_leave(room))

    async def _send(self, room, type, content):
        answer = await self.client.room_send(room, type, content, ignore_unverified_devices=True)
        return good(answer).event_id

    async def say(self, room, text):
        return await self._send(room, "m.room.message", {"msgtype": "m.text", "body": text})

    async def edit(self, room, event, text):
        new = {"msgtype": "m.text", "body": text}
        relation = {"rel_type": "m.replace", "event_id": event}
        content = {"msgtype": "m.text", "body": f"* {text}", "m.new_content": new, "m.relates_to": relation}
        return await self._send(room, "m.room.message", content)

    async def react(self, room, event, key):
        relation = {"rel_type": "m.annotation", "event_id": event, "key": key}
        return await self._send(room, "m.reaction", {"m.relates_to": relation})

    async def remove(self, room, event):
        return good(await self.client.room_redact(room, event)).event_id

    async def typing(self, room, on=True):
        good(await self.client.room_typing(room, on, timeout=20_000))

    async def read(self, room, event):
        good(await self.client.update_receipt_marker(room, event))

    async def rename(self, name):
        good(await self.client.set_displayname(name))

    async def profile_name(self, person):
        return good(await self.client.get_displayname(person.user_id)).displayname

    async def devices_of(self, person):
        """The devices for which the client would encrypt, and whether they are trusted."""
        return {device.id: device.verified for device in self.client.device_store.active_user_devices(person.user_id)}

    async def scroll_up(self, room, limit=20):
        start = self.prev_batch.get(room)
        if not start:
            return False
        page = good(await self.client.room_messages(room, start, limit=limit))
        for event in page.chunk:
            self.rooms[room].add(event.source, at_start=True)
        self.prev_batch[room] = page.end
        return bool(page.chunk)

    async def view(self, room):
        joined = self.client.rooms.get(room)
        users = joined.users if joined else {}
        return {
            "messages": self.rooms[room].view() if room in self.rooms else [],
            "typing": joined.typing_users if joined else [],
            "read": self.reads.get(room, {}),
            "members": {id: user.display_name or id for id, user in users.items() if not user.invited},
            "membership": self.memberships.get(room),
            "name": joined.name if joined else None,
        }

    async def deliveries(self):
        return self.delivered


class OldNioPerson(NioPerson):
    kind = "nio-r0"
    client_kind = OldClient
