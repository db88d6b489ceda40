//! Rebuilding a store whose rows cannot be trusted: the newest archive that is whole, and the journal
//! behind it. The damaged files are moved out of the way, never removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    StoreError, archive, digest, disk,
    engine::{Engine, EngineError},
    home::{self, Options},
    journal::Group,
    manifest::{self, ArchiveNote, Manifest},
    migrate,
    segments::{self, Damage, Findings, Reached, Stop},
};

/// After a loss or a restore, positions and numbers begin so far behind the last known ones that none
/// that somebody may remember is given again.
pub(super) const JUMP: u64 = 1 << 32;

/// Whether the folder never held a store.
pub(super) fn nothing_here(options: &Options) -> io::Result<bool> {
    Ok(segments::list(&options.journal())?.is_empty()
        && manifest::generations(&options.folder)?.is_empty()
        && archive::list(&options.archive_folder())?.is_empty())
}

/// Makes a store from an archive, where there is none.
pub(super) fn restore(options: &Options, archive: &Path) -> Result<(), StoreError> {
    let fail = |error: &dyn std::fmt::Display| options.fail("cannot restore to", error);
    fs::create_dir_all(options.journal()).map_err(|error| fail(&error))?;
    let _lock = home::lock(&options.folder)?;
    if Manifest::read(&options.folder).map_err(|error| fail(&error))?.is_some()
        || !nothing_here(options).map_err(|error| fail(&error))?
    {
        return Err(fail(&"there is a store already; restore to an empty folder"));
    }
    let draft = options.folder.join("restoring");
    let restored = archive::prove(options, archive, &draft).map_err(|error| fail(&error))?;
    let mut manifest = Manifest::new(rand::random(), restored.reached.schema);
    let mut reached = restored.reached;
    reached.position += JUMP;
    reached.numbers += JUMP;
    manifest.advance(&reached);
    let saved = disk::sync_tree(&draft)
        .and_then(|()| disk::rename(&draft, &manifest.generation(&options.folder)))
        .and_then(|()| manifest.write(&options.folder));
    saved.map_err(|error| fail(&error))
}

/// What the owner has to decide.
pub(super) fn loss(options: &Options, why: &str) -> StoreError {
    StoreError::Engine(format!(
        "a part of what was saved in {} cannot be read: {why}. Nothing has been changed. Put back a copy of the \
         folder if you have one, or start once with the loss accepted (`ingle serve --accept-loss`): everything up to \
         the damage is kept",
        options.folder.display()
    ))
}

/// What came of one attempt.
struct Attempt {
    generation: u64,
    reached: Reached,
    archive: Option<ArchiveNote>,
    epoch: Option<u64>,
    /// What cannot be read, if anything.
    lost: Option<String>,
}

/// Sets the engine's files aside and makes new ones from archive and journal.
pub(super) fn rebuild(
    options: &Options,
    manifest: Option<&Manifest>,
    why: &str,
    notices: &mut Vec<String>,
) -> Result<Manifest, StoreError> {
    let fail = |error: io::Error| options.fail("cannot rebuild", error);
    tracing::warn!("the store in {} is rebuilt: {why}", options.folder.display());
    let archives = archive::list(&options.archive_folder()).map_err(fail)?;
    let last = manifest::generations(&options.folder).map_err(fail)?.last().copied().unwrap_or(0);
    let last = last.max(manifest.map_or(0, |manifest| manifest.generation));
    let mut number = last + 1;
    let mut best: Option<Attempt> = None;
    // After the archives, the journal alone: it begins with the first Write until there is an archive.
    for source in archives.iter().map(Some).chain([None]) {
        let attempt = attempt(options, source, number, manifest);
        number += options.migrations.len() as u64 + 1;
        let attempt = match attempt {
            Ok(attempt) => attempt,
            Err(why) => {
                let name = source.map_or("the journal alone".into(), |path| path.display().to_string());
                notices.push(format!("The store cannot be rebuilt from {name}: {why}."));
                continue;
            }
        };
        let better = best.as_ref().is_none_or(|best| {
            (attempt.lost.is_none(), attempt.reached.last) > (best.lost.is_none(), best.reached.last)
        });
        let whole = better && attempt.lost.is_none();
        if better {
            best = Some(attempt);
        }
        if whole {
            break;
        }
    }
    let refused = match &best {
        None => Some(why.to_owned()),
        Some(best) => best.lost.as_ref().filter(|_| !options.accept_loss).map(|lost| format!("{why}, and {lost}")),
    };
    let keep = best.as_ref().filter(|_| refused.is_none()).map(|best| best.generation);
    for made in manifest::generations(&options.folder).map_err(fail)? {
        if made > last && Some(made) != keep {
            fs::remove_dir_all(manifest::generation(&options.folder, made)).map_err(fail)?;
        }
    }
    match (best, refused) {
        (Some(best), None) => finish(options, manifest, best, why, notices).map_err(fail),
        (_, why) => Err(loss(options, &why.unwrap_or_default())),
    }
}

/// Makes the attempt the one that counts.
fn finish(
    options: &Options,
    manifest: Option<&Manifest>,
    best: Attempt,
    why: &str,
    notices: &mut Vec<String>,
) -> io::Result<Manifest> {
    let epoch = manifest.map(|manifest| manifest.epoch).or(best.epoch);
    let mut next = Manifest::new(epoch.unwrap_or_else(rand::random), best.reached.schema);
    next.generation = best.generation;
    next.archive = best.archive;
    let mut reached = best.reached;
    if best.lost.is_some() {
        next.epoch = rand::random();
        next.archive = None;
        reached.position += JUMP;
        reached.numbers += JUMP;
    }
    next.advance(&reached);
    // First the damaged files: as long as the manifest names them, the next start rebuilds again.
    for number in manifest::generations(&options.folder)? {
        if number < best.generation {
            let kept = home::set_aside(&options.folder, &manifest::generation(&options.folder, number))?;
            notices.push(format!(
                "The store was rebuilt ({why}). The damaged files are in {}; remove them when nothing is missing.",
                kept.display()
            ));
        }
    }
    next.write(&options.folder)?;
    if let Some(lost) = best.lost {
        notices.push(format!("Some of the newest changes are lost: {lost}."));
        // What lies behind the damage is of no use any more.
        for segment in segments::list(&options.journal())? {
            home::set_aside(&options.folder, &segment.path)?;
        }
    }
    Ok(next)
}

/// Makes a new generation from one archive, or from nothing, and the journal behind it.
fn attempt(
    options: &Options,
    source: Option<&PathBuf>,
    number: u64,
    manifest: Option<&Manifest>,
) -> Result<Attempt, String> {
    let folder = manifest::generation(&options.folder, number);
    let _ = fs::remove_dir_all(&folder);
    let (mut reached, mut archive, mut epoch) = (Reached { schema: 1, ..Reached::default() }, None, None);
    if let Some(path) = source {
        let restored = archive::restore(options, path, &folder)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        archive = Some(ArchiveNote { file, begin: restored.begin, end: restored.reached.last });
        (reached, epoch) = (restored.reached, Some(restored.epoch));
    }
    let mut engine = Engine::open(&folder, options.cache).map_err(|error| error.0)?;
    let mut generation = number;
    let findings = follow(options, &mut engine, &mut generation, &mut reached).map_err(|error| error.0)?;
    let total = reached.digests.values().map(|digest| digest.rows).sum();
    let mut step = options.progress.begin("looking through the rebuilt store", total);
    let found = engine.digests(&mut |done| step.at(done)).map_err(|error| error.0)?;
    if let Some(why) = digest::difference(&reached.digests, &found) {
        return Err(why);
    }
    engine.sync().map_err(|error| error.0)?;
    let expected = manifest.map_or(0, |manifest| manifest.checkpoint);
    let short = (reached.last < expected).then(|| "the journal ends too early".to_owned());
    let lost = findings.damage.map(|damage| damage.to_string()).or(short);
    // A store without anything in it is no rebuilt store, unless there never was anything.
    if source.is_none() && reached.last == 0 && (expected > 0 || manifest.is_none()) {
        return Err("there is nothing to rebuild it from".into());
    }
    Ok(Attempt { generation, reached, archive, epoch: findings.epoch.or(epoch), lost })
}

/// Replays the journal; where it goes over to a newer version of the tables, the rows do too.
fn follow(
    options: &Options,
    engine: &mut Engine,
    generation: &mut u64,
    reached: &mut Reached,
) -> Result<Findings, EngineError> {
    let mut schema = reached.schema;
    let mut visit = |reached: &Reached, group: &Group<'_>| -> Result<(), EngineError> {
        while schema < reached.schema {
            *generation += 1;
            let folder = manifest::generation(&options.folder, *generation);
            let new = copy_one(options, engine, schema, &folder)?;
            *engine = new;
            schema += 1;
        }
        for change in group.writes.iter().flat_map(|write| &write.changes) {
            engine.apply(change.table, change.key, change.value)?;
        }
        Ok(())
    };
    let findings = segments::walk(&options.journal(), reached, u64::MAX, &mut visit).map_err(|stop| match stop {
        Stop::Disk(error) => error.into(),
        Stop::Visitor(error) => error,
    })?;
    while schema < reached.schema {
        *generation += 1;
        let new = copy_one(options, engine, schema, &manifest::generation(&options.folder, *generation))?;
        *engine = new;
        schema += 1;
    }
    Ok(findings)
}

/// Copies rows into those of the next version, and says what the tables hold now.
pub(super) fn migrate_one(
    options: &Options,
    old: &Engine,
    reached: &mut Reached,
    number: u64,
) -> Result<Engine, EngineError> {
    let new = copy_one(options, old, reached.schema, &manifest::generation(&options.folder, number))?;
    reached.digests = new.digests(&mut |_| {})?;
    reached.schema += 1;
    Ok(new)
}

fn copy_one(options: &Options, old: &Engine, schema: u64, folder: &Path) -> Result<Engine, EngineError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut step = options.progress.begin("bringing the store up to date", 0);
    let new = Engine::open(folder, options.cache)?;
    migrate::step(options.migrations, schema, old, &new, &mut |done| step.at(done))?;
    Ok(new)
}

/// Goes on without what lies behind a damaged place of the journal, with the rows as they are: there is
/// no archive to rebuild them from. They may hold some of what is lost.
pub(super) fn without_the_rest(
    options: &Options,
    manifest: &Manifest,
    reached: &Reached,
    damage: &Damage,
    notices: &mut Vec<String>,
) -> Result<Manifest, StoreError> {
    let fail = |error: String| options.fail("cannot go on with", error);
    let engine = Engine::open(&manifest.generation(&options.folder), options.cache).map_err(|error| fail(error.0))?;
    let mut reached = reached.clone();
    reached.digests = engine.digests(&mut |_| {}).map_err(|error| fail(error.0))?;
    engine.sync().map_err(|error| fail(error.0))?;
    reached.position += JUMP;
    reached.numbers += JUMP;
    let mut next = manifest.clone();
    next.epoch = rand::random();
    next.archive = None;
    next.advance(&reached);
    let saved = segments::list(&options.journal()).and_then(|segments| {
        next.write(&options.folder)?;
        segments.iter().try_for_each(|segment| home::set_aside(&options.folder, &segment.path).map(drop))
    });
    saved.map_err(|error| fail(error.to_string()))?;
    notices.push(format!("Some of the newest changes are lost: {damage}."));
    Ok(next)
}
