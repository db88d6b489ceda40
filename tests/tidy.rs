//! Keeps the plan of the house true: who may import whom, and what a file must and must not say.
//!
//! The sources are read as text, so this test needs neither the crate nor a build of it. A module
//! that is new at the top level gets its place in [`LAYERS`]. Formatting and lints are left to
//! `cargo fmt` and `cargo clippy`.

use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the layer table, highest first; a module may import the rows below its own.
///
/// Within a row nobody imports a neighbour, except where the row says `left > right`.
const LAYERS: &[&str] = &[
    "main > cli",
    "server tasks observe",
    "api",
    "http",
    "app",
    "sync push appservice outbound admin",
    "rooms > users > e2ee > media",
    "remote",
    "store",
    "clock chance limits heavy",
    "protocol",
    "config",
    "error",
];

/// What the pure core never names: no runtime, no HTTP, no disk, no clock, no chance.
const NOT_IN_PROTOCOL: &[&str] = &["tokio", "warp", "hyper", "sled", "SystemTime", "Instant", "rand", "getrandom"];

#[test]
fn a_layer_imports_only_what_lies_below_it() {
    report(|file| wrong_imports(&file.module, &file.text));
}

#[test]
fn every_module_has_its_place() {
    report(|file| match file.module.first() {
        Some(top) if place(top).is_none() => {
            vec![format!("1: give `{top}` its place in the table of tests/tidy.rs")]
        }
        _ => vec![],
    });
}

#[test]
fn every_file_opens_by_saying_what_it_is() {
    report(|file| match file.text.starts_with("//! ") {
        true => vec![],
        false => vec!["1: open with `//!`: what it is, how it is used, what it is not".to_owned()],
    });
}

#[test]
fn protocol_does_no_input_output_and_asks_nobody_for_the_time() {
    report(|file| match file.module.first().map(String::as_str) {
        Some("protocol") => words(&file.text, NOT_IN_PROTOCOL, "may not be named in `protocol`"),
        _ => vec![],
    });
}

#[test]
fn heavy_work_has_one_door() {
    // What simulations play.
    let played = ["outbound", "remote", "rooms", "sync", "tasks"];
    report(|file| match file.module.first().is_none_or(|top| !played.contains(&top.as_str())) {
        true => vec![],
        false => words(&file.text, &["spawn_blocking"], "leaves simulations to chance: use `heavy::run`"),
    });
}

#[test]
fn only_the_engine_names_sled() {
    report(|file| match file.module == ["store", "engine"] {
        true => vec![],
        false => words(&file.text, &["sled"], "may be named in `store/engine.rs` alone"),
    });
}

#[test]
fn an_upward_import_is_found_in_every_spelling() {
    check("store::log", "use crate::rooms::append;", "1: `store` may not import `rooms`");
    check("store::log", "use crate::{error::Error, protocol::{self, id}, sync};", "1: `store` may not import `sync`");
    check("store::log", "fn f() {\n    crate::http::reply()\n}", "2: `store` may not import `http`");
    check("store::log", "use super::super::api;", "1: `store` may not import `api`");
    check("store", "use super::api;", "1: `store` may not import `api`");
    check("sync::v3", "use crate::push;", "1: `sync` may not import `push`");
    check("media", "use crate::users;", "1: `media` may not import `users`");
    check("error", "use crate::store;", "1: `error` may not import `store`");
}

#[test]
fn what_the_table_allows_is_left_alone() {
    check("api::client::rooms", "use crate::{app::Ctx, http::caller::User, rooms, store::Store};", "");
    check("rooms::append", "use crate::users::find; use crate::media; use super::state;", "");
    check("store::write", "// crate::rooms\nconst HELP: &str = \"crate::api\"; /* crate::api */", "");
    check("store::write", "mod tests {\n    use super::super::journal;\n    use super::*;\n}", "");
    check("store", r##"const A: &str = r#"" crate::api "#; const B: char = '"'; fn f<'a>() {}"##, "");
    check("protocol::auth", "use crate::error::Error; crate::refuse!(); $crate::api", "");
    check("main", "use ingle::cli;", "");
}

#[track_caller]
fn check(module: &str, text: &str, expected: &str) {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    assert_eq!(wrong_imports(&module, text).join("\n"), expected);
}

/// Asks every file the same question and fails with all findings at once, one a line.
#[track_caller]
fn report(question: impl Fn(&Source) -> Vec<String>) {
    let mut text = String::new();
    for file in sources() {
        for finding in question(&file) {
            text += &format!("{}:{finding}\n", file.name);
        }
    }
    assert!(text.is_empty(), "\n{text}");
}

/// A file of `src/`: its module path (`src/store/log.rs` is `["store", "log"]`), name and text.
struct Source {
    module: Vec<String>,
    name: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    files.sort();
    assert!(!files.is_empty(), "no sources under {}", root.display());
    files.iter().map(|path| source(root, path)).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn source(root: &Path, path: &Path) -> Source {
    let name = path.strip_prefix(root).expect("a path below the root").to_string_lossy();
    let module = name.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    Source {
        module: module.split('/').filter(|part| *part != "lib").map(str::to_owned).collect(),
        text: fs::read_to_string(path).expect("a source file in UTF-8"),
        name: name.into_owned(),
    }
}

fn wrong_imports(module: &[String], text: &str) -> Vec<String> {
    let Some(top) = module.first() else {
        return vec![];
    };
    let complaints = imports(module, text)
        .into_iter()
        .filter_map(|(imported, line)| Some(format!("{line}: {}", complaint(top, &imported)?)));
    complaints.collect()
}

/// Why `top` may not import `imported`, if it may not.
fn complaint(top: &str, imported: &str) -> Option<String> {
    let (row, column, ordered) = place(top)?;
    let (other_row, other_column, _) = place(imported)?; // What has no place is a macro.
    let beside = row == other_row && ordered && column < other_column;
    if top == imported || other_row < row || beside {
        return None;
    }
    Some(format!("`{top}` may not import `{imported}`"))
}

/// Where a top-level module stands: its row counted from the bottom, its place in the row, and
/// whether that place matters.
fn place(module: &str) -> Option<(usize, usize, bool)> {
    LAYERS.iter().rev().enumerate().find_map(|(row, text)| {
        let mut names = text.split([' ', '>']).filter(|name| !name.is_empty());
        Some((row, names.position(|name| name == module)?, text.contains('>')))
    })
}

/// The top-level modules that a text names, by `crate::…` or by climbing with `super::…`.
fn imports(module: &[String], text: &str) -> Vec<(String, usize)> {
    let tokens = tokens(text);
    let word = |at: usize| tokens.get(at).map_or("", |(word, _)| word.as_str());
    let before = |at: usize, back: usize| at.checked_sub(back).map_or("", word);
    let mut found = Vec::new();
    let mut braces = Vec::new(); // For each open brace: is it an inline module's?
    let mut at = 0;
    while at < tokens.len() {
        match word(at) {
            "{" => braces.push(before(at, 2) == "mod"),
            "}" => drop(braces.pop()),
            "crate" if word(at + 1) == "::" && before(at, 1) != "$" => {
                heads(&tokens, at + 2, &mut found);
            }
            "super" if before(at, 1) != "::" => {
                let mut depth = module.len() + braces.iter().filter(|inline| **inline).count();
                while word(at) == "super" {
                    depth = depth.saturating_sub(1);
                    at += 2;
                }
                if depth == 0 {
                    heads(&tokens, at, &mut found);
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// The first names of a path, or of each path in a group: `{a::b, c::{d, e}}` gives `a` and `c`.
fn heads(tokens: &[(String, usize)], at: usize, found: &mut Vec<(String, usize)>) {
    let word = |at: usize| tokens.get(at).map_or("", |(word, _)| word.as_str());
    if word(at) != "{" {
        let module = word(at).starts_with(|first: char| first.is_lowercase() || first == '_');
        if module && word(at) != "self" && word(at + 1) != "!" {
            found.push(tokens[at].clone());
        }
        return;
    }
    let mut depth = 0;
    for index in at..tokens.len() {
        match word(index) {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return;
        }
        if depth == 1 && matches!(word(index), "{" | ",") {
            heads(tokens, index + 1, found);
        }
    }
}

/// Where any of `wanted` is a word of the code (not of a comment or a string).
fn words(text: &str, wanted: &[&str], complaint: &str) -> Vec<String> {
    let found = tokens(text).into_iter().filter(|(word, _)| wanted.contains(&word.as_str()));
    found.map(|(word, line)| format!("{line}: `{word}` {complaint}")).collect()
}

/// The words and signs of a Rust text with their lines, without comments and literals.
fn tokens(text: &str) -> Vec<(String, usize)> {
    let (mut tokens, mut line, mut rest) = (Vec::new(), 1, text);
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    while let Some(first) = rest.chars().next() {
        let skipped = literal(rest);
        let length = skipped.unwrap_or_else(|| match first {
            _ if in_word(first) => rest.find(|c| !in_word(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        });
        if skipped.is_none() && !first.is_whitespace() {
            tokens.push((rest[..length].to_owned(), line));
        }
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of the comment, string or character that `text` begins with.
fn literal(text: &str) -> Option<usize> {
    let until = |from: usize, mark: &str| {
        let found = text.get(from..).and_then(|rest| rest.find(mark));
        found.map_or(text.len(), |at| from + at + mark.len())
    };
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(until(2, "*/"));
    }
    let raw = text.trim_start_matches(['b', 'c']);
    if let Some(after) = raw.strip_prefix('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let opening = text.len() - after.len() + hashes + 1;
            return Some(until(opening, &format!("\"{}", "#".repeat(hashes))));
        }
    }
    if text.starts_with('"') {
        let mut escaped = false;
        let close = text.char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        return Some(close.map_or(text.len(), |(at, _)| at + 1));
    }
    let after = text.strip_prefix('\'')?;
    if after.starts_with('\\') {
        return Some(until(3, "'"));
    }
    // A lifetime has no closing mark right after its first character.
    let length = after.chars().next()?.len_utf8();
    after[length..].starts_with('\'').then_some(length + 2)
}
