//! `ingle status`: whether what is kept is in order, and when it was last backed up.

use std::fmt::Write as _;

use super::{
    Failure, Outcome,
    control::{Wish, ask},
};
use crate::{admin::status::Status, config::Config};

pub fn run(config: Config, json: bool) -> Outcome {
    let status: Status = ask(config, &Wish::Status)?;
    match json {
        true => println!("{}", serde_json::to_string(&status).map_err(|error| error.to_string())?),
        false => print!("{}", text(&status)),
    }
    match status.trouble {
        Some(trouble) => Err(Failure::Failed(trouble)),
        None => Ok(()),
    }
}

fn text(status: &Status) -> String {
    let mut out = String::new();
    let _ = match &status.trouble {
        None => writeln!(out, "The store is in order."),
        Some(trouble) => writeln!(out, "The store is NOT in order: {trouble}"),
    };
    for notice in &status.notices {
        let _ = writeln!(out, "Noticed at the start: {notice}");
    }
    for path in &status.set_aside {
        let _ = writeln!(out, "Found damaged and set aside: {}", path.display());
    }
    let _ = match &status.archive {
        Some((path, age)) => writeln!(out, "The newest backup was made {}: {}", ago(*age), path.display()),
        None => writeln!(out, "There is no backup yet; `ingle backup make FOLDER` makes one."),
    };
    let [engine, journal, archives] = status.disk.map(size);
    let _ = writeln!(out, "{} rows take {engine}, the journal {journal}, backups {archives}.", status.rows);
    out
}

fn ago(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => return "just now".to_owned(),
        120..7_200 => (seconds / 60, "minutes"),
        7_200..172_800 => (seconds / 3_600, "hours"),
        _ => (seconds / 86_400, "days"),
    };
    format!("{count} {unit} ago")
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use expect_test::{Expect, expect};

    use super::*;

    fn check(status: &Status, expected: Expect) {
        expected.assert_eq(&text(status));
    }

    fn well() -> Status {
        Status {
            trouble: None,
            notices: vec![],
            set_aside: vec![],
            archive: Some(("/data/archives/archive-7.ingle".into(), 3 * 86_400)),
            rows: 1234,
            disk: [24_000_000, 1_500_000, 0],
        }
    }

    #[test]
    fn a_sound_store_is_told_in_three_lines() {
        check(
            &well(),
            expect![[r#"
                The store is in order.
                The newest backup was made 3 days ago: /data/archives/archive-7.ingle
                1234 rows take 24 MB, the journal 1.5 MB, backups 0.0 MB.
            "#]],
        );
    }

    #[test]
    fn what_is_wrong_is_said_first() {
        let status = Status {
            trouble: Some("the disk is nearly full".into()),
            notices: vec!["The store was rebuilt.".into()],
            set_aside: vec!["/data/set-aside/generation-1".into()],
            archive: None,
            ..well()
        };
        check(
            &status,
            expect![[r#"
                The store is NOT in order: the disk is nearly full
                Noticed at the start: The store was rebuilt.
                Found damaged and set aside: /data/set-aside/generation-1
                There is no backup yet; `ingle backup make FOLDER` makes one.
                1234 rows take 24 MB, the journal 1.5 MB, backups 0.0 MB.
            "#]],
        );
    }

    #[test]
    fn a_store_that_lost_its_files_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config::for_tests();
        config.data_dir = folder.path().join("data");
        fs::create_dir(&config.data_dir).expect("a folder");
        let _: std::path::PathBuf = ask(config.clone(), &Wish::MakeArchive).expect("an archive");
        let status: Status = ask(config.clone(), &Wish::Status).expect("a status");
        assert!(status.notices.is_empty() && status.archive.is_some(), "{status:?}");
        fs::write(config.data_dir.join("store/generation-000001/db"), "garbage").expect("a file");
        let status: Status = ask(config, &Wish::Status).expect("a status");
        assert!(!status.notices.is_empty() && !status.set_aside.is_empty(), "{status:?}");
    }
}
