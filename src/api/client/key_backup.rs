//! Backups of room keys.
//!
//! A backup may hold a hundred thousand keys, so it is read from the store and sent piece by piece.
//!
//! Spec: client-server-api#server-side-key-backups

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::HeaderValue;
use ruma::{
    UInt,
    api::client::backup::{
        KeyBackupData, add_backup_keys, add_backup_keys_for_room, add_backup_keys_for_session, create_backup_version,
        delete_backup_keys, delete_backup_keys_for_room, delete_backup_keys_for_session, delete_backup_version,
        get_backup_info, get_backup_keys, get_backup_keys_for_room, get_backup_keys_for_session,
        get_latest_backup_info, update_backup_version,
    },
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    app::Ctx,
    e2ee::backup::{self, Contents, Part, SessionKey, Walk},
    error::{Error, Result},
    http::{Reply, User},
    protocol::canonical::write_string,
    store::Store,
};

/// How many keys are read and sent at once.
const PIECE: usize = 500;

/// What describes a backup.
#[derive(Deserialize)]
struct Description {
    algorithm: String,
    auth_data: Box<RawValue>,
    version: Option<String>,
}

fn description<T>(raw: &Raw<T>) -> Result<Description> {
    serde_json::from_str(raw.json().get())
        .map_err(|error| Error::bad_json(format!("this describes no backup: {error}")))
}

/// Begins a backup.
pub async fn create(
    ctx: Ctx,
    user: User,
    req: create_backup_version::v3::Request,
) -> Result<create_backup_version::v3::Response> {
    let Description { algorithm, auth_data, .. } = description(&req.algorithm)?;
    let version = backup::create(&ctx.e2ee, user.number, algorithm, auth_data.get().to_owned()).await?;
    Ok(create_backup_version::v3::Response::new(version.to_string()))
}

/// Describes the newest backup.
pub async fn latest(ctx: Ctx, user: User, _: get_latest_backup_info::v3::Request) -> Result<Reply> {
    describe(&ctx, &user, None)
}

/// Describes a backup.
pub async fn info(ctx: Ctx, user: User, req: get_backup_info::v3::Request) -> Result<Reply> {
    describe(&ctx, &user, Some(&req.version))
}

fn describe(ctx: &Ctx, user: &User, version: Option<&str>) -> Result<Reply> {
    let backup = backup::find(&ctx.store, user.number, version)?;
    let auth_data: Value = serde_json::from_str(&backup.auth_data).map_err(Error::internal)?;
    let (etag, count) = told(backup.contents);
    let version = backup.version.to_string();
    Reply::value(&json!({
        "algorithm": backup.algorithm, "auth_data": auth_data, "count": count, "etag": etag, "version": version,
    }))
}

/// Changes what goes with the algorithm of a backup.
pub async fn update(
    ctx: Ctx,
    user: User,
    req: update_backup_version::v3::Request,
) -> Result<update_backup_version::v3::Response> {
    let Description { algorithm, auth_data, version } = description(&req.algorithm)?;
    let auth_data = auth_data.get().to_owned();
    backup::update(&ctx.e2ee, user.number, &req.version, version.as_deref(), &algorithm, auth_data).await?;
    Ok(update_backup_version::v3::Response::new())
}

/// Deletes a backup.
pub async fn delete(
    ctx: Ctx,
    user: User,
    req: delete_backup_version::v3::Request,
) -> Result<delete_backup_version::v3::Response> {
    backup::delete(&ctx.e2ee, user.number, &req.version).await?;
    Ok(delete_backup_version::v3::Response::new())
}

/// Adds keys of any rooms.
pub async fn put_all(ctx: Ctx, user: User, req: add_backup_keys::v3::Request) -> Result<add_backup_keys::v3::Response> {
    let keys = req.rooms.into_iter().flat_map(|(room, keys)| of_room(room.as_str(), keys.sessions));
    let contents = backup::put_keys(&ctx.e2ee, user.number, &req.version, keys.collect()).await?;
    let (etag, count) = told(contents);
    Ok(add_backup_keys::v3::Response::new(etag, count))
}

/// Adds keys of a room.
pub async fn put_room(
    ctx: Ctx,
    user: User,
    req: add_backup_keys_for_room::v3::Request,
) -> Result<add_backup_keys_for_room::v3::Response> {
    let keys = of_room(req.room_id.as_str(), req.sessions);
    let contents = backup::put_keys(&ctx.e2ee, user.number, &req.version, keys).await?;
    let (etag, count) = told(contents);
    Ok(add_backup_keys_for_room::v3::Response::new(etag, count))
}

/// Adds the key of a session.
pub async fn put_session(
    ctx: Ctx,
    user: User,
    req: add_backup_keys_for_session::v3::Request,
) -> Result<add_backup_keys_for_session::v3::Response> {
    let keys = of_room(req.room_id.as_str(), BTreeMap::from([(req.session_id, req.session_data)]));
    let contents = backup::put_keys(&ctx.e2ee, user.number, &req.version, keys).await?;
    let (etag, count) = told(contents);
    Ok(add_backup_keys_for_session::v3::Response::new(etag, count))
}

fn of_room(room: &str, sessions: BTreeMap<String, Raw<KeyBackupData>>) -> Vec<SessionKey> {
    let key = |(session, data): (String, Raw<KeyBackupData>)| {
        let json = String::from(data.into_json().get());
        SessionKey { room: room.to_owned(), session, json }
    };
    sessions.into_iter().map(key).collect()
}

fn told(contents: Contents) -> (String, UInt) {
    (contents.etag.to_string(), UInt::new_saturating(contents.count))
}

/// Reads all keys.
pub async fn get_all(ctx: Ctx, user: User, req: get_backup_keys::v3::Request) -> Result<Reply> {
    let walk = backup::walk(&ctx.store, user.number, &req.version, None)?;
    Ok(written(&ctx, walk, false))
}

/// Reads the keys of a room.
pub async fn get_room(ctx: Ctx, user: User, req: get_backup_keys_for_room::v3::Request) -> Result<Reply> {
    let walk = backup::walk(&ctx.store, user.number, &req.version, Some(req.room_id.to_string()))?;
    Ok(written(&ctx, walk, true))
}

/// Reads the key of a session.
pub async fn get_session(
    ctx: Ctx,
    user: User,
    req: get_backup_keys_for_session::v3::Request,
) -> Result<get_backup_keys_for_session::v3::Response> {
    let key = backup::key(&ctx.store, user.number, &req.version, req.room_id.as_str(), &req.session_id)?;
    Ok(get_backup_keys_for_session::v3::Response::new(Raw::from_json(key)))
}

fn written(ctx: &Ctx, walk: Walk, one_room: bool) -> Reply {
    let pieces = pieces(ctx.store.clone(), Writing { walk, one_room, room: None, begun: false, done: false });
    Reply::stream(HeaderValue::from_static("application/json"), pieces)
}

/// A walk over keys that becomes the JSON of an answer.
struct Writing {
    walk: Walk,
    one_room: bool,
    /// The room whose object is open.
    room: Option<String>,
    begun: bool,
    done: bool,
}

fn pieces(store: Store, writing: Writing) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static {
    // The future of a blocking read is not `Sync`, and the body has to be: a task between the two.
    let (send, receive) = tokio::sync::mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut writing = writing;
        while !writing.done {
            let piece = writing.next(&store).map_err(std::io::Error::other);
            let broken = piece.is_err();
            // Nobody listens any more, or nothing more can be said.
            if send.blocking_send(piece).is_err() || broken {
                break;
            }
        }
    });
    stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) })
}

impl Writing {
    fn next(&mut self, store: &Store) -> Result<Bytes> {
        let mut out = String::new();
        if !self.begun {
            self.begun = true;
            out.push_str(if self.one_room { r#"{"sessions":{"# } else { r#"{"rooms":{"# });
        }
        let keys = self.walk.next(store, PIECE)?;
        self.done = keys.is_empty();
        for key in keys {
            let same = self.room.as_ref() == Some(&key.room);
            match (self.one_room, same) {
                (_, true) => out.push(','),
                (true, false) => {}
                (false, false) => {
                    if self.room.is_some() {
                        out.push_str("}},");
                    }
                    write_string(&mut out, &key.room);
                    out.push_str(r#":{"sessions":{"#);
                }
            }
            write_string(&mut out, &key.session);
            out.push(':');
            out.push_str(&key.json);
            self.room = Some(key.room);
        }
        if self.done {
            out.push_str(match (self.one_room, &self.room) {
                (false, Some(_)) => "}}}}",
                _ => "}}",
            });
        }
        Ok(out.into())
    }
}

/// Deletes all keys.
pub async fn delete_all(
    ctx: Ctx,
    user: User,
    req: delete_backup_keys::v3::Request,
) -> Result<delete_backup_keys::v3::Response> {
    let contents = backup::delete_keys(&ctx.e2ee, user.number, &req.version, Part::All).await?;
    let (etag, count) = told(contents);
    Ok(delete_backup_keys::v3::Response::new(etag, count))
}

/// Deletes the keys of a room.
pub async fn delete_room(
    ctx: Ctx,
    user: User,
    req: delete_backup_keys_for_room::v3::Request,
) -> Result<delete_backup_keys_for_room::v3::Response> {
    let part = Part::Room(req.room_id.to_string());
    let contents = backup::delete_keys(&ctx.e2ee, user.number, &req.version, part).await?;
    let (etag, count) = told(contents);
    Ok(delete_backup_keys_for_room::v3::Response::new(etag, count))
}

/// Deletes the key of a session.
pub async fn delete_session(
    ctx: Ctx,
    user: User,
    req: delete_backup_keys_for_session::v3::Request,
) -> Result<delete_backup_keys_for_session::v3::Response> {
    let part = Part::Session(req.room_id.to_string(), req.session_id);
    let contents = backup::delete_keys(&ctx.e2ee, user.number, &req.version, part).await?;
    let (etag, count) = told(contents);
    Ok(delete_backup_keys_for_session::v3::Response::new(etag, count))
}
