//! Searching what was said.
//!
//! Spec: client-server-api#post_matrixclientv3search

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::rooms::{list, text};
use crate::{
    app::Ctx,
    error::{Error, Result},
    heavy,
    http::{Raw, Reply, User},
    rooms::{
        Rooms, access,
        cache::Known,
        filter::EventFilter,
        search::{self, Grouping, Page, Query},
        view::Viewer,
    },
    store::schema::search::Field,
};

#[derive(Deserialize)]
struct Body {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

/// ruma's type does not know all fields of the filter, nor whether context was asked for.
#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<String>>,
    filter: Option<Box<RawValue>>,
    order_by: Option<String>,
    event_context: Option<EventContext>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Deserialize)]
struct EventContext {
    #[serde(default = "usual_context")]
    before_limit: u64,
    #[serde(default = "usual_context")]
    after_limit: u64,
    #[serde(default)]
    include_profile: bool,
}

fn usual_context() -> u64 {
    5
}

#[derive(Deserialize, Default)]
struct Groupings {
    #[serde(default)]
    group_by: Vec<GroupBy>,
}

#[derive(Deserialize)]
struct GroupBy {
    key: Option<String>,
}

/// Answers what was found.
pub async fn search(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let from = raw.parameter("next_batch").filter(|from| !from.is_empty());
    let body: Body = raw.json().await?;
    let Some(criteria) = body.search_categories.room_events else {
        return Ok(Reply::json("{\"search_categories\":{}}".to_owned()));
    };
    let query = query(&criteria, from)?;
    let rooms = ctx.rooms.clone();
    let work = move || {
        let viewer = Viewer::new(&rooms, &user.id, Some(&user.device))?;
        let page = search::search(&rooms, &viewer, &query)?;
        json(&rooms, &viewer, &criteria, &page)
    };
    let found = heavy::run(work).await??;
    Ok(Reply::json(format!("{{\"search_categories\":{{\"room_events\":{found}}}}}")))
}

fn query(criteria: &Criteria, from: Option<String>) -> Result<Query> {
    let field = |key: &String| match key.as_str() {
        "content.body" => Some(Field::Body),
        "content.name" => Some(Field::Name),
        "content.topic" => Some(Field::Topic),
        _ => None,
    };
    let fields = match &criteria.keys {
        Some(keys) => keys.iter().filter_map(field).collect(),
        None => vec![Field::Body, Field::Name, Field::Topic],
    };
    let recent = match criteria.order_by.as_deref() {
        None | Some("rank") => false,
        Some("recent") => true,
        Some(other) => return Err(Error::invalid_param(format!("order_by is rank or recent, not {other}"))),
    };
    let mut groups = Vec::new();
    for key in criteria.groupings.group_by.iter().filter_map(|by| by.key.as_deref()) {
        groups.push(match key {
            "room_id" => Grouping::Room,
            "sender" => Grouping::Sender,
            other => {
                return Err(Error::invalid_param(format!("results are grouped by room_id or sender, not {other}")));
            }
        });
    }
    let filter = criteria.filter.as_ref().map(|filter| EventFilter::parse(filter.get())).transpose()?;
    let term = criteria.search_term.clone();
    Ok(Query { term, fields, filter: filter.unwrap_or_default(), recent, groups, from })
}

fn json(rooms: &Rooms, viewer: &Viewer<'_>, criteria: &Criteria, page: &Page) -> Result<String> {
    let highlights: Vec<String> = page.highlights.iter().map(|word| text(word)).collect();
    let mut results = Vec::new();
    for (rank, known) in &page.results {
        let mut result = format!("{{\"rank\":{rank},\"result\":{}", viewer.event(known, true)?);
        if let Some(wish) = &criteria.event_context {
            let _ = write!(result, ",\"context\":{}", context(rooms, viewer, wish, known)?);
        }
        result.push('}');
        results.push(result);
    }
    let mut out =
        format!("{{\"count\":{},\"highlights\":{},\"results\":{}", page.count, list(&highlights), list(&results));
    if !page.groups.is_empty() {
        let _ = write!(out, ",\"groups\":{}", groups(page));
    }
    if criteria.include_state {
        let _ = write!(out, ",\"state\":{}", state(rooms, viewer, page)?);
    }
    if let Some(next) = &page.next {
        let _ = write!(out, ",\"next_batch\":{}", text(next));
    }
    out.push('}');
    Ok(out)
}

fn context(rooms: &Rooms, viewer: &Viewer<'_>, wish: &EventContext, known: &std::sync::Arc<Known>) -> Result<String> {
    let limits = (wish.before_limit, wish.after_limit);
    let context = search::context(rooms, viewer, known, limits, wish.include_profile)?;
    let events = |events: &[std::sync::Arc<Known>]| -> Result<String> {
        Ok(list(&events.iter().map(|known| viewer.event(known, true)).collect::<Result<Vec<_>>>()?))
    };
    let around = &context.surroundings;
    let mut out = format!(
        "{{\"start\":{},\"end\":{},\"events_before\":{},\"events_after\":{}",
        text(&around.start.to_string()),
        text(&around.end.to_string()),
        events(&around.before)?,
        events(&around.after)?,
    );
    if wish.include_profile {
        let profiles = context.profiles.iter().map(|(user, member)| {
            let field = |name: &str| {
                let value = member.event.content_field::<String>(name)?;
                Some(format!("{}:{}", text(name), text(&value)))
            };
            let fields: Vec<String> = ["displayname", "avatar_url"].into_iter().filter_map(field).collect();
            format!("{}:{{{}}}", text(user.as_str()), fields.join(","))
        });
        let _ = write!(out, ",\"profile_info\":{{{}}}", profiles.collect::<Vec<_>>().join(","));
    }
    out.push('}');
    Ok(out)
}

fn groups(page: &Page) -> String {
    let groupings = page.groups.iter().map(|(grouping, groups)| {
        let groups = groups.iter().map(|(name, group)| {
            let ids: Vec<String> = group.results.iter().map(|known| text(known.event.event_id.as_str())).collect();
            let next = group.next.as_ref().map(|next| format!(",\"next_batch\":{}", text(next))).unwrap_or_default();
            format!("{}:{{\"order\":{},\"results\":{}{next}}}", text(name), group.order, list(&ids))
        });
        let name = match grouping {
            Grouping::Room => "room_id",
            Grouping::Sender => "sender",
        };
        format!("\"{name}\":{{{}}}", groups.collect::<Vec<_>>().join(","))
    });
    format!("{{{}}}", groupings.collect::<Vec<_>>().join(","))
}

/// The state of every room in the results, as far as the viewer may look at it.
fn state(rooms: &Rooms, viewer: &Viewer<'_>, page: &Page) -> Result<String> {
    let ids: std::collections::BTreeSet<_> = page.results.iter().map(|(_, known)| &known.event.room_id).collect();
    let mut states = Vec::new();
    for id in ids {
        let (_, state) = access::state(rooms, id, viewer.user())?;
        let events = state.iter().map(|(_, number)| viewer.event(&*rooms.known(number)?, true));
        states.push(format!("{}:{}", text(id.as_str()), list(&events.collect::<Result<Vec<_>>>()?)));
    }
    Ok(format!("{{{}}}", states.join(",")))
}
