//! Who may see which part of a room's past.
//!
//! Looking up states and memberships is the caller's; here is only what they mean.
//!
//! Spec: client-server-api#server-behaviour-5

use ruma::events::room::member::MembershipState;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
