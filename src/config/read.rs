//! From the text of the file to a [`Config`], and what to tell the person when it cannot be.
//!
//! All problems of a file are found at once, each with its line and with what to write instead.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    Config,
    option::{Declared, Section, full_name},
    value::{Given, Wrong, nearest},
};

/// A file that is no configuration, with everything that is wrong in it.
#[derive(Debug, Clone)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// What is wrong, in the order of the file. Never empty.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, counted from 1, and its text; `None` when it is about no line.
    pub line: Option<(usize, String)>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, problem) in self.problems.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            match &problem.line {
                Some((number, text)) => {
                    write!(f, "{}, line {number}: {}\n    {text}", self.file.display(), problem.message)?;
                }
                None => write!(f, "{}: {}", self.file.display(), problem.message)?,
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Reads the text of a file that lies in `folder`.
pub(super) fn read(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    let mut config = Config::defaults(folder);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut wrong: Vec<Wrong> = errors.into_iter().map(broken).collect();
    if wrong.is_empty() {
        let mut reader = Reader { config: &mut config, folder, wrong: vec![] };
        reader.top(table.get_ref());
        wrong = reader.wrong;
    }
    if wrong.is_empty() {
        return Ok(config);
    }
    wrong.sort_by_key(|wrong| wrong.span.start);
    Err(wrong.into_iter().map(|wrong| problem(text, wrong)).collect())
}

/// What the TOML parser could not read.
fn broken(error: toml::de::Error) -> Wrong {
    let message = error.message().lines().next().unwrap_or("this line cannot be read").to_owned();
    let message = match message.as_str() {
        "duplicate key" => "this is written twice; keep one of them".to_owned(),
        _ => format!("this is not TOML: {message} (texts need quotes; a line is `name = value` or `[table]`)"),
    };
    Wrong { span: error.span().unwrap_or_default(), message }
}

fn problem(text: &str, wrong: Wrong) -> Problem {
    let before = text.get(..wrong.span.start).unwrap_or(text);
    let number = before.matches('\n').count();
    let line = text.lines().nth(number).unwrap_or_default().trim_end().to_owned();
    Problem { line: Some((number + 1, line)), message: wrong.message }
}

struct Reader<'a> {
    config: &'a mut Config,
    folder: &'a Path,
    wrong: Vec<Wrong>,
}

impl Reader<'_> {
    fn top(&mut self, table: &DeTable) {
        for (key, value) in table {
            let section =
                Config::SECTIONS.iter().find(|section| !section.name.is_empty() && section.name == key.get_ref());
            match (section, value.get_ref()) {
                (Some(section), DeValue::Table(table)) if !section.many => self.table(section.name, table),
                (Some(section), DeValue::Array(tables)) if section.many => {
                    for (nth, table) in tables.iter().enumerate() {
                        match table.get_ref() {
                            DeValue::Table(table) => {
                                self.config.push(section.name, self.folder, nth == 0);
                                self.table(section.name, table);
                            }
                            _ => self.misshapen(section, table.span()),
                        }
                    }
                }
                (Some(section), _) => self.misshapen(section, key.span()),
                (None, _) => self.option("", key, value),
            }
        }
    }

    fn table(&mut self, section: &str, table: &DeTable) {
        for (key, value) in table {
            self.option(section, key, value);
        }
    }

    fn option(&mut self, section: &str, key: &Spanned<DeString>, value: &Spanned<DeValue>) {
        let given = Given { value, folder: self.folder };
        match self.config.set(section, key.get_ref(), &given) {
            Some(Ok(())) => {}
            Some(Err(wrong)) => self.wrong.push(wrong),
            None => {
                self.wrong.push(Wrong { span: key.span(), message: unknown(section, key.get_ref(), value.get_ref()) })
            }
        }
    }

    fn misshapen(&mut self, section: &Section, span: Range<usize>) {
        let (name, brackets) = (section.name, if section.many { ("[[", "]]") } else { ("[", "]") });
        let message =
            format!("write {}{name}{} on a line of its own, and its options below it", brackets.0, brackets.1);
        self.wrong.push(Wrong { span, message });
    }
}

/// What to say of a key that does not exist: what was meant, or where it belongs.
fn unknown(section: &str, key: &str, value: &DeValue) -> String {
    let is_table = matches!(value, DeValue::Table(_))
        || matches!(value, DeValue::Array(list) if list.iter().any(|entry| entry.get_ref().is_table()));
    let sections = Config::SECTIONS.iter().filter(|section| !section.name.is_empty());
    if is_table {
        return match nearest(key, sections.map(|section| section.name)) {
            Some(meant) => format!("there is no table [{key}]; did you mean [{meant}]?"),
            None => format!("there is no table [{key}]; `ingle config sample` prints all there are"),
        };
    }
    let options = || Config::SECTIONS.iter().flat_map(|section| section.options);
    if let Some(elsewhere) = options().find(|option| option.name == key) {
        return format!("`{key}` belongs {}", place(elsewhere));
    }
    let here = options().filter(|option| option.section == section).map(|option| option.name);
    if let Some(meant) = nearest(key, here) {
        return format!("there is no option `{key}`; did you mean `{meant}`?");
    }
    if let Some(meant) = nearest(key, options().map(|option| option.name))
        && let Some(option) = options().find(|option| option.name == meant)
    {
        return format!(
            "there is no option `{key}`; did you mean `{}`? It belongs {}",
            full_name(option),
            place(option)
        );
    }
    format!("there is no option `{key}`; `ingle config sample` prints all there are")
}

fn place(option: &Declared) -> String {
    match option.section {
        "" => "at the top of the file, before the first [table]".to_owned(),
        name if Config::SECTIONS.iter().any(|section| section.many && section.name == name) => {
            format!("under [[{name}]]")
        }
        name => format!("under [{name}]"),
    }
}
