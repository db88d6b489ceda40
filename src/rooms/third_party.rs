//! Invites to people of whom only an e-mail address or a phone number is known.
//!
//! An identity server says whose it is, or keeps the invite until somebody proves that it is theirs; their
//! server then turns it into an ordinary invite, with the help of a server in the room if need be. Identity servers
//! are the clients' choice: they are asked over HTTPS, within the limits of every address of the web.
//!
//! Spec: client-server-api#third-party-invites, server-server-api#third-party-invites

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use ruma::{
    OwnedServerName, OwnedUserId, RoomId, UserId,
    api::{
        client::membership::{Invite3pid, ThirdPartySigned},
        federation::thirdparty::exchange_invite,
    },
    events::room::member::MembershipState,
    serde::Raw,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use super::{Room, Rooms, append::NewEvent, doors, inviting, partial};
use crate::{
    error::{Error, Result},
    protocol::canonical::{self, Object, Value},
    remote::transport::WebRequest,
    store::schema::federation::{OUTBOX, OutboxRow},
};

/// How long an identity server may take, and how many bytes it may answer.
const TIMEOUT: Duration = Duration::from_secs(10);
const LIMIT: usize = 64 * 1024;
/// How long an address or number may be.
const LONGEST_ADDRESS: usize = 500;
/// How many invites of one notification are looked at.
const MOST_INVITES: usize = 100;
/// How many keys of an invite are looked at.
const MOST_KEYS: usize = 10;

#[derive(Deserialize)]
struct HashDetails {
    algorithms: Vec<String>,
    lookup_pepper: String,
}

#[derive(Deserialize)]
struct Mappings {
    mappings: std::collections::HashMap<String, OwnedUserId>,
}

/// What an identity server says about an invite that it keeps.
#[derive(Deserialize)]
struct Stored {
    token: String,
    public_keys: Vec<StoredKey>,
    display_name: String,
}

#[derive(Deserialize)]
struct StoredKey {
    public_key: String,
    key_validity_url: String,
}

/// Invites whoever has an address or number.
///
/// Errors: 403 `M_FORBIDDEN` if `sender` may not invite, 400 `M_INVALID_PARAM` for what is no identity server, 502
/// `M_UNKNOWN` if it does not help.
pub async fn invite(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    sender: &UserId,
    guest: &Invite3pid,
    is_direct: bool,
) -> Result<()> {
    if guest.address.len() > LONGEST_ADDRESS {
        return Err(Error::invalid_param("that is no address or phone number"));
    }
    if !rooms.decide(room).power_levels()?.can_invite(sender) {
        return Err(Error::forbidden("you may not invite anybody to this room"));
    }
    let identity = Identity::new(rooms, guest)?;
    if let Some(user) = identity.lookup(guest).await? {
        return doors::invite(rooms, room, sender, &user, is_direct, None).await;
    }
    let stored = identity.store(room, sender, guest).await?;
    let first = stored.public_keys.first().ok_or_else(|| identity.failed("it has given no key"))?;
    let keys: Vec<Json> = stored
        .public_keys
        .iter()
        .take(MOST_KEYS)
        .map(|key| json!({ "public_key": key.public_key, "key_validity_url": key.key_validity_url }))
        .collect();
    let content = json!({
        "display_name": stored.display_name,
        "public_key": first.public_key,
        "key_validity_url": first.key_validity_url,
        "public_keys": keys,
    });
    let content = canonical::to_object(&content).map_err(|error| Error::bad_json(error.to_string()))?;
    let event = NewEvent::state(sender, "m.room.third_party_invite", stored.token, content);
    doors::change(rooms, room, |deciding| deciding.send(event.clone()).map(|_| true)).await
}

/// An identity server, with the token by which it knows the inviting user.
struct Identity<'a> {
    rooms: &'a Rooms,
    server: OwnedServerName,
    token: HeaderValue,
}

impl<'a> Identity<'a> {
    fn new(rooms: &'a Rooms, guest: &Invite3pid) -> Result<Self> {
        let server = guest.id_server.strip_prefix("https://").unwrap_or(&guest.id_server);
        let server = OwnedServerName::try_from(server)
            .map_err(|_| Error::invalid_param("id_server must be the host name of an identity server"))?;
        let mut token = HeaderValue::from_str(&format!("Bearer {}", guest.id_access_token))
            .map_err(|_| Error::invalid_param("id_access_token is no token"))?;
        token.set_sensitive(true);
        Ok(Self { rooms, server, token })
    }

    /// Whose the address or number is.
    async fn lookup(&self, guest: &Invite3pid) -> Result<Option<OwnedUserId>> {
        let details: HashDetails = self.ask(Method::GET, "hash_details", None).await?;
        let offers = |name: &str| details.algorithms.iter().any(|algorithm| algorithm == name);
        let medium = guest.medium.as_str();
        let (algorithm, address) = if offers("sha256") {
            let text = format!("{} {medium} {}", guest.address, details.lookup_pepper);
            ("sha256", URL_SAFE_NO_PAD.encode(Sha256::digest(text)))
        } else if offers("none") {
            ("none", format!("{} {medium}", guest.address))
        } else {
            return Err(self.failed("it has no way to look somebody up that this server knows"));
        };
        let question = json!({ "addresses": [address], "algorithm": algorithm, "pepper": details.lookup_pepper });
        let mut found: Mappings = self.ask(Method::POST, "lookup", Some(question)).await?;
        Ok(found.mappings.remove(&address))
    }

    /// Lets the identity server keep an invite, and write to the guest.
    async fn store(&self, room: &Room, sender: &UserId, guest: &Invite3pid) -> Result<Stored> {
        let state = self.rooms.current(room.number)?;
        let field = |kind: &str, field: &str| -> Result<String> {
            let known = self.rooms.in_state(&state, kind, "")?;
            Ok(known.and_then(|known| known.event.content_field::<String>(field)).unwrap_or_default())
        };
        let profile = self.rooms.users.profile(sender)?;
        let invite = json!({
            "address": guest.address,
            "medium": guest.medium,
            "room_id": room.id,
            "sender": sender,
            "room_alias": field("m.room.canonical_alias", "alias")?,
            "room_avatar_url": field("m.room.avatar", "url")?,
            "room_join_rules": field("m.room.join_rules", "join_rule")?,
            "room_name": field("m.room.name", "name")?,
            "room_type": field("m.room.create", "type")?,
            "sender_display_name": profile.displayname.unwrap_or_default(),
            "sender_avatar_url": profile.avatar_url.map(|url| url.to_string()).unwrap_or_default(),
        });
        self.ask(Method::POST, "store-invite", Some(invite)).await
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, what: &str, body: Option<Json>) -> Result<T> {
        let uri = format!("https://{}/_matrix/identity/v2/{what}", self.server);
        let uri: Uri = uri.parse().map_err(|_| Error::invalid_param("id_server is no host name"))?;
        let mut headers = HeaderMap::from_iter([(header::AUTHORIZATION, self.token.clone())]);
        if body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default().into();
        let request = WebRequest { method, uri, headers, body, timeout: TIMEOUT, limit: LIMIT };
        let answer = self.rooms.remote.web(request).await.map_err(|failure| self.failed(&failure.to_string()))?;
        if answer.status == StatusCode::UNAUTHORIZED || answer.status == StatusCode::FORBIDDEN {
            return Err(Error::forbidden(format!("{} does not accept the id_access_token", self.server)));
        }
        if !answer.status.is_success() {
            return Err(self.failed(&format!("it says {}", answer.status.as_u16())));
        }
        serde_json::from_slice(&answer.body).map_err(|error| self.failed(&error.to_string()))
    }

    fn failed(&self, why: &str) -> Error {
        let message = format!("the identity server {} cannot help at the moment: {why}", self.server);
        Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
    }
}

/// An invite that an identity server has kept until somebody could prove that it is theirs.
pub struct Kept<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// Who has invited.
    pub sender: &'a UserId,
    /// What the identity server has signed.
    pub signed: Object,
}

/// A user of this server has proved that an address or number is theirs: the invites that waited for that become
/// ordinary ones. One that fails is left out, with a line in the log.
///
/// Errors: 403 `M_FORBIDDEN` unless the user has an account here.
pub async fn bound(rooms: &Arc<Rooms>, user: &UserId, invites: &[Kept<'_>]) -> Result<()> {
    let account = crate::users::accounts::by_id(&rooms.users, user)?;
    if !rooms.is_local(user) || account.is_none_or(|(_, account)| account.deactivated) {
        return Err(Error::forbidden(format!("{user} has no account here")));
    }
    for invite in invites.iter().take(MOST_INVITES) {
        if let Err(error) = accept(rooms, user, invite).await {
            tracing::info!(room = %invite.room, "an invite of {user} by address is lost: {error}");
        }
    }
    Ok(())
}

/// A user who wants to join shows what an identity server has signed for them, and is invited for it.
///
/// Errors: 403 `M_FORBIDDEN` if it is for somebody else, or the room has no such invite.
/// Spec: client-server-api#post_matrixclientv3joinroomidoralias
pub async fn prove(rooms: &Arc<Rooms>, room: &RoomId, user: &UserId, proof: &ThirdPartySigned) -> Result<()> {
    if proof.mxid != user {
        return Err(Error::forbidden(format!("third_party_signed is for {}", proof.mxid)));
    }
    let signed = canonical::to_object(proof).map_err(|error| Error::bad_json(error.to_string()))?;
    accept(rooms, user, &Kept { room, sender: &proof.sender, signed }).await
}

async fn accept(rooms: &Arc<Rooms>, user: &UserId, invite: &Kept<'_>) -> Result<()> {
    if let Some(room) = doors::inside(rooms, invite.room)? {
        return exchange(rooms, &room, invite.sender, user, &invite.signed).await;
    }
    let signed = Value::Object(Object::from([("signed".to_owned(), Value::Object(invite.signed.clone()))]));
    let content = Object::from([("membership".to_owned(), "invite".into()), ("third_party_invite".to_owned(), signed)]);
    let content =
        serde_json::value::RawValue::from_string(canonical::write_object(&content)).map_err(Error::internal)?;
    let mut servers = vec![invite.sender.server_name().to_owned()];
    servers.extend(invite.room.server_name().map(ToOwned::to_owned));
    let mut last = Error::not_found("there is no server to ask");
    for server in crate::remote::candidates(&rooms.config, servers) {
        let (room, sender, user) = (invite.room.to_owned(), invite.sender.to_owned(), user.to_owned());
        let request = exchange_invite::v1::Request::new(room, sender, user, Raw::from_json(content.clone()));
        match rooms.remote.ask(&server, request).await {
            Ok(_) => return Ok(()),
            Err(error) => last = error.for_client(&server),
        }
    }
    Err(last)
}

/// Turns an invite by address into an ordinary one, in a room that this server is in. `signed` is what the
/// identity server has signed.
///
/// Errors: 403 `M_FORBIDDEN` if the room has no such invite, or it is signed by nobody who counts; 502 `M_UNKNOWN`
/// if that cannot be found out.
pub async fn exchange(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    sender: &UserId,
    guest: &UserId,
    signed: &Object,
) -> Result<()> {
    partial::whole(rooms, room).await?;
    let token = signed.get("token").and_then(Value::as_str).unwrap_or_default();
    let offer = rooms.in_state(&rooms.current(room.number)?, "m.room.third_party_invite", token)?;
    let offer = offer.ok_or_else(|| Error::forbidden("the room has no such invite"))?;
    let mut third_party = Object::from([("signed".to_owned(), Value::Object(signed.clone()))]);
    if let Some(name) = offer.event.content_field::<String>("display_name") {
        third_party.insert("display_name".to_owned(), name.into());
    }
    let mut content = rooms.member_profile(guest)?;
    content.insert("membership".to_owned(), "invite".into());
    content.insert("third_party_invite".to_owned(), Value::Object(third_party));
    let new = NewEvent::state(sender, "m.room.member", guest.as_str(), content);
    {
        let deciding = rooms.decide(room);
        if deciding.membership(guest)? == MembershipState::Join {
            return Ok(());
        }
        deciding.authorize(&deciding.compose(new.clone())?)?;
    }
    check_keys(rooms, &offer.event).await?;
    if !rooms.is_local(guest) {
        return inviting::offer(rooms, room, guest, new).await;
    }
    super::membership::check_wanted(rooms, guest)?;
    let others = !rooms.is_local(sender);
    doors::change(rooms, room, |deciding| {
        deciding.send(new.clone())?;
        // It is in the name of a user of another server, who does not know of it.
        if others && let Some((number, _)) = deciding.head().extremities.first().cloned() {
            let slot = deciding.write.slot();
            deciding.write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::Pdu(number)));
        }
        Ok(true)
    })
    .await
}

/// Asks whether the keys of an invite are still valid, where it says who knows.
async fn check_keys(rooms: &Rooms, offer: &crate::protocol::event::Event) -> Result<()> {
    #[derive(Deserialize)]
    struct Key {
        public_key: String,
        key_validity_url: Option<String>,
    }
    #[derive(Deserialize)]
    struct Validity {
        valid: bool,
    }
    let mut keys: Vec<Key> = offer.content_field("public_keys").unwrap_or_default();
    if keys.is_empty() {
        keys.extend(offer.content_as::<Key>().ok());
    }
    for Key { public_key, key_validity_url } in keys.into_iter().take(MOST_KEYS) {
        let Some(url) = key_validity_url else { continue };
        let failed = |why: &dyn std::fmt::Display| {
            Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", format!("whether the invite is valid is not known: {why}"))
        };
        let key = percent_encoding::utf8_percent_encode(&public_key, percent_encoding::NON_ALPHANUMERIC);
        let uri: Uri = format!("{url}?public_key={key}").parse().map_err(|error| failed(&error))?;
        let (headers, body) = Default::default();
        let request = WebRequest { method: Method::GET, uri, headers, body, timeout: TIMEOUT, limit: LIMIT };
        let answer = rooms.remote.web(request).await.map_err(|error| failed(&error))?;
        if answer.status.is_success() {
            let answer: Validity = serde_json::from_slice(&answer.body).map_err(|error| failed(&error))?;
            if answer.valid {
                continue;
            }
        }
        return Err(Error::forbidden("the identity server no longer stands by this invite"));
    }
    Ok(())
}
