//! Pushers: where the caller's notifications go. Read by hand, so that whoever sets one wrongly is told what is wrong.
//!
//! Spec: client-server-api#push-notifications

use http::Uri;
use serde_json::{Map, Value, json};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    store::schema::push::PusherRow,
    users::pushers::{self, Key},
};

/// The path that the address of every push gateway has.  Spec: push-gateway-api#post_matrixpushv1notify
const GATEWAY: &str = "/_matrix/push/v1/notify";
/// How long an application ID may be, in characters.
const LONGEST_APP: usize = 64;
/// How long a push key may be, in bytes.
const LONGEST_KEY: usize = 512;
/// How long any other text may be, in bytes.
const LONGEST_TEXT: usize = 1_024;
/// How large `data` may be, in bytes.
const LARGEST_DATA: usize = 8 << 10;

/// Lists them.
pub async fn list(ctx: Ctx, user: User, _: Raw) -> Result<Reply> {
    let pushers = pushers::of_user(&ctx.store, user.number)?;
    Reply::value(&json!({ "pushers": pushers.into_iter().map(|(key, row)| shown(&key, row)).collect::<Vec<_>>() }))
}

fn shown(key: &Key, row: PusherRow) -> Value {
    let mut data: Map<String, Value> = serde_json::from_str(&row.data).unwrap_or_default();
    data.insert("url".to_owned(), row.url.into());
    let mut pusher = json!({
        "pushkey": key.pushkey,
        "kind": "http",
        "app_id": key.app_id,
        "app_display_name": row.app_display_name,
        "device_display_name": row.device_display_name,
        "lang": row.lang,
        "data": data,
    });
    if let Some(tag) = row.profile_tag {
        pusher["profile_tag"] = tag.into();
    }
    pusher
}

/// Makes, changes or removes one.
pub async fn set(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    let body: Map<String, Value> = raw.json().await?;
    let key = Key { app_id: text(&body, "app_id")?, pushkey: text(&body, "pushkey")? };
    match body.get("kind") {
        None => return Err(Error::missing_param("kind is missing: \"http\", or null to remove the pusher")),
        Some(Value::Null) => {
            pushers::remove(&ctx.users, user.number, &key).await?;
            return Ok(Reply::empty());
        }
        Some(Value::String(kind)) if kind == "http" => {}
        Some(Value::String(kind)) if kind == "email" => {
            return Err(Error::invalid_param("this server sends no e-mail, so there are no pushers of this kind"));
        }
        Some(_) => return Err(Error::invalid_param("there are no pushers of this kind; there is \"http\"")),
    }
    if key.app_id.chars().count() > LONGEST_APP || key.pushkey.len() > LONGEST_KEY {
        let message = format!("app_id has at most {LONGEST_APP} characters, and pushkey {LONGEST_KEY} bytes");
        return Err(Error::invalid_param(message));
    }
    if key.app_id.is_empty() || key.pushkey.is_empty() {
        return Err(Error::invalid_param("app_id and pushkey may not be empty"));
    }
    let (url, data) = data(&ctx, &body)?;
    let more = match body.get("append") {
        None | Some(Value::Null) => false,
        Some(append) => append.as_bool().ok_or_else(|| Error::invalid_param("append is true or false"))?,
    };
    let row = PusherRow {
        device: user.device.to_string(),
        app_display_name: short(&body, "app_display_name")?,
        device_display_name: short(&body, "device_display_name")?,
        profile_tag: body
            .get("profile_tag")
            .filter(|tag| !tag.is_null())
            .map(|_| short(&body, "profile_tag"))
            .transpose()?,
        lang: short(&body, "lang")?,
        url,
        data,
        set_at: ctx.clock.now(),
    };
    pushers::set(&ctx.users, user.number, key, row, more).await?;
    Ok(Reply::empty())
}

fn text(body: &Map<String, Value>, field: &str) -> Result<String> {
    match body.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Null) | None => Err(Error::missing_param(format!("{field} is missing"))),
        Some(_) => Err(Error::invalid_param(format!("{field} is a text"))),
    }
}

fn short(body: &Map<String, Value>, field: &str) -> Result<String> {
    text(body, field).and_then(|text| match text.len() > LONGEST_TEXT {
        true => Err(Error::invalid_param(format!("{field} has at most {LONGEST_TEXT} bytes"))),
        false => Ok(text),
    })
}

/// The address of the gateway, and everything else that it is told, as JSON text.
fn data(ctx: &Ctx, body: &Map<String, Value>) -> Result<(String, String)> {
    let mut data = match body.get("data") {
        Some(Value::Object(data)) => data.clone(),
        Some(Value::Null) | None => return Err(Error::missing_param("data is missing")),
        Some(_) => return Err(Error::invalid_param("data is an object")),
    };
    let url = match data.remove("url") {
        Some(Value::String(url)) => url,
        Some(_) => return Err(Error::invalid_param("data.url is a text")),
        None => return Err(Error::missing_param("data.url is missing")),
    };
    let uri: Option<Uri> = url.parse().ok().filter(|uri: &Uri| uri.host().is_some() && url.len() <= LONGEST_TEXT);
    // On a test bed, where gateways are on this machine, they may do without certificates.
    let plain = ctx.config.federation.allow_private_addresses;
    let good = uri.is_some_and(|uri| {
        let scheme = uri.scheme_str();
        uri.path() == GATEWAY && (scheme == Some("https") || (plain && scheme == Some("http")))
    });
    if !good {
        return Err(Error::invalid_param(format!("data.url is an address such as https://push.example.org{GATEWAY}")));
    }
    match data.get("format") {
        None => {}
        Some(Value::String(format)) if format == "event_id_only" => {}
        Some(_) => return Err(Error::invalid_param("data.format is \"event_id_only\", or is left out")),
    }
    let json = Value::Object(data).to_string();
    match json.len() > LARGEST_DATA {
        true => Err(Error::invalid_param(format!("data has at most {LARGEST_DATA} bytes"))),
        false => Ok((url, json)),
    }
}
