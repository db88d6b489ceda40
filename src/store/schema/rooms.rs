//! Rooms, who is in them, and what people keep about them.

use std::iter;

use ruma::{
    OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId, events::room::member::MembershipState,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{EventNo, RoomNo, UserNo};
use crate::store::{Position, Rows, Store, StoreError, Table, key::Key};

/// A room that this server knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoomRow {
    /// Its ID.
    pub id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The create event.
    pub create: EventNo,
}

/// One row per room whose create event is known. Written by `rooms`.
pub const ROOMS: Table<RoomNo, RoomRow> = Table::new("rooms");

/// Where somebody stands towards a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    /// The membership.
    #[serde(rename = "m")]
    pub membership: MembershipState,
    /// The event that says so.
    #[serde(rename = "e")]
    pub event: EventNo,
}

/// One row per user with a member event in the room's current state.
/// Written by `rooms::projections::members`.
pub const MEMBERS: Table<(RoomNo, UserNo), MemberRow> = Table::new("members");

/// The joined users of this server, by room. Written by `rooms::projections::members`.
pub const LOCAL_MEMBERS: Table<(RoomNo, UserNo), ()> = Table::new("local_members");

/// How many users of each server are joined to a room; 0 while a server is known to be in it and its users are
/// not. Written by `rooms::projections::members`.
pub const ROOM_SERVERS: Table<(RoomNo, String), u64> = Table::new("room_servers");

/// A room that this server has joined and whose members are still on their way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialRow {
    /// The join with which this server came in; the state before it is what is missing.
    #[serde(rename = "j")]
    pub join: EventNo,
    /// The server that let it in.
    #[serde(rename = "v")]
    pub via: OwnedServerName,
}

/// One row per such room; it is gone when the members are there. Written by `rooms::partial`.
pub const PARTIAL_ROOMS: Table<RoomNo, PartialRow> = Table::new("partial_rooms");

/// Events that got their place while members were missing, in that order: they are judged again. Written by
/// `rooms::append`.
pub const PARTIAL_EVENTS: Table<(RoomNo, u64), EventNo> = Table::new("partial_events");

/// Rooms beside which events are kept while this server is on its way in, with a number below those of the events.
/// Written by `rooms::joining`, removed with the last step of the join, or with the events by `rooms::staged`.
pub const STAGED: Table<RoomNo, u64> = Table::new("staged");

/// Events of the state with which this server came into a room that could not be believed, since nobody had the keys
/// of their servers, with the time until which they are asked for again. Written by `rooms::late`.
pub const LATE_EVENTS: Table<(RoomNo, String), u64> = Table::new("late_events");

/// Where the log was when the members of a room had arrived. Written by `rooms::partial`.
pub const ARRIVED: Table<RoomNo, Position> = Table::new("arrived");

/// The servers that have left a room, by the position at which they did. Whatever was said before is still sent to
/// them, however late. Written by `rooms::projections::members`.
pub const DEPARTED: Table<(RoomNo, Position, String), ()> = Table::new("departed");

/// Where somebody stands towards a room, by user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRoomRow {
    /// The membership.
    #[serde(rename = "m")]
    pub membership: MembershipState,
    /// The event that says so. Where there is none, because an invite was withdrawn elsewhere or state resolution
    /// has found that nothing was ever said of the user, it is the one that counted before.
    #[serde(rename = "e")]
    pub event: EventNo,
    /// The position at which the membership became what it is.
    #[serde(rename = "p")]
    pub since: Position,
    /// The membership before that.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub before: Option<MembershipState>,
    /// Whether the user has forgotten the room after leaving it.
    #[serde(rename = "f", default, skip_serializing_if = "std::ops::Not::not")]
    pub forgotten: bool,
}

/// One row per user and room, for local and remote users. Written by `rooms::projections::members`.
pub const USER_ROOMS: Table<(UserNo, RoomNo), UserRoomRow> = Table::new("user_rooms");

/// What an invited or knocking local user may see of a room that this server is not in: stripped state,
/// as JSON texts. Written with the membership by `rooms`.
pub const STRIPPED_STATE: Table<(UserNo, RoomNo), Vec<String>> = Table::new("stripped_state");

/// A read receipt of a local or remote user. Written by `rooms::receipts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRow {
    /// Who has read.
    #[serde(rename = "u")]
    pub user: UserNo,
    /// `m.read` or `m.read.private`.
    #[serde(rename = "k")]
    pub kind: String,
    /// The thread, `main`, or nothing for an unthreaded receipt.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The event up to which.
    #[serde(rename = "e")]
    pub event: OwnedEventId,
    /// When, in milliseconds since the epoch.
    #[serde(rename = "w")]
    pub ts: u64,
}

/// The newest receipt per user, kind and thread, by the position at which it came.
pub const RECEIPTS: Table<(RoomNo, Position), ReceiptRow> = Table::new("receipts");

/// Where the newest receipt of `(room, user, kind, thread)` stands in [`RECEIPTS`]; an unthreaded one
/// has an empty thread.
pub const RECEIPT_AT: Table<(RoomNo, UserNo, String, String), Position> = Table::new("receipt_at");

/// Aliases of this server and the room each points to. Written by `rooms::aliases`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AliasRow {
    /// The room.
    pub room: RoomNo,
    /// Who made the alias.
    pub creator: UserNo,
}

/// One row per local alias, such as `#kitchen:example.org`.
pub const ALIASES: Table<String, AliasRow> = Table::new("aliases");

/// The same, by room.
pub const ROOM_ALIASES: Table<(RoomNo, String), ()> = Table::new("room_aliases");

/// Rooms that are listed in this server's directory. Written by `rooms::directory`.
pub const PUBLISHED: Table<RoomNo, ()> = Table::new("published");

/// Local users whose new profile is not yet in all their rooms, with a number that is new with each change.
/// Written by `rooms::profile`.
pub const PROFILE_JOBS: Table<UserNo, u64> = Table::new("profile_jobs");

/// A room that is being replaced by another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeRow {
    /// The new room.
    #[serde(rename = "n")]
    pub new: RoomNo,
    /// Who does it.
    #[serde(rename = "b")]
    pub by: OwnedUserId,
}

/// Rooms whose upgrade has begun and is not finished, by the old room. Written by `rooms::upgrade`.
pub const UPGRADES: Table<RoomNo, UpgradeRow> = Table::new("upgrades");

/// Rooms that no longer welcome guests, and from which those of this server are not yet seen out. Written by
/// `rooms::projections::guests`, removed by `rooms::guests`.
pub const GUESTS_TO_GO: Table<RoomNo, ()> = Table::new("guests_to_go");

/// The room in which the server speaks to one of its users. Written by `rooms::notices`.
pub const NOTICE_ROOMS: Table<UserNo, RoomNo> = Table::new("notice_rooms");

/// What somebody has told the admins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportRow {
    /// Who has told it.
    #[serde(rename = "b")]
    pub by: OwnedUserId,
    /// The room that it is about, or in which it happened.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub room: Option<OwnedRoomId>,
    /// The event that it is about.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub event: Option<OwnedEventId>,
    /// Whom it is about.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub user: Option<OwnedUserId>,
    /// Why.
    #[serde(rename = "w")]
    pub reason: String,
    /// When, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub at: u64,
}

/// Reports, in the order in which they came. Written by `rooms::reports`.
pub const REPORTS: Table<u64, ReportRow> = Table::new("reports");

/// The rooms of which a table has rows. Each costs one look, however many rows it has.
pub fn with_rows<K: Key, V: Serialize + DeserializeOwned>(
    store: &Store,
    table: Table<(RoomNo, K), V>,
) -> impl Iterator<Item = Result<RoomNo, StoreError>> {
    let mut from = Some(RoomNo(0));
    iter::from_fn(move || {
        let row = store.range(table, &(from?,), &(RoomNo(u64::MAX),)).next()?;
        let room = row.map(|((room, _), _)| room);
        from = room.as_ref().ok().map(|room| RoomNo(room.0 + 1));
        Some(room)
    })
}

/// The room behind a number.
pub fn find(rows: &impl Rows, room: RoomNo) -> Result<Option<RoomRow>, StoreError> {
    rows.row(ROOMS, &room)
}

/// Where a user stands towards a room.
pub fn member(store: &Store, room: RoomNo, user: UserNo) -> Result<Option<MemberRow>, StoreError> {
    store.get(MEMBERS, &(room, user))
}
