//! Where the data and the configuration live when nobody says otherwise.
//!
//! On Linux these are the XDG folders: `~/.local/share/ingle` and `~/.config/ingle`.

use std::path::PathBuf;

use directories::ProjectDirs;

/// The name of the configuration file.
pub const FILE_NAME: &str = "ingle.toml";

/// The folder for data. Where there is no home folder, `ingle-data` in the current folder.
pub fn data_dir() -> PathBuf {
    project().map_or_else(|| PathBuf::from("ingle-data"), |dirs| dirs.data_dir().to_owned())
}

/// The folder in which the configuration file is looked for.
pub fn config_dir() -> PathBuf {
    project().map_or_else(|| PathBuf::from("."), |dirs| dirs.config_dir().to_owned())
}

/// The configuration file to read when none is named: the person's own, or the machine's.
pub fn config_file() -> Option<PathBuf> {
    [config_dir().join(FILE_NAME), PathBuf::from("/etc/ingle").join(FILE_NAME)].into_iter().find(|path| path.is_file())
}

fn project() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "ingle")
}
