//! Which events are in the auth chains of some states and not of all, in one walk: however many states there are, each
//! event is looked up once.

use std::collections::{BTreeSet, HashMap, HashSet};

use ruma::OwnedEventId;

use super::{Lookup, MAX_CHAIN, ResolveError};

/// The events in the auth chain of some of these sets of events, but not of all.
pub(super) fn difference(
    sets: &[BTreeSet<&OwnedEventId>],
    lookup: &Lookup<'_>,
) -> Result<HashSet<OwnedEventId>, ResolveError> {
    let all: BTreeSet<&OwnedEventId> = sets.iter().flatten().copied().collect();
    let Reached { ids, auth } = Reached::read(&all, lookup)?;
    let words = sets.len().div_ceil(64);
    // Which of the sets each event is in itself, and whose chains it is in: one bit for each set.
    let mut own = vec![0u64; ids.len() * words];
    let mut chains = own.clone();
    // They were reached in their order, first of all.
    for (at, id) in all.iter().enumerate() {
        for number in (0..sets.len()).filter(|number| sets[*number].contains(id)) {
            own[at * words + number / 64] |= 1 << (number % 64);
        }
    }
    let (order, has_cycle) = order(&auth);
    let mut again = true;
    while std::mem::take(&mut again) {
        for at in &order {
            for (auth, word) in auth[*at].iter().flat_map(|auth| (0..words).map(move |word| (auth, word))) {
                let above = own[at * words + word] | chains[at * words + word];
                let below = &mut chains[auth * words + word];
                again |= has_cycle && above & !*below != 0;
                *below |= above;
            }
        }
    }
    let count = |at: usize| chains[at * words..][..words].iter().map(|word| word.count_ones() as usize).sum::<usize>();
    let of_some = ids.into_iter().enumerate().filter(|(at, _)| (1..sets.len()).contains(&count(*at)));
    Ok(of_some.map(|(_, id)| id).collect())
}

/// Some events, and all that they rest on.
struct Reached {
    ids: Vec<OwnedEventId>,
    /// The auth events of each, by their places.
    auth: Vec<Vec<usize>>,
}

impl Reached {
    fn read(from: &BTreeSet<&OwnedEventId>, lookup: &Lookup<'_>) -> Result<Self, ResolveError> {
        let mut ids: Vec<OwnedEventId> = from.iter().map(|id| (*id).clone()).collect();
        let mut places: HashMap<OwnedEventId, usize> = ids.iter().cloned().zip(0..).collect();
        let mut auth = Vec::new();
        while auth.len() < ids.len() {
            let event = lookup.find(&ids[auth.len()])?;
            let mut own = Vec::with_capacity(event.auth_events.len());
            for id in &event.auth_events {
                let place = *places.entry(id.clone()).or_insert_with(|| {
                    ids.push(id.clone());
                    ids.len() - 1
                });
                own.push(place);
            }
            auth.push(own);
            if ids.len() > MAX_CHAIN {
                return Err(ResolveError::TooLarge);
            }
        }
        Ok(Self { ids, auth })
    }
}

/// An order in which every event comes before its auth events, and whether there is none: then those in and below a
/// cycle come last.
fn order(auth: &[Vec<usize>]) -> (Vec<usize>, bool) {
    let mut named = vec![0usize; auth.len()];
    auth.iter().flatten().for_each(|at| named[*at] += 1);
    let mut order: Vec<usize> = (0..auth.len()).filter(|at| named[*at] == 0).collect();
    let mut next = 0;
    while let Some(at) = order.get(next).copied() {
        next += 1;
        for below in &auth[at] {
            named[*below] -= 1;
            if named[*below] == 0 {
                order.push(*below);
            }
        }
    }
    let has_cycle = order.len() < auth.len();
    order.extend((0..auth.len()).filter(|at| named[*at] > 0));
    (order, has_cycle)
}
