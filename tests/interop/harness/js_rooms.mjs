// What a person at matrix-js-sdk does with rooms beside talking: spaces, threads, search, upgrade, knocking.

import * as sdk from "matrix-js-sdk";
import { RoomHierarchy } from "matrix-js-sdk/lib/room-hierarchy.js";

// What was found last, to page through it.
let found;

export const verbs = (client) => {
    const room = (id) => client().getRoom(id) ?? fail(`room ${id} is not known yet`);
    const fail = (text) => {
        throw new Error(text);
    };

    return {
        async set_state(roomId, type, key, content) {
            return (await client().sendStateEvent(roomId, type, content, key)).event_id;
        },

        // Whether an event of this type came from somebody.
        async heard(roomId, type, userId) {
            const events = room(roomId).getLiveTimeline().getEvents();
            return events.some((event) => event.getType() === type && event.getSender() === userId);
        },

        async joins_by(roomIdOrAlias) {
            return (await client().joinRoom(roomIdOrAlias)).roomId;
        },

        async knock(roomId, reason) {
            await client().knockRoom(roomId, { reason });
        },

        // Who knocks, and why.
        async knocking(roomId) {
            const members = room(roomId).getMembersWithMembership("knock");
            return Object.fromEntries(members.map(({ userId, events }) => [userId, events.member.getContent().reason]));
        },

        // Everything in a space, page by page: names, and how one comes in.
        async hierarchy(spaceId, pageSize, maxDepth, suggestedOnly) {
            const tree = new RoomHierarchy(room(spaceId), pageSize, maxDepth ?? undefined, suggestedOnly);
            let pages = 0;
            while (tree.canLoadMore) {
                await tree.load();
                pages += 1;
            }
            return { rooms: tree.rooms.map(({ name, join_rule }) => [name, join_rule]), pages };
        },

        // Words in messages, as many pages as there are.
        async search(term) {
            found = await client().searchRoomEvents({ term });
            while (found.next_batch) await client().backPaginateRoomEventsSearch(found);
            const texts = found.results.map(({ context }) => context.getEvent().getContent().body);
            return { count: found.count, texts, highlights: found.highlights };
        },

        async reply_in_thread(roomId, rootId, body) {
            // Who opens the panel of a thread begins it there, before there is any answer.
            const root = room(roomId).findEventById(rootId) ?? fail(`event ${rootId} is not known yet`);
            if (!room(roomId).getThread(rootId)) room(roomId).createThread(rootId, root, [root], true);
            const relation = {
                "rel_type": "m.thread",
                "event_id": rootId,
                "is_falling_back": true,
                "m.in_reply_to": { event_id: rootId },
            };
            const content = { msgtype: "m.text", body, "m.relates_to": relation };
            return (await client().sendMessage(roomId, rootId, content)).event_id;
        },

        async open_threads(roomId) {
            await room(roomId).createThreadsTimelineSets();
            await room(roomId).fetchRoomThreads();
        },

        // The threads of a room: what they began with, how many answers, the newest, whether one took part.
        async threads(roomId) {
            return room(roomId).getThreads().map((thread) => ({
                root: thread.rootEvent?.getContent().body,
                answers: thread.length,
                newest: thread.replyToEvent?.getContent().body,
                mine: thread.hasCurrentUserParticipated,
            }));
        },

        // What is unread in a room without its threads, and in one of these.
        async unread(roomId, rootId) {
            const all = sdk.NotificationCountType.Total;
            const main = room(roomId).getRoomUnreadNotificationCount(all);
            return [main, rootId ? room(roomId).getThreadUnreadNotificationCount(rootId, all) : 0];
        },

        async read_thread(roomId, rootId) {
            await client().sendReadReceipt(room(roomId).getThread(rootId).replyToEvent);
        },

        async upgrade(roomId, version) {
            return (await client().upgradeRoom(roomId, version)).replacement_room;
        },

        async tag(roomId, name) {
            await client().setRoomTag(roomId, name, { order: 0.5 });
        },

        // What a room was before, what came after it, its version, its tags, its power levels and its topic.
        async facts(roomId) {
            const state = (type) => room(roomId).currentState.getStateEvents(type, "")?.getContent();
            return {
                version: room(roomId).getVersion(),
                before: room(roomId).findPredecessor()?.roomId ?? null,
                after: state("m.room.tombstone")?.replacement_room ?? null,
                tags: Object.keys(room(roomId).tags),
                topic: state("m.room.topic")?.topic ?? null,
                powers: state("m.room.power_levels")?.users ?? {},
                alias: room(roomId).getCanonicalAlias(),
            };
        },
    };
};
