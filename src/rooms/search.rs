//! Finding what was said: the words of a question against the words of all events that somebody may see.
//!
//! Every word must occur; one of three letters or more also finds words that begin with it, which counts half. What
//! can be found is written by [`super::projections::search`]. Looking through the words of 100,000 messages takes a few
//! milliseconds; only the best of what fits is then read, to see whether it may be shown.
//!
//! Spec: client-server-api#server-side-search

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ruma::{OwnedUserId, UserId, events::room::member::MembershipState};

use super::{
    Rooms, access,
    cache::Known,
    filter::EventFilter,
    projections::search::text,
    read::{self, Surroundings},
    relations,
    view::Viewer,
};
use crate::{
    error::{Error, Result},
    protocol::words,
    store::schema::{
        EventNo, RoomNo, numbers,
        rooms::USER_ROOMS,
        search::{Field, Found, Packed, SEARCH_BLOCKS, SEARCH_TAIL},
    },
};

/// How many results a page holds, unless the client says otherwise, and at most.
const USUAL: usize = 10;
const MOST: usize = 100;
/// How many words of a question count.
const MOST_WORDS: usize = 16;
/// How many events are ordered, and how many of the first are read.
const MOST_FITTING: usize = 50_000;
const MOST_READ: usize = 1_000;
/// How many events of context a result has at most, on each side.
const MOST_CONTEXT: u64 = 20;
/// From which length on the beginning of a word is enough, in letters.
const BEGINNING: usize = 3;
/// How much a whole word counts, and the beginning of one.
const WHOLE: u32 = 2;
const PART: u32 = 1;

/// What somebody looks for.
#[derive(Debug, Default)]
pub struct Query {
    /// The words.
    pub term: String,
    /// The fields in which they may stand.
    pub fields: Vec<Field>,
    /// Which events.
    pub filter: EventFilter,
    /// Whether the newest come first, and not those that fit best.
    pub recent: bool,
    /// By what the results are grouped.
    pub groups: Vec<Grouping>,
    /// Where an earlier page ended.
    pub from: Option<String>,
}

/// By what results can be grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grouping {
    /// By room.
    Room,
    /// By sender.
    Sender,
}

/// A page of what was found.
#[derive(Debug, Default)]
pub struct Page {
    /// About how many there are in all.
    pub count: usize,
    /// The words that were found, as they are written in the results.
    pub highlights: BTreeSet<String>,
    /// The results in their order, with their rank.
    pub results: Vec<(f64, Arc<Known>)>,
    /// The groups that were asked for.
    pub groups: BTreeMap<Grouping, BTreeMap<String, Group>>,
    /// Where the next page begins.
    pub next: Option<String>,
}

/// Results that have something in common.
#[derive(Debug, Default)]
pub struct Group {
    /// Which place it has among the groups.
    pub order: usize,
    /// Its results on this page.
    pub results: Vec<Arc<Known>>,
    /// Where the next page of this group begins.
    pub next: Option<String>,
}

/// An event with all the words.
struct Fitting {
    room: RoomNo,
    found: Found,
    /// How much of each word it has.
    weights: Vec<u32>,
}

/// How many events there are, and how many of them have each word.
struct Corpus {
    events: u64,
    length: u64,
    with: Vec<u64>,
}

/// Where a page begins: how many results come before it, up to which event the first page has looked, and in which
/// group.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    start: usize,
    newest: EventNo,
    group: Option<(Grouping, String)>,
}

/// Looks for what a viewer may see.
///
/// Errors: 400 `M_INVALID_PARAM` for a token that this server has not given.
pub fn search(rooms: &Rooms, viewer: &Viewer<'_>, query: &Query) -> Result<Page> {
    let place = match &query.from {
        Some(token) => {
            Place::parse(token).ok_or_else(|| Error::invalid_param("this token was not given by this server"))?
        }
        // What comes in from now on does not move the pages.
        None => Place { start: 0, newest: EventNo(rooms.store.write().number()), group: None },
    };
    let wanted = asked(&query.term);
    if wanted.is_empty() {
        return Ok(Page::default());
    }
    let mut fitting = Vec::new();
    let mut corpus = Corpus { events: 0, length: 0, with: vec![0; wanted.len()] };
    for room in rooms_of(rooms, viewer.user(), &query.filter)? {
        look_through(rooms, room, query, &wanted, place.newest, &mut corpus, &mut fitting)?;
    }
    let ordered = order(fitting, &corpus, query.recent);
    let mut all = Vec::new();
    for (rank, number) in ordered.into_iter().take(MOST_READ) {
        let Some(known) = readable(rooms, number)? else { continue };
        let shown = known.redacted_by.is_none()
            && query.filter.wants(rooms, &known)?
            && !viewer.ignores(&known)?
            && viewer.may_see(&known)?
            && !viewer.hides(&known)?;
        if shown {
            all.push((rank, known));
        }
    }
    page(rooms, viewer, query, &wanted, &place, all)
}

/// The folded words of a question.
fn asked(term: &str) -> Vec<String> {
    let words: BTreeSet<String> = words::counted(term).into_keys().take(MOST_WORDS).collect();
    words.into_iter().collect()
}

/// An event, unless it was removed since it was found.
fn readable(rooms: &Rooms, number: EventNo) -> Result<Option<Arc<Known>>> {
    use crate::store::schema::events::EVENTS;
    match rooms.store.contains(EVENTS, &number)? {
        true => rooms.known(number).map(Some),
        false => Ok(None),
    }
}

/// The rooms that a user is or has been in and has not forgotten, which are wanted and not encrypted.
fn rooms_of(rooms: &Rooms, user: &UserId, filter: &EventFilter) -> Result<Vec<RoomNo>> {
    let Some(user) = numbers::find_user(&rooms.store, user)? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for row in rooms.store.scan(USER_ROOMS, &(user,)) {
        let ((_, room), row) = row?;
        let open = match row.membership {
            MembershipState::Join => true,
            _ => !row.forgotten && access::departure(rooms, row.event)?.is_some(),
        };
        if !open || !numbers::room_id(&rooms.store, room)?.is_some_and(|id| filter.wants_room(id.as_str())) {
            continue;
        }
        let current = rooms.current(room)?;
        if rooms.in_state(&current, "m.room.encryption", "")?.is_none() {
            found.push(room);
        }
    }
    Ok(found)
}

/// Finds the events of a room that have all the words.
fn look_through(
    rooms: &Rooms,
    room: RoomNo,
    query: &Query,
    wanted: &[String],
    newest: EventNo,
    corpus: &mut Corpus,
    fitting: &mut Vec<Fitting>,
) -> Result<()> {
    let mut seen = BTreeSet::new();
    // An event that is moving into a block is in both: the tail is read first.
    for row in rooms.store.scan(SEARCH_TAIL, &(room,)) {
        let (_, row) = row?;
        look_into(&row, room, query, wanted, newest, corpus, |fits| {
            seen.insert(fits.found.event);
            fitting.push(fits);
        })?;
    }
    for row in rooms.store.scan(SEARCH_BLOCKS, &(room,)).rev() {
        if fitting.len() >= MOST_FITTING {
            break;
        }
        let (_, row) = row?;
        look_into(&row, room, query, wanted, newest, corpus, |fits| {
            if !seen.contains(&fits.found.event) {
                fitting.push(fits);
            }
        })?;
    }
    Ok(())
}

fn look_into(
    row: &Packed,
    room: RoomNo,
    query: &Query,
    wanted: &[String],
    newest: EventNo,
    corpus: &mut Corpus,
    mut fits: impl FnMut(Fitting),
) -> Result<()> {
    let mut weights = BTreeMap::<usize, Vec<u32>>::new();
    let events = row.read(|word, places| {
        let how_well = |wanted: &String| how_well(word, wanted);
        if wanted.iter().all(|wanted| how_well(wanted) == 0) {
            return;
        }
        for (nth, count) in places {
            let weights = weights.entry(nth).or_insert_with(|| vec![0; wanted.len()]);
            for (weight, wanted) in weights.iter_mut().zip(wanted) {
                *weight += how_well(wanted) * u32::from(count);
            }
        }
    });
    let events = events.ok_or_else(|| Error::internal("a row of the search index cannot be read"))?;
    for (nth, found) in events.into_iter().enumerate() {
        if found.event > newest || !query.fields.contains(&found.field) {
            continue;
        }
        corpus.events += 1;
        corpus.length += found.length;
        let Some(weights) = weights.remove(&nth) else { continue };
        for (with, weight) in corpus.with.iter_mut().zip(&weights) {
            *with += u64::from(*weight > 0);
        }
        if weights.iter().all(|weight| *weight > 0) {
            fits(Fitting { room, found, weights });
        }
    }
    Ok(())
}

/// How well a word is what is wanted; not at all is 0.
fn how_well(word: &[u8], wanted: &str) -> u32 {
    match word.strip_prefix(wanted.as_bytes()) {
        Some([]) => WHOLE,
        Some(_) if wanted.chars().nth(BEGINNING - 1).is_some() => PART,
        _ => 0,
    }
}

/// The events in the order in which they are shown, each with its rank.
fn order(fitting: Vec<Fitting>, corpus: &Corpus, recent: bool) -> Vec<(f64, EventNo)> {
    let usual = (corpus.length as f64 / corpus.events.max(1) as f64).max(1.0);
    let rare: Vec<f64> =
        corpus.with.iter().map(|with| (1.0 + corpus.events as f64 / (*with).max(1) as f64).ln()).collect();
    let mut ranked: Vec<(f64, Fitting)> = fitting.into_iter().map(|fits| (rank(&fits, &rare, usual), fits)).collect();
    let later = |one: &Fitting, other: &Fitting| -> Ordering {
        let key = |fits: &Fitting| (fits.found.at, fits.found.event, fits.room);
        key(other).cmp(&key(one))
    };
    ranked.sort_by(|(one_rank, one), (other_rank, other)| match recent {
        true => later(one, other),
        false => other_rank.total_cmp(one_rank).then_with(|| later(one, other)),
    });
    ranked.into_iter().map(|(rank, fits)| (rank, fits.found.event)).collect()
}

/// How well an event fits, after Okapi BM25: rare words count more, and so does a word that stands in a short text.
fn rank(fits: &Fitting, rare: &[f64], usual: f64) -> f64 {
    let length = 0.25 + 0.75 * fits.found.length as f64 / usual;
    let words = fits.weights.iter().zip(rare).map(|(weight, rare)| {
        let weight = f64::from(*weight) / f64::from(WHOLE);
        rare * weight * 2.2 / (weight + 1.2 * length)
    });
    words.sum()
}

/// Cuts the page out of everything that may be shown.
fn page(
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    query: &Query,
    wanted: &[String],
    place: &Place,
    all: Vec<(f64, Arc<Known>)>,
) -> Result<Page> {
    let count = all.len();
    let of_group = |known: &Known| place.group.as_ref().is_none_or(|(grouping, name)| grouping.of(known) == *name);
    let all: Vec<_> = all.into_iter().filter(|(_, known)| of_group(known)).collect();
    let limit = query.filter.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(USUAL).clamp(1, MOST);
    let start = place.start.min(all.len());
    let end = (start + limit).min(all.len());
    let mut page = Page { count, ..Page::default() };
    page.next = (end < all.len()).then(|| Place { start: end, ..place.clone() }.to_string());
    for grouping in &query.groups {
        page.groups.insert(*grouping, groups(&all, (start, end), *grouping, place));
    }
    page.results = all.into_iter().skip(start).take(end - start).collect();
    for (_, known) in &page.results {
        highlight(&mut page.highlights, rooms, viewer, known, wanted)?;
    }
    Ok(page)
}

/// The groups of the results on this page.
fn groups(
    all: &[(f64, Arc<Known>)],
    (start, end): (usize, usize),
    grouping: Grouping,
    place: &Place,
) -> BTreeMap<String, Group> {
    let mut groups = BTreeMap::<String, Group>::new();
    for (_, known) in &all[start..end] {
        let order = groups.len();
        let group = groups.entry(grouping.of(known)).or_insert_with(|| Group { order, ..Group::default() });
        group.results.push(Arc::clone(known));
    }
    for (name, group) in &mut groups {
        let in_group = |(_, known): &&(f64, Arc<Known>)| grouping.of(known) == *name;
        if all[end..].iter().any(|result| in_group(&result)) {
            let before = all[..end].iter().filter(in_group).count();
            let group_of = Some((grouping, name.clone()));
            group.next = Some(Place { start: before, newest: place.newest, group: group_of }.to_string());
        }
    }
    groups
}

/// The words of a result that made it one, as they are written there.
fn highlight(
    highlights: &mut BTreeSet<String>,
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    known: &Known,
    wanted: &[String],
) -> Result<()> {
    let edit = relations::newest_edit(rooms, viewer, known)?;
    let edited = edit.as_ref().and_then(|edit| edit.event.content_value("m.new_content"));
    let edited = edited.as_ref().and_then(|content| Some(content.get("body")?.as_str()?.to_owned()));
    let shown = edited.or_else(|| text(&known.event).map(|(_, text)| text)).unwrap_or_default();
    for word in words::written(&shown) {
        let folded = words::fold(word);
        if highlights.len() < MOST && wanted.iter().any(|wanted| how_well(folded.as_bytes(), wanted) > 0) {
            highlights.insert(word.to_lowercase());
        }
    }
    Ok(())
}

/// A result with what happened around it.
pub struct Context {
    /// The events.
    pub surroundings: Surroundings,
    /// The names and avatars that the senders had then: the content of their member events.
    pub profiles: Vec<(OwnedUserId, Arc<Known>)>,
}

/// What happened around a result.
pub fn context(
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    known: &Arc<Known>,
    (before, after): (u64, u64),
    with_profiles: bool,
) -> Result<Context> {
    let most = |asked: u64| usize::try_from(asked.min(MOST_CONTEXT)).unwrap_or_default();
    let limits = (most(before), most(after));
    let surroundings = read::surroundings(rooms, viewer, known, limits, &EventFilter::default())?;
    let mut profiles = Vec::new();
    if with_profiles {
        let events = surroundings.before.iter().chain(&surroundings.after).chain([known]);
        let senders: BTreeSet<&OwnedUserId> = events.map(|known| &known.event.sender).collect();
        let state = rooms.state_after(known)?.unwrap_or_default();
        for sender in senders {
            if let Some(member) = rooms.in_state(&state, "m.room.member", sender.as_str())? {
                profiles.push((sender.clone(), member));
            }
        }
    }
    Ok(Context { surroundings, profiles })
}

impl Grouping {
    /// What the events of a group have in common.
    fn of(self, known: &Known) -> String {
        match self {
            Self::Room => known.event.room_id.to_string(),
            Self::Sender => known.event.sender.to_string(),
        }
    }
}

impl Place {
    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.strip_prefix('f')?.splitn(3, '.');
        let (start, newest) = (parts.next()?.parse().ok()?, EventNo(parts.next()?.parse().ok()?));
        let group = match parts.next() {
            None => None,
            Some(group) => Some(match group.split_at_checked(1)? {
                ("r", name) => (Grouping::Room, name.to_owned()),
                ("s", name) => (Grouping::Sender, name.to_owned()),
                _ => return None,
            }),
        };
        Some(Self { start, newest, group })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "f{}.{}", self.start, self.newest)?;
        match &self.group {
            None => Ok(()),
            Some((Grouping::Room, name)) => write!(f, ".r{name}"),
            Some((Grouping::Sender, name)) => write!(f, ".s{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written() {
        for group in [None, Some((Grouping::Room, "!a.b:c".to_owned())), Some((Grouping::Sender, "@ann:c".to_owned()))]
        {
            let place = Place { start: 7, newest: EventNo(9), group };
            assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
        for wrong in ["", "f", "f1", "fx.1", "f1.2.", "f1.2.x", "s1.2"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_beginning_of_a_word_counts_half() {
        assert_eq!(how_well(b"photos", "photos"), WHOLE);
        assert_eq!(how_well(b"photos", "photo"), PART);
        assert_eq!(how_well(b"photos", "ph"), 0);
        assert_eq!(how_well(b"photo", "photos"), 0);
    }

    #[test]
    fn rare_words_and_short_texts_come_first() {
        let fits = |event, length, weights: &[u32]| Fitting {
            room: RoomNo(1),
            found: Found { event: EventNo(event), at: event, field: Field::Body, length },
            weights: weights.to_vec(),
        };
        let all = || vec![fits(1, 4, &[2, 2]), fits(2, 40, &[2, 2]), fits(3, 40, &[2, 4]), fits(4, 40, &[4, 2])];
        let corpus = Corpus { events: 100, length: 1_000, with: vec![50, 4] };
        let order = |recent| order(all(), &corpus, recent).into_iter().map(|(_, event)| event.0).collect::<Vec<_>>();
        assert_eq!(order(false), [1, 3, 4, 2]);
        assert_eq!(order(true), [4, 3, 2, 1]);
    }
}
