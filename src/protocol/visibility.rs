//! Who may see which part of a room's past.
//!
//! Looking up states and memberships is the caller's; here is only what they mean. The caller brings
//! what the state *before* an event says; what the event itself changes is taken from it.
//!
//! Spec: client-server-api#server-behaviour-5

use ruma::{ServerName, UserId, events::room::member::MembershipState};

use super::event::Event;

/// What `m.room.history_visibility` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistoryVisibility {
    /// Everybody may see it, members or not.
    WorldReadable,
    /// Members see everything, also what was before they joined. This holds where nothing is said.
    #[default]
    Shared,
    /// One sees what happened since one was invited.
    Invited,
    /// One sees what happened since one joined.
    Joined,
}

/// What an `m.room.history_visibility` event says; a value that is not known counts as `shared`.
pub fn of(event: &Event) -> HistoryVisibility {
    match event.content_field::<String>("history_visibility").as_deref() {
        Some("world_readable") => HistoryVisibility::WorldReadable,
        Some("invited") => HistoryVisibility::Invited,
        Some("joined") => HistoryVisibility::Joined,
        _ => HistoryVisibility::Shared,
    }
}

/// Whether somebody with this membership may see what happens at this moment. Where the visibility is
/// [`HistoryVisibility::Shared`], whoever joins later may see it too.
pub fn allows_at(visibility: HistoryVisibility, membership: &MembershipState) -> bool {
    match membership {
        MembershipState::Join => true,
        MembershipState::Invite => {
            matches!(visibility, HistoryVisibility::WorldReadable | HistoryVisibility::Invited)
        }
        _ => visibility == HistoryVisibility::WorldReadable,
    }
}

/// Whether a user may see an event. `visibility` and `membership` are those before the event, and
/// `joined_since` says whether the user has been in the room at any time after it.
pub fn user_may_see(
    event: &Event,
    user: &UserId,
    visibility: HistoryVisibility,
    membership: &MembershipState,
    joined_since: bool,
) -> bool {
    let allows = |visibility: HistoryVisibility, membership: &MembershipState| {
        allows_at(visibility, membership) || (joined_since && visibility == HistoryVisibility::Shared)
    };
    if allows(visibility, membership) {
        return true;
    }
    if event.is("m.room.history_visibility", "") {
        return allows(of(event), membership);
    }
    if event.is("m.room.member", user.as_str()) {
        return event.membership().is_some_and(|after| allows(visibility, &after));
    }
    false
}

/// Whether a server that is in the room may be given an event, which is whether one of its users may
/// see it. `memberships` are those of the server's users before the event.
/// Spec: server-server-api#backfilling-and-retrieving-missing-events
pub fn server_may_see(
    event: &Event,
    server: &ServerName,
    visibility: HistoryVisibility,
    memberships: impl IntoIterator<Item = MembershipState>,
) -> bool {
    let after = if event.is("m.room.history_visibility", "") { of(event) } else { visibility };
    let either = |wanted| visibility == wanted || after == wanted;
    if either(HistoryVisibility::WorldReadable) || either(HistoryVisibility::Shared) {
        return true;
    }
    let invited = either(HistoryVisibility::Invited);
    let in_room = |membership: MembershipState| {
        membership == MembershipState::Join || (invited && membership == MembershipState::Invite)
    };
    let of_server = |user: &str| <&UserId>::try_from(user).is_ok_and(|user| user.server_name() == server);
    let own = event.membership().filter(|_| event.state_key.as_deref().is_some_and(of_server));
    own.is_some_and(in_room) || memberships.into_iter().any(in_room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::Graph;

    /// A visibility by its name.
    fn named(name: &str) -> HistoryVisibility {
        of(&Graph::chain("11", &format!("x @ann history_visibility {name}")).event("x"))
    }

    #[test]
    fn members_see_the_present_whatever_the_visibility() {
        for visibility in [HistoryVisibility::Joined, HistoryVisibility::Shared] {
            assert!(allows_at(visibility, &MembershipState::Join));
            assert!(!allows_at(visibility, &MembershipState::Invite));
        }
    }

    #[test]
    fn strangers_see_only_what_the_world_may_read() {
        assert!(allows_at(HistoryVisibility::WorldReadable, &MembershipState::Leave));
        assert!(!allows_at(HistoryVisibility::Invited, &MembershipState::Ban));
        assert!(allows_at(HistoryVisibility::Invited, &MembershipState::Invite));
    }

    /// For each visibility, those situations of Bob in which he sees the event.
    fn seen(line: &str) -> String {
        let graph = Graph::chain("11", line);
        let event = graph.event("x");
        let mut out = Vec::new();
        for visibility in ["world_readable", "shared", "invited", "joined", "odd"] {
            let situations = [("join", false), ("invite", false), ("leave", false), ("leave", true)];
            let seen = situations.iter().filter(|(membership, later)| {
                let (visibility, membership) = (named(visibility), (*membership).into());
                user_may_see(&event, "@bob:b".try_into().unwrap(), visibility, &membership, *later)
            });
            let seen: Vec<_> = seen.map(|(membership, later)| if *later { "later" } else { membership }).collect();
            out.push(format!("{visibility}: {}", seen.join(" ")));
        }
        out.join("; ")
    }

    #[test]
    fn a_message_is_seen_by_those_whom_the_setting_names() {
        let visible = "world_readable: join invite leave later; shared: join later; invited: join invite; joined: join; odd: join later";
        assert_eq!(seen("x @ann message hello"), visible);
        assert_eq!(seen("x @ann member eve join"), visible);
        assert_eq!(seen("x @ann topic tea"), visible);
    }

    #[test]
    fn a_change_of_the_setting_is_seen_from_both_sides() {
        assert_eq!(
            seen("x @ann history_visibility world_readable"),
            "world_readable: join invite leave later; shared: join invite leave later; invited: join invite leave later; \
             joined: join invite leave later; odd: join invite leave later"
        );
        assert_eq!(
            seen("x @ann history_visibility joined"),
            "world_readable: join invite leave later; shared: join later; invited: join invite; joined: join; odd: join later"
        );
    }

    #[test]
    fn ones_own_membership_is_seen_from_both_sides() {
        assert!(seen("x @bob:b member bob:b join").contains("joined: join invite leave later"));
        assert!(seen("x @ann member bob:b invite").contains("invited: join invite leave later; joined: join;"));
        assert!(seen("x @bob:b member bob:b leave").contains("joined: join;"));
    }

    #[test]
    fn a_server_sees_what_one_of_its_users_sees() {
        let see = |line: &str, visibility: &str, membership: &str| {
            let graph = Graph::chain("11", line);
            let (server, visibility) = ("b".try_into().unwrap(), named(visibility));
            server_may_see(&graph.event("x"), server, visibility, [MembershipState::Leave, membership.into()])
        };
        let message = "x @ann message hello";
        assert!(see(message, "shared", "leave"));
        assert!(see(message, "joined", "join"));
        assert!(!see(message, "joined", "invite"));
        assert!(see(message, "invited", "invite"));
        assert!(!see(message, "invited", "ban"));
        assert!(see("x @bob:b member bob:b join", "joined", "leave"));
        assert!(!see("x @cat:c member cat:c join", "joined", "leave"));
        assert!(see("x @ann history_visibility shared", "joined", "leave"));
    }
}
