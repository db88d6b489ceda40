//! The on-disk format as a page: every table with its key and its record, and every record with its fields.
//!
//! It is read from the sources, as `tests/tidy.rs` reads them. What changes here changes what is on people's disks,
//! and wants a migration once there is a release.

use std::{fmt::Write as _, fs, path::Path};

use expect_test::expect_file;
use regex::Regex;

/// The tables and records of one file, one line each, and one line per field under its record.
fn format(source: &str) -> String {
    let tables = Regex::new(r#"pub const \w+: Table<([^=]+)>\s*=\s*Table::new\("(\w+)"\)"#).expect("a pattern");
    let records = Regex::new(r"(?s)pub (struct|enum) (\w+) \{\n(.*?)\n\}").expect("a pattern");
    let spaces = Regex::new(r"\s+").expect("a pattern");
    let mut out = String::new();
    for table in tables.captures_iter(source) {
        let _ = writeln!(out, "table {}: {}", &table[2], spaces.replace_all(table[1].trim(), " "));
    }
    for record in records.captures_iter(source) {
        let _ = writeln!(out, "{} {}", &record[1], &record[2]);
        let told = |line: &&str| !line.is_empty() && !line.starts_with("//");
        for line in record[3].lines().map(str::trim).filter(told) {
            let _ = writeln!(out, "    {line}");
        }
    }
    out
}

#[test]
fn what_is_on_the_disk_is_what_is_reviewed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/schema");
    let mut files: Vec<_> =
        fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    let mut page = String::new();
    let mut tables = 0;
    for file in files {
        let source = fs::read_to_string(&file).expect("a file");
        let text = format(&source);
        tables += text.matches("table ").count();
        assert_eq!(
            text.matches("table ").count(),
            source.matches("Table::new(\"").count(),
            "each table of {} is listed",
            file.display()
        );
        if !text.is_empty() {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let _ = writeln!(page, "# {name}\n{text}");
        }
    }
    assert!(tables > 0, "there are tables");
    expect_file!["golden/schema.txt"].assert_eq(&page);
}

#[test]
fn a_record_is_told_by_its_fields_and_their_short_names() {
    let source = "/// People.\npub const PEOPLE: Table<(RoomNo, UserNo), PersonRow> = Table::new(\"people\");\n\
                  /// One.\npub struct PersonRow {\n    /// Their name.\n    #[serde(rename = \"n\")]\n    pub name: String,\n}\n";
    assert_eq!(
        format(source),
        "table people: (RoomNo, UserNo), PersonRow\nstruct PersonRow\n    #[serde(rename = \"n\")]\n    pub name: String,\n"
    );
}
