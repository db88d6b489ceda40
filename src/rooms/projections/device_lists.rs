//! Who joins and leaves, for those who have to know the keys of everybody they share a room with.

use ruma::{UserId, events::room::member::MembershipState};

use crate::{
    error::Result,
    rooms::{append::StateDelta, cache::Known},
    store::{
        Write,
        schema::{
            e2ee::{LIST_CHANGES, ListChange},
            numbers,
        },
    },
};

/// Adds a row to the log of device lists when somebody joins or is no longer joined. Who has to be told
/// is found by its reader; everybody in the room is woken by the event.
pub fn project(write: &mut Write, delta: &StateDelta<'_>) -> Result<()> {
    if delta.kind != "m.room.member" {
        return Ok(());
    }
    let joined =
        |known: Option<&Known>| known.is_some_and(|known| known.event.membership() == Some(MembershipState::Join));
    let change = match (joined(delta.old), joined(delta.new)) {
        (false, true) => ListChange::Joined,
        (true, false) => ListChange::Left,
        _ => return Ok(()),
    };
    let Ok(user) = UserId::parse(delta.state_key) else { return Ok(()) };
    let (user, room) = (numbers::user(write, &user)?, delta.room.number);
    write.put_at(LIST_CHANGES, delta.slot, move |at| ((at, user, room), change));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use ruma::{
        OwnedUserId,
        api::client::room::create_room::v3::{Request, RoomPreset},
    };

    use super::*;
    use crate::{
        e2ee::device_lists,
        protocol::canonical::Object,
        rooms::{
            Room, Rooms,
            tests::{new_room, rooms, user},
        },
        store::{Position, schema::UserNo},
    };

    const PEOPLE: usize = 4;
    const ROOMS: usize = 3;

    #[derive(Debug, Clone)]
    enum Step {
        Join(usize, usize),
        Leave(usize, usize),
        /// Somebody's keys change.
        Keys(usize),
        /// Somebody syncs, up to a moment that is this many steps ago.
        Sync(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..PEOPLE, 0..ROOMS).prop_map(|(who, room)| Step::Join(who, room)),
            (0..PEOPLE, 0..ROOMS).prop_map(|(who, room)| Step::Leave(who, room)),
            (0..PEOPLE).prop_map(Step::Keys),
            (0..PEOPLE, prop_oneof![Just(0), 0..4usize]).prop_map(|(who, ago)| Step::Sync(who, ago)),
        ]
    }

    /// How things really are at a position.
    #[derive(Clone)]
    struct Truth {
        at: Position,
        rooms: Vec<BTreeSet<OwnedUserId>>,
        keys: BTreeMap<OwnedUserId, u32>,
    }

    impl Truth {
        /// With whom somebody shares a room.
        fn sharing(&self, user: &UserId) -> BTreeSet<OwnedUserId> {
            let mut all: BTreeSet<_> =
                self.rooms.iter().filter(|room| room.contains(user)).flatten().cloned().collect();
            all.remove(user);
            all
        }
    }

    /// What a client believes that follows what it is told.
    #[derive(Clone, Default)]
    struct Client {
        since: Position,
        keys: BTreeMap<OwnedUserId, u32>,
    }

    fn change_keys(rooms: &Rooms, user: UserNo) {
        let mut write = rooms.store.write();
        device_lists::record(&mut write, user).unwrap();
        drop(write.commit().unwrap());
    }

    fn change_membership(rooms: &Rooms, room: &Room, user: &UserId, join: bool) -> bool {
        let mut deciding = rooms.decide(room);
        let event = match join {
            true => deciding.join(user, None, Object::new()).unwrap(),
            false if deciding.membership(user).unwrap() == MembershipState::Join => deciding.leave(user, None).unwrap(),
            false => None,
        };
        drop(deciding.commit().unwrap());
        event.is_some()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whoever follows `changed` and `left` knows the present keys of exactly those with whom they
        /// share a room.
        #[test]
        fn the_fold_of_device_lists_is_the_truth(steps in proptest::collection::vec(step(), 1..60)) {
            let core = rooms();
            let keeper = user(&core, "keeper");
            let people: Vec<_> = (0..PEOPLE).map(|at| user(&core, &format!("u{at}"))).collect();
            let numbers: Vec<_> = people
                .iter()
                .map(|id| {
                    let mut write = core.store.write();
                    let number = numbers::user(&mut write, id).unwrap();
                    drop(write.commit().unwrap());
                    number
                })
                .collect();
            let public = || {
                let mut request = Request::new();
                request.preset = Some(RoomPreset::PublicChat);
                // The ID of a room is a hash in which its time is the only difference here.
                core.clock.advance(std::time::Duration::from_millis(1));
                new_room(&core, &keeper, request)
            };
            let places: Vec<_> = (0..ROOMS).map(|_| public()).collect();
            let mut truth = Truth {
                at: core.store.position(),
                rooms: vec![BTreeSet::from([keeper.clone()]); ROOMS],
                keys: people.iter().cloned().chain([keeper]).map(|user| (user, 0)).collect(),
            };
            let mut past = vec![truth.clone()];
            let mut clients = vec![Client::default(); PEOPLE];
            for step in steps {
                match step {
                    Step::Join(who, room) => {
                        change_membership(&core, &places[room], &people[who], true);
                        truth.rooms[room].insert(people[who].clone());
                    }
                    Step::Leave(who, room) => {
                        change_membership(&core, &places[room], &people[who], false);
                        truth.rooms[room].remove(&people[who]);
                    }
                    Step::Keys(who) => {
                        change_keys(&core, numbers[who]);
                        *truth.keys.get_mut(&people[who]).unwrap() += 1;
                    }
                    Step::Sync(who, ago) => {
                        let (me, client) = (&people[who], &mut clients[who]);
                        let then = &past[past.len().saturating_sub(1 + ago)];
                        if then.at < client.since {
                            continue;
                        }
                        let changes = device_lists::between(&core.store, numbers[who], client.since, then.at).unwrap();
                        let sharing = then.sharing(me);
                        for left in &changes.left {
                            prop_assert!(!sharing.contains(left), "{left} is still there");
                            prop_assert!(client.keys.remove(left).is_some(), "{left} never was there");
                        }
                        for other in changes.changed.iter().filter(|other| *other != me) {
                            prop_assert!(sharing.contains(other), "{other} shares no room");
                            client.keys.insert(other.clone(), then.keys[other]);
                        }
                        let known: BTreeSet<_> = client.keys.keys().cloned().collect();
                        prop_assert_eq!(known, sharing);
                        client.keys.iter().try_for_each(|(other, keys)| {
                            prop_assert_eq!(keys, &then.keys[other], "the keys of {}", other);
                            Ok(())
                        })?;
                        if changes != Default::default() && ago == 0 {
                            prop_assert!(core.store.wakers().newest(numbers[who]) > client.since, "nobody woke {me}");
                        }
                        client.since = then.at;
                    }
                }
                truth.at = core.store.position();
                past.push(truth.clone());
            }
        }
    }
}
