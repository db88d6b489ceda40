//! One declaration per option: its name, type, default and meaning.
//!
//! [`options!`] makes of it the field of [`Config`](super::Config), the reader of the TOML key and the
//! [`Declared`] row from which `--help`, the sample file and the table of the README are printed. A new
//! option is one line in `config/mod.rs` and the place that reads it.

use std::{fmt::Write as _, path::Path};

use toml::de::DeValue;

use super::value::{Given, Setting};

/// An option as a person sees it.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// The table of the TOML file, such as `registration`; empty at the top.
    pub section: &'static str,
    /// The key.
    pub name: &'static str,
    /// What may be written, such as "true or false".
    pub takes: &'static str,
    /// The default as TOML; empty when there is none.
    pub default: &'static str,
    /// An example as TOML, for an option without a default; else empty.
    pub example: &'static str,
    /// What it means, as lines.
    pub doc: &'static [&'static str],
}

/// A table of the TOML file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Its name, such as `registration`; empty for the top.
    pub name: &'static str,
    /// Whether it may be there several times: `[[listen]]`.
    pub many: bool,
    /// What it is about, as lines.
    pub doc: &'static [&'static str],
    /// Its options.
    pub options: &'static [Declared],
}

/// The value of an option of which nothing is written.
///
/// A declared default that its own type cannot read is a slip in the declaration; a test reads them all.
pub(super) fn default<T: Setting>(name: &str, text: &str, folder: &Path) -> T {
    let value = match text {
        "" => T::unset(),
        text => DeValue::parse(text).ok().and_then(|value| T::read(&Given { value: &value, folder }).ok()),
    };
    value.unwrap_or_else(|| unreachable!("the declared default of {name} is not of its type"))
}

/// Declares the whole configuration; see `config/mod.rs` for how it reads.
macro_rules! options {
    (
        $(#[doc = $about:literal])*
        pub struct $Config:ident {
            $( $(#[doc = $doc:literal])+ $name:ident: $Type:ty = $default:literal $(like $example:literal)?; )+
            $( [[$list:ident]] $(#[doc = $list_doc:literal])+ $List:ident { $($list_fields:tt)+ } )+
            $( [$part:ident] $(#[doc = $part_doc:literal])+ $Part:ident { $($part_fields:tt)+ } )+
        }
    ) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $Config {
            $( $(#[doc = $doc])+ pub $name: $Type, )+
            $( $(#[doc = $list_doc])+ pub $list: Vec<$List>, )+
            $( $(#[doc = $part_doc])+ pub $part: $Part, )+
        }
        impl $Config {
            /// Every table of the file with its options, in the order in which they are shown.
            pub const SECTIONS: &'static [$crate::config::option::Section] = &[
                $crate::config::option::Section {
                    name: "", many: false, doc: &[$($about),*],
                    options: $crate::config::option::options!(@rows ("") { $( $(#[doc = $doc])+ $name: $Type = $default $(like $example)?; )+ }),
                },
                $( $crate::config::option::Section {
                    name: stringify!($list), many: true, doc: &[$($list_doc),+], options: $List::OPTIONS,
                }, )+
                $( $crate::config::option::Section {
                    name: stringify!($part), many: false, doc: &[$($part_doc),+], options: $Part::OPTIONS,
                }, )+
            ];

            /// What holds when nothing is written; paths are relative to `folder`.
            fn defaults(folder: &std::path::Path) -> Self {
                Self {
                    $( $name: $crate::config::option::default(stringify!($name), $default, folder), )+
                    $( $list: vec![$List::defaults(folder)], )+
                    $( $part: $Part::defaults(folder), )+
                }
            }

            /// Sets an option; `None` if the table or the key is unknown.
            fn set(&mut self, section: &str, name: &str, given: &$crate::config::value::Given) -> Option<$crate::config::value::Read<()>> {
                match (section, name) {
                    $( ("", stringify!($name)) => Some(<$Type as $crate::config::value::Setting>::read(given).map(|value| self.$name = value)), )+
                    $( (stringify!($list), _) => self.$list.last_mut()?.set(name, given), )+
                    $( (stringify!($part), _) => self.$part.set(name, given), )+
                    _ => None,
                }
            }

            /// Adds one more entry of a list such as `[[listen]]`; the first one replaces the default.
            fn push(&mut self, section: &str, folder: &std::path::Path, first: bool) {
                $( if section == stringify!($list) {
                    if first { self.$list.clear(); }
                    self.$list.push($List::defaults(folder));
                } )+
            }
        }
        $( $crate::config::option::options!(@part $(#[doc = $list_doc])+ $list $List { $($list_fields)+ }); )+
        $( $crate::config::option::options!(@part $(#[doc = $part_doc])+ $part $Part { $($part_fields)+ }); )+
    };
    (@part $(#[doc = $about:literal])+ $part:ident $Part:ident {
        $( $(#[doc = $doc:literal])+ $name:ident: $Type:ty = $default:literal $(like $example:literal)?; )+
    }) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $Part { $( $(#[doc = $doc])+ pub $name: $Type, )+ }
        impl $Part {
            const OPTIONS: &'static [$crate::config::option::Declared] = $crate::config::option::options!(@rows (stringify!($part)) {
                $( $(#[doc = $doc])+ $name: $Type = $default $(like $example)?; )+
            });
            fn defaults(folder: &std::path::Path) -> Self {
                Self { $( $name: $crate::config::option::default(stringify!($name), $default, folder), )+ }
            }
            fn set(&mut self, name: &str, given: &$crate::config::value::Given) -> Option<$crate::config::value::Read<()>> {
                match name {
                    $( stringify!($name) => Some(<$Type as $crate::config::value::Setting>::read(given).map(|value| self.$name = value)), )+
                    _ => None,
                }
            }
        }
    };
    (@rows ($section:expr) { $( $(#[doc = $doc:literal])+ $name:ident: $Type:ty = $default:literal $(like $example:literal)?; )+ }) => {
        &[ $( $crate::config::option::Declared {
            section: $section,
            name: stringify!($name),
            takes: <$Type as $crate::config::value::Setting>::TAKES,
            default: $default,
            example: concat!("" $(, $example)?),
            doc: &[$($doc),+],
        }, )+ ]
    };
}
pub(super) use options;

/// A whole configuration file in which every option stands with its default, commented out.
pub fn sample(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        if !text.is_empty() {
            text.push('\n');
        }
        comment(&mut text, section.doc);
        match (section.name, section.many) {
            ("", _) => text.push('\n'),
            (name, true) => _ = writeln!(text, "#[[{name}]]"),
            (name, false) => _ = writeln!(text, "[{name}]"),
        }
        for (nth, option) in section.options.iter().enumerate() {
            if nth > 0 {
                text.push('\n');
            }
            comment(&mut text, option.doc);
            let value = if option.example.is_empty() { option.default } else { option.example };
            _ = writeln!(text, "#{} = {value}", option.name);
        }
    }
    text
}

/// Every option on one line with what it takes and its default: what the golden file holds.
pub fn list(sections: &[Section]) -> String {
    let mut text = String::new();
    for option in sections.iter().flat_map(|section| section.options) {
        let default = if option.default.is_empty() { "-" } else { option.default };
        _ = writeln!(text, "{} = {default}    ({})", full_name(option), option.takes);
    }
    text
}

/// The options as a Markdown table, for the README.
pub fn table(sections: &[Section]) -> String {
    let mut text = "| option | default | meaning |\n|---|---|---|\n".to_owned();
    for option in sections.iter().flat_map(|section| section.options) {
        let default = if option.default.is_empty() { String::new() } else { format!("`{}`", option.default) };
        let doc: Vec<_> = option.doc.iter().map(|line| line.trim()).collect();
        _ = writeln!(text, "| `{}` | {default} | {} |", full_name(option), doc.join(" ").replace('|', "\\|"));
    }
    text
}

/// The name with its table in front, such as `registration.open`.
pub(super) fn full_name(option: &Declared) -> String {
    match option.section {
        "" => option.name.to_owned(),
        section => format!("{section}.{}", option.name),
    }
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        _ = writeln!(text, "#{line}");
    }
}
