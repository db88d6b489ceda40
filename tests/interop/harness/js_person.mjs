// One person at matrix-js-sdk, told what to do by lines of JSON on standard input.
//
// {"id": 1, "verb": "say", "args": ["!room:server", "hello"]}  ->  {"id": 1, "value": "$event"}
//
// The client is set up as a web client would do it: stored sync, lazy-loaded members, threads. What is
// shown comes from the SDK's own model of the room; only `deliveries` looks at the wire.

import "fake-indexeddb/auto";
import { createInterface } from "node:readline";
import * as sdk from "matrix-js-sdk";
import * as crypto from "./js_crypto.mjs";
import * as rooms from "./js_rooms.mjs";

// The SDK logs to the console; standard output belongs to the answers.
for (const level of ["trace", "debug", "log", "info"]) console[level] = console.error;

const settings = JSON.parse(process.argv[2]);
// By the token that was asked with: a client that was closed before it kept an answer asks again.
const deliveries = new Map();
let client, session;

async function listen(url, options) {
    const answer = await fetch(url, options);
    if (/\/sync\?/.test(String(url)) && answer.ok) {
        const { rooms = {} } = await answer.clone().json();
        const events = Object.values(rooms.join ?? {}).flatMap((room) => room.timeline?.events ?? []);
        const since = new URL(url).searchParams.get("since");
        deliveries.set(since, events.map((event) => event.event_id));
    }
    return answer;
}

async function makeClient() {
    const store = new sdk.IndexedDBStore({ indexedDB, dbName: settings.label });
    client = sdk.createClient({
        baseUrl: settings.url,
        userId: session.user_id,
        deviceId: session.device_id,
        accessToken: session.access_token,
        store,
        fetchFn: listen,
        timelineSupport: true,
        cryptoCallbacks: crypto.callbacks,
        verificationMethods: ["m.sas.v1"],
    });
    // After the client is there: it makes the users whose presence is stored.
    await store.startup();
    if (settings.crypto) {
        await client.initRustCrypto({ cryptoDatabasePrefix: settings.label });
        crypto.listen(client);
    }
}

const anonymous = () => sdk.createClient({ baseUrl: settings.url });
const room = (id) => client.getRoom(id) ?? fail(`room ${id} is not known yet`);
const event = (roomId, id) => room(roomId).findEventById(id) ?? fail(`event ${id} is not known yet`);
const fail = (text) => {
    throw new Error(text);
};

// Resolves when the server has answered a sync; what the client has stored does not count.
const synced = () =>
    new Promise((resolve, reject) => {
        const look = (state, _before, data) => {
            if (["PREPARED", "SYNCING"].includes(state) && !data?.fromCache) resolve(client.off(sdk.ClientEvent.Sync, look));
            else if (state === "STOPPED") reject(data?.error ?? new Error("the client stopped"));
        };
        client.on(sdk.ClientEvent.Sync, look);
    });

const verbs = {
    async register(name, password) {
        // A first request without `auth` asks which flows there are, as every client does.
        const flows = await anonymous().registerRequest({ username: name, password }).catch((refusal) => refusal);
        if (flows.httpStatus !== 401) fail(`register without auth: ${flows}`);
        const auth = { type: "m.login.dummy", session: flows.data.session };
        session = await anonymous().registerRequest({ username: name, password, auth, initial_device_display_name: "js" });
        await makeClient();
        return session;
    },

    async login(name, password) {
        const { flows } = await anonymous().loginFlows();
        if (!flows.some((flow) => flow.type === "m.login.password")) fail("no login by password");
        session = await anonymous().loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: name },
            password,
            initial_device_display_name: "js",
        });
        await makeClient();
        return session;
    },

    async logout() {
        await client.logout(true);
    },

    async start() {
        if (!client) await makeClient();
        const first = synced();
        await client.startClient({ lazyLoadMembers: true, threadSupport: true, initialSyncLimit: 20, pollTimeout: 10_000 });
        await first;
    },

    async pause() {
        await client.store.save(true);
        client.stopClient();
        client = undefined;
    },

    async create_room(options) {
        return (await client.createRoom(options)).room_id;
    },

    async invite(roomId, userId) {
        await client.invite(roomId, userId);
    },

    async join(roomId) {
        await client.joinRoom(roomId);
    },

    async leave(roomId) {
        await client.leave(roomId);
    },

    async say(roomId, body) {
        return (await client.sendMessage(roomId, { msgtype: "m.text", body })).event_id;
    },

    async edit(roomId, eventId, body) {
        const content = {
            "msgtype": "m.text",
            "body": `* ${body}`,
            "m.new_content": { msgtype: "m.text", body },
            "m.relates_to": { rel_type: "m.replace", event_id: eventId },
        };
        return (await client.sendMessage(roomId, content)).event_id;
    },

    async react(roomId, eventId, key) {
        const relation = { rel_type: "m.annotation", event_id: eventId, key };
        return (await client.sendEvent(roomId, "m.reaction", { "m.relates_to": relation })).event_id;
    },

    async remove(roomId, eventId) {
        return (await client.redactEvent(roomId, eventId)).event_id;
    },

    async typing(roomId, on) {
        await client.sendTyping(roomId, on, 20_000);
    },

    async read(roomId, eventId) {
        await client.sendReadReceipt(event(roomId, eventId));
    },

    async rename(name) {
        await client.setDisplayName(name);
    },

    async profile_name(userId) {
        return (await client.getProfileInfo(userId)).displayname ?? null;
    },

    async scroll_up(roomId, limit) {
        return client.paginateEventTimeline(timelines(room(roomId))[0], { backwards: true, limit });
    },

    async view(roomId) {
        const seen = client?.getRoom(roomId);
        if (!seen) return { messages: [], typing: [], read: {}, members: {}, membership: null, name: null };
        const joined = seen.getJoinedMembers();
        const read = joined.map(({ userId }) => [userId, seen.getEventReadUpTo(userId, true)]);
        return {
            messages: timelines(seen).flatMap((timeline) => timeline.getEvents()).filter(isMessage).map(message),
            typing: joined.filter((member) => member.typing).map((member) => member.userId),
            read: Object.fromEntries(read),
            members: Object.fromEntries(joined.map((member) => [member.userId, member.rawDisplayName])),
            membership: seen.getMyMembership(),
            name: seen.name,
        };
    },

    async deliveries() {
        return [...deliveries.values()].flat();
    },
};

// The live timeline and what has been joined to it by scrolling up over gaps, oldest first.
function timelines(room) {
    const found = [room.getLiveTimeline()];
    while (found[0].getNeighbouringTimeline("b")) found.unshift(found[0].getNeighbouringTimeline("b"));
    return found;
}

function isMessage(event) {
    const type = event.getType();
    const message = type === "m.room.message" || type === "m.room.encrypted";
    const verification = String(event.getContent().msgtype).startsWith("m.key.verification.");
    return message && !verification && !event.isRelation("m.replace") && !event.isState();
}

function message(event) {
    const id = event.getId();
    const reactions = room(event.getRoomId()).relations.getChildEventsForEvent(id, "m.annotation", "m.reaction");
    return {
        id,
        sender: event.getSender(),
        text: event.getContent().body ?? "",
        edited: Boolean(event.replacingEvent()),
        removed: event.isRedacted(),
        unreadable: event.isDecryptionFailure() || event.isBeingDecrypted(),
        reactions: (reactions?.getRelations() ?? [])
            .filter((reaction) => !reaction.isRedacted())
            .map((reaction) => [reaction.getSender(), reaction.getRelation().key]),
    };
}

Object.assign(verbs, crypto.verbs(() => client), rooms.verbs(() => client));

for await (const line of createInterface({ input: process.stdin })) {
    const { id, verb, args } = JSON.parse(line);
    const answer = (value) => process.stdout.write(`${JSON.stringify({ id, ...value })}\n`);
    // Not awaited: one verb may wait for what another will cause.
    Promise.resolve()
        .then(() => (verbs[verb] ?? fail(`no verb ${verb}`))(...args))
        .then((value) => answer({ value: value ?? null }))
        .catch((error) => {
            console.error(`${verb} failed`, error);
            answer({ error: `${verb}: ${error.message ?? error}` });
        });
}
process.exit(0);
