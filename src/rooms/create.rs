//! A new room, whole: create event, its creator, its rules and its first guests are one `Write`.
//!
//! Spec: client-server-api#post_matrixclientv3createroom

use std::sync::Arc;

use ruma::{
    OwnedRoomAliasId, OwnedUserId, RoomAliasId, UserId,
    api::client::room::{
        Visibility,
        create_room::v3::{Request, RoomPreset},
    },
};
use serde_json::{Value, json};

use super::{
    Room, Rooms, aliases,
    append::{Deciding, NewEvent, chosen_id},
    notices,
};
use crate::{
    config::EncryptByDefault,
    error::{Error, Result},
    protocol::{
        canonical::{self, Object},
        compose::Draft,
        event::Event,
        version::{self, Rules},
    },
    store::{
        Ticket, Write,
        schema::{
            numbers,
            rooms::{PUBLISHED, ROOMS, RoomRow},
        },
    },
};

/// How many people one request may invite.
const MOST_INVITES: usize = 100;
/// How many state events a request may bring.
const MOST_INITIAL_STATE: usize = 200;

/// What the caller of `createRoom` asked for, with every default filled in.
struct Plan {
    creator: OwnedUserId,
    rules: &'static Rules,
    preset: RoomPreset,
    create: Object,
    alias: Option<OwnedRoomAliasId>,
    request: Request,
}

/// Creates a room and returns it with the ticket of its `Write`. Only invites of local users are part of
/// it; the caller sends the others ([`super::doors::invite`]).
///
/// Errors: 400 `M_UNSUPPORTED_ROOM_VERSION`, `M_INVALID_ROOM_STATE`, `M_ROOM_IN_USE`, `M_BAD_JSON`.
pub fn create(rooms: &Rooms, creator: &UserId, request: Request) -> Result<(Arc<Room>, Ticket)> {
    create_with(rooms, creator, request, |_, _| Ok(()))
}

/// The same; `also` may add to the `Write`.
pub(super) fn create_with(
    rooms: &Rooms,
    creator: &UserId,
    request: Request,
    also: impl FnOnce(&mut Write, &Room) -> Result<()>,
) -> Result<(Arc<Room>, Ticket)> {
    let plan = plan(rooms, creator, request)?;
    // One at a time: an alias is given once, and so is the ID of a room that is the hash of its first event.
    let _aliases = rooms.aliases.lock();
    if let Some(alias) = &plan.alias {
        aliases::check_free(rooms, alias)?;
    }
    let first = create_event(rooms, &plan)?;
    let room = rooms.begin_new(first.room_id.clone(), plan.rules);
    let made = fill(rooms, &room, &plan, first, also);
    if made.is_err() {
        rooms.open.lock().remove(&room.number);
    }
    Ok((room, made?))
}

/// Everything that a new room begins with.
fn fill(
    rooms: &Rooms,
    room: &Room,
    plan: &Plan,
    first: Event,
    also: impl FnOnce(&mut Write, &Room) -> Result<()>,
) -> Result<Ticket> {
    let mut deciding = rooms.decide(room);
    deciding.authorize(&first).map_err(invalid_state)?;
    deciding.write.put(numbers::ROOM_NUMBERS, &room.id.as_str().to_owned(), &room.number);
    let create = deciding.add(first)?;
    let number = deciding.head().extremities[0].0;
    let row = RoomRow { id: room.id.clone(), version: room.version.clone(), create: number };
    deciding.write.put(ROOMS, &room.number, &row);
    deciding.join_creator(&plan.creator)?;
    for event in plan.state(rooms, &create)? {
        deciding.send(event).map_err(invalid_state)?;
    }
    if let Some(alias) = &plan.alias {
        aliases::put(&mut deciding.write, alias, room.number, &plan.creator)?;
    }
    if plan.request.visibility == Visibility::Public {
        deciding.write.put(PUBLISHED, &room.number, &());
    }
    for guest in plan.request.invite.iter().filter(|guest| rooms.is_local(guest)) {
        deciding.invite(&plan.creator, guest, plan.request.is_direct, None)?;
    }
    also(&mut deciding.write, room)?;
    deciding.commit()
}

/// A refusal that the caller's own wishes have led to.
fn invalid_state(error: Error) -> Error {
    match error.errcode.as_ref() {
        "M_FORBIDDEN" => {
            Error::bad_request("M_INVALID_ROOM_STATE", format!("the room cannot begin like this: {}", error.message))
        }
        _ => error,
    }
}

fn plan(rooms: &Rooms, creator: &UserId, request: Request) -> Result<Plan> {
    let version = request.room_version.as_ref().unwrap_or(&rooms.config.rooms.default_version);
    let Some(rules) = version::rules(version) else {
        let message = format!("this server has no rooms of version {version}");
        return Err(Error::bad_request("M_UNSUPPORTED_ROOM_VERSION", message));
    };
    if request.invite.len() + request.invite_3pid.len() > MOST_INVITES {
        return Err(Error::invalid_param(format!(
            "a room can begin with {MOST_INVITES} invites; invite the others later"
        )));
    }
    if request.initial_state.len() > MOST_INITIAL_STATE {
        return Err(Error::invalid_param(format!("initial_state may hold {MOST_INITIAL_STATE} events")));
    }
    let alias = request
        .room_alias_name
        .as_ref()
        .map(|name| {
            RoomAliasId::parse(format!("#{name}:{}", rooms.config.server_name))
                .map_err(|_| Error::invalid_param("room_alias_name must be the part between # and : of an alias"))
        })
        .transpose()?;
    if let Some(alias) = &alias {
        aliases::check_free(rooms, alias)?;
    }
    let preset = request.preset.clone().unwrap_or(match request.visibility {
        Visibility::Public => RoomPreset::PublicChat,
        _ => RoomPreset::PrivateChat,
    });
    let mut create = match &request.creation_content {
        Some(raw) => canonical::parse_object(raw.json().get().as_bytes(), rules.numbers)
            .map_err(|error| Error::bad_json(format!("creation_content: {error}")))?,
        None => Object::new(),
    };
    create.insert("room_version".to_owned(), rules.name().into());
    if !rules.creator_is_sender {
        create.insert("creator".to_owned(), creator.as_str().into());
    }
    if rules.privileged_creators {
        additional_creators(&mut create, creator, &preset, &request.invite)?;
    }
    Ok(Plan { creator: creator.to_owned(), rules, preset, create, alias, request })
}

/// Fills in who shares unlimited power with the creator of a version 12 room: those the caller named, and in
/// a trusted private chat all who are invited.
fn additional_creators(
    create: &mut Object,
    creator: &UserId,
    preset: &RoomPreset,
    invite: &[OwnedUserId],
) -> Result<()> {
    let named = create.remove("additional_creators").unwrap_or_else(|| canonical::Value::Array(Vec::new()));
    let mut creators: Vec<OwnedUserId> = canonical::from_value(&named)
        .map_err(|_| Error::bad_json("creation_content: additional_creators must be a list of user IDs"))?;
    if *preset == RoomPreset::TrustedPrivateChat {
        creators.extend(invite.iter().cloned());
    }
    creators.retain(|user| user != creator);
    creators.sort();
    creators.dedup();
    if !creators.is_empty() {
        let names = creators.iter().map(|user| user.as_str().into()).collect();
        create.insert("additional_creators".to_owned(), canonical::Value::Array(names));
    }
    Ok(())
}

fn create_event(rooms: &Rooms, plan: &Plan) -> Result<Event> {
    let mut draft = Draft::new("m.room.create", plan.creator.clone(), plan.create.clone());
    draft.state_key = Some(String::new());
    draft.origin_server_ts = rooms.clock.now();
    draft.event_id = chosen_id(rooms, plan.rules);
    if !plan.rules.room_id_is_hash {
        let name = rooms.remote.chance.word(18);
        draft.room_id = ruma::RoomId::parse(format!("!{name}:{}", rooms.config.server_name)).ok();
    }
    let sign = |draft: Draft| {
        draft
            .sign(&rooms.config.server_name, &rooms.key, plan.rules)
            .map_err(|error| Error::bad_json(format!("creation_content: {error}")))
    };
    loop {
        let event = sign(draft.clone())?;
        // The same wish twice in a millisecond would be the same room.
        match rooms.store.write().get(numbers::ROOM_NUMBERS, &event.room_id.as_str().to_owned())? {
            Some(_) => draft.origin_server_ts += 1,
            None => return Ok(event),
        }
    }
}

impl Plan {
    /// All state events after the creator's join, in the order of the specification.
    fn state(&self, rooms: &Rooms, create: &Event) -> Result<Vec<NewEvent>> {
        let mut events = vec![("m.room.power_levels".to_owned(), String::new(), self.power_levels()?)];
        if let Some(alias) = &self.alias {
            events.push(("m.room.canonical_alias".to_owned(), String::new(), json!({ "alias": alias })));
        }
        let (join, history, guests) = match self.preset {
            RoomPreset::PublicChat => ("public", "shared", "forbidden"),
            _ => ("invite", "shared", "can_join"),
        };
        let given = self.initial_state()?;
        let mut preset = vec![
            ("m.room.join_rules", json!({ "join_rule": join })),
            ("m.room.history_visibility", json!({ "history_visibility": history })),
            ("m.room.guest_access", json!({ "guest_access": guests })),
        ];
        if self.encrypted_by_default(rooms) {
            preset.push(("m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })));
        }
        for (kind, content) in preset {
            if !given.iter().any(|(given, key, _)| given == kind && key.is_empty()) {
                events.push((kind.to_owned(), String::new(), content));
            }
        }
        events.extend(given);
        if let Some(name) = &self.request.name {
            events.push(("m.room.name".to_owned(), String::new(), json!({ "name": name })));
        }
        if let Some(topic) = &self.request.topic {
            let rich = json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic }] } });
            events.push(("m.room.topic".to_owned(), String::new(), rich));
        }
        events
            .into_iter()
            .map(|(kind, state_key, content)| {
                let content =
                    canonical::to_object(&content).map_err(|error| Error::bad_json(format!("{kind}: {error}")))?;
                Ok(NewEvent::state(&create.sender, kind, state_key, content))
            })
            .collect()
    }

    fn encrypted_by_default(&self, rooms: &Rooms) -> bool {
        // The server has no keys.
        if notices::is_sender(rooms, &self.creator) {
            return false;
        }
        match rooms.config.rooms.encryption_enabled_by_default {
            EncryptByDefault::All => true,
            EncryptByDefault::Invite => self.preset != RoomPreset::PublicChat,
            EncryptByDefault::Off => false,
        }
    }

    fn initial_state(&self) -> Result<Vec<(String, String, Value)>> {
        self.request
            .initial_state
            .iter()
            .map(|raw| {
                let event: Value = serde_json::from_str(raw.json().get()).unwrap_or_default();
                let text = |field: &str| event.get(field).and_then(Value::as_str);
                match (text("type"), event.get("content")) {
                    (Some(kind), Some(content @ Value::Object(_))) => {
                        Ok((kind.to_owned(), text("state_key").unwrap_or_default().to_owned(), content.clone()))
                    }
                    _ => Err(Error::bad_json("each event of initial_state needs a type and a content")),
                }
            })
            .collect()
    }

    /// The power levels with which the room begins.
    fn power_levels(&self) -> Result<Value> {
        let open_to_invites = self.preset != RoomPreset::PublicChat;
        let tombstone = if self.rules.privileged_creators { 150 } else { 100 };
        let mut users = serde_json::Map::new();
        if !self.rules.privileged_creators {
            users.insert(self.creator.to_string(), json!(100));
            if self.preset == RoomPreset::TrustedPrivateChat {
                users.extend(self.request.invite.iter().map(|guest| (guest.to_string(), json!(100))));
            }
        }
        let mut levels = json!({
            "users": users,
            "users_default": 0,
            "events": {
                "m.room.name": 50,
                "m.room.avatar": 50,
                "m.room.canonical_alias": 50,
                "m.room.power_levels": 100,
                "m.room.history_visibility": 100,
                "m.room.encryption": 100,
                "m.room.server_acl": 100,
                "m.room.tombstone": tombstone,
            },
            "events_default": 0,
            "state_default": 50,
            "ban": 50,
            "kick": 50,
            "redact": 50,
            "invite": if open_to_invites { 0 } else { 50 },
            "historical": 100,
        });
        let Some(raw) = &self.request.power_level_content_override else { return Ok(levels) };
        let given: Value = serde_json::from_str(raw.json().get()).unwrap_or_default();
        let (Some(levels_map), Some(given)) = (levels.as_object_mut(), given.as_object()) else {
            return Err(Error::bad_json("power_level_content_override must be an object"));
        };
        levels_map.extend(given.clone());
        Ok(levels)
    }
}

impl Deciding<'_> {
    /// The creator's own join, the second event of every room.
    fn join_creator(&mut self, creator: &UserId) -> Result<()> {
        self.join(creator, None, Object::new())?;
        Ok(())
    }
}
