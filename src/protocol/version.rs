//! Room versions: what each of them changes, as one row of flags.
//!
//! [`rules`] gives the row of a version, or `None` for a version that Ingle does not speak. Code
//! that depends on the version asks a flag (`rules.knocking`), never the version's number, so a
//! new version is a new row here and, where it brings a new rule, one new flag.

use ruma::RoomVersionId;

use super::canonical::Numbers;

/// What a room version asks of events, hashes, authorization and state resolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The number of the version, `1` to `12`.
    pub version: u8,
    /// Where an event's ID comes from. Spec: rooms/v4#event-ids
    pub event_ids: EventIds,
    /// Whether numbers are held to canonical JSON. Spec: rooms/v6#canonical-json
    pub numbers: Numbers,
    /// A signature counts only from a key that was valid at the event's time.
    /// Spec: rooms/v5#signing-key-validity-period
    pub key_validity: bool,
    /// Which algorithm resolves forked state. Spec: rooms/v2#state-resolution
    pub resolution: Resolution,

    /// Redactions are allowed or refused by the authorization rules (versions 1 and 2).
    pub redaction_in_auth: bool,
    /// `m.room.aliases` has an authorization rule and a redaction rule of its own (1 to 5).
    pub special_aliases: bool,
    /// Changes of `notifications` in power levels are authorized (from 6).
    pub limited_notifications: bool,
    /// `knock` is a membership and a join rule (from 7).
    pub knocking: bool,
    /// `restricted` is a join rule (from 8).
    pub restricted: bool,
    /// `knock_restricted` is a join rule (from 10).
    pub knock_restricted: bool,
    /// Power levels are integers, never strings (from 10).
    pub integer_levels: bool,
    /// The creator is the sender of the create event, not its `creator` field (from 11).
    pub creator_is_sender: bool,
    /// Creators stand above every power level, and there may be several (from 12).
    pub privileged_creators: bool,
    /// The room's ID is the hash of its create event, which has no `room_id` and is never an
    /// auth event (from 12).
    pub room_id_is_hash: bool,

    /// Redaction keeps `allow` of join rules (from 8).
    pub redaction_keeps_allow: bool,
    /// Redaction keeps `join_authorised_via_users_server` of members (from 9).
    pub redaction_keeps_authoriser: bool,
    /// Version 11's redaction: more content is kept, `origin`, `membership` and `prev_state` are
    /// not, and `redacts` lives in the content. Spec: rooms/v11#redactions
    pub modern_redaction: bool,
}

/// Where an event's ID comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIds {
    /// The sender's server chose it, and the event carries it.
    Chosen,
    /// The reference hash, in the standard alphabet of Base64.
    Hash,
    /// The reference hash, in the URL-safe alphabet.
    UrlSafeHash,
}

/// The state resolution algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// By depth and SHA-1 of the event ID.
    V1,
    /// By power and mainline.
    V2,
    /// As `V2`, from an empty state and with the conflicted subgraph.
    V2_1,
}

/// The rules of a room version, if Ingle speaks it.
pub fn rules(version: &RoomVersionId) -> Option<&'static Rules> {
    by_name(version.as_str())
}

/// The rules of a room version given by name, as `m.room.create` has it.
pub fn by_name(version: &str) -> Option<&'static Rules> {
    // Not `parse`: "+1" and "01" are other names.
    ALL.iter().find(|rules| rules.name() == version)
}

/// Every version that Ingle speaks, oldest first.
pub const ALL: &[Rules] = &[V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V12];

const NAMES: [&str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

impl Rules {
    /// The version's name, as it stands in `m.room.create`.
    pub fn name(&self) -> &'static str {
        NAMES[usize::from(self.version - 1)]
    }

    /// The version as ruma's identifier.
    pub fn id(&self) -> RoomVersionId {
        RoomVersionId::try_from(self.name()).expect("1 to 12 are room versions")
    }

    /// `prev_events` and `auth_events` are plain lists of IDs, not pairs with a hash (from 3).
    pub fn plain_references(&self) -> bool {
        self.event_ids != EventIds::Chosen
    }
}

const V1: Rules = Rules {
    version: 1,
    event_ids: EventIds::Chosen,
    numbers: Numbers::Lax,
    key_validity: false,
    resolution: Resolution::V1,
    redaction_in_auth: true,
    special_aliases: true,
    limited_notifications: false,
    knocking: false,
    restricted: false,
    knock_restricted: false,
    integer_levels: false,
    creator_is_sender: false,
    privileged_creators: false,
    room_id_is_hash: false,
    redaction_keeps_allow: false,
    redaction_keeps_authoriser: false,
    modern_redaction: false,
};
const V2: Rules = Rules { version: 2, resolution: Resolution::V2, ..V1 };
const V3: Rules = Rules { version: 3, event_ids: EventIds::Hash, redaction_in_auth: false, ..V2 };
const V4: Rules = Rules { version: 4, event_ids: EventIds::UrlSafeHash, ..V3 };
const V5: Rules = Rules { version: 5, key_validity: true, ..V4 };
const V6: Rules =
    Rules { version: 6, numbers: Numbers::Strict, special_aliases: false, limited_notifications: true, ..V5 };
const V7: Rules = Rules { version: 7, knocking: true, ..V6 };
const V8: Rules = Rules { version: 8, restricted: true, redaction_keeps_allow: true, ..V7 };
const V9: Rules = Rules { version: 9, redaction_keeps_authoriser: true, ..V8 };
const V10: Rules = Rules { version: 10, knock_restricted: true, integer_levels: true, ..V9 };
const V11: Rules = Rules { version: 11, creator_is_sender: true, modern_redaction: true, ..V10 };
const V12: Rules =
    Rules { version: 12, privileged_creators: true, room_id_is_hash: true, resolution: Resolution::V2_1, ..V11 };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_one_row_and_its_own_name() {
        for (index, row) in ALL.iter().enumerate() {
            assert_eq!(usize::from(row.version), index + 1);
            assert_eq!(rules(&row.id()), Some(row));
        }
    }

    #[test]
    fn a_version_from_nowhere_has_no_rules() {
        for name in ["", "0", "13", "01", "+1", "org.example.fancy"] {
            assert_eq!(by_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_flags_agree_with_those_that_ruma_has() {
        for row in ALL {
            let theirs = row.id().rules().expect("ruma knows the stable versions");
            let auth = &theirs.authorization;
            assert_eq!(row.redaction_in_auth, auth.special_case_room_redaction);
            assert_eq!(row.special_aliases, auth.special_case_room_aliases);
            assert_eq!(row.numbers == Numbers::Strict, auth.strict_canonical_json);
            assert_eq!(row.limited_notifications, auth.limit_notifications_power_levels);
            assert_eq!(row.knocking, auth.knocking);
            assert_eq!(row.restricted, auth.restricted_join_rule);
            assert_eq!(row.knock_restricted, auth.knock_restricted_join_rule);
            assert_eq!(row.integer_levels, auth.integer_power_levels);
            assert_eq!(row.creator_is_sender, auth.use_room_create_sender);
            assert_eq!(row.privileged_creators, auth.explicitly_privilege_room_creators);
            assert_eq!(row.room_id_is_hash, auth.room_create_event_id_as_room_id);
            assert_eq!(row.key_validity, theirs.enforce_key_validity);
            assert_eq!(row.redaction_keeps_allow, theirs.redaction.keep_room_join_rules_allow);
            assert_eq!(
                row.redaction_keeps_authoriser,
                theirs.redaction.keep_room_member_join_authorised_via_users_server
            );
            assert_eq!(row.modern_redaction, theirs.redaction.keep_room_create_content);
            assert_eq!(row.special_aliases, theirs.redaction.keep_room_aliases_aliases);
        }
    }
}
