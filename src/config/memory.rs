//! How much memory copies of what is on the disk may take: one budget for the whole program, and what
//! each kind of copy gets of it.

use std::{fs, path::Path};

use super::Config;

/// The least with which everything still works.
const LEAST: u64 = 8 << 20;
/// What is enough for a household, however large the machine.
const ENOUGH: u64 = 64 << 20;

/// Who takes a part of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// The pages of the store.
    Pages,
    /// Events, states and heads of rooms, as they are decoded.
    Rooms,
    /// Users: devices, tokens, push rules, account data.
    Users,
    /// Answers of other servers: keys, addresses, profiles.
    Remote,
}

/// Parts of a hundred, for each share.
const PARTS: [(Share, u64); 4] = [(Share::Pages, 25), (Share::Rooms, 50), (Share::Users, 15), (Share::Remote, 10)];

/// The bytes for one share of the budget.
pub fn share(config: &Config, share: Share) -> u64 {
    let parts = PARTS.iter().find(|(name, _)| *name == share).map_or(0, |(_, parts)| *parts);
    budget(config) / 100 * parts
}

/// The budget in bytes: what the configuration says, or a thirty-second of the machine's memory (or of
/// what its container may use), at most 64 MiB.
pub fn budget(config: &Config) -> u64 {
    match config.cache_memory {
        Some(size) => size.bytes().max(LEAST),
        None => (available().unwrap_or(ENOUGH) / 32).clamp(LEAST, ENOUGH),
    }
}

/// The smaller of the machine's memory and the limit of the control group.
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = limit(&groups, Path::new("/sys/fs/cgroup"), &|path| fs::read_to_string(path).ok());
    [machine, group].into_iter().flatten().min()
}

/// The least limit of the control groups that `/proc/self/cgroup` names and of those above them, in
/// version 2 and version 1.
fn limit(groups: &str, root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let files = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or("?"), parts.next().unwrap_or("/"));
        let (root, name) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ => (root.join("memory"), "memory.limit_in_bytes"),
        };
        let ours = controllers.is_empty() || controllers.split(',').any(|name| name == "memory");
        // Inside a container the path may not exist, but its root then has the limit.
        let folders = Path::new(path.trim_start_matches('/')).ancestors().filter(move |_| ours);
        folders.map(move |path| root.join(path).join(name))
    });
    // Version 1 says "no limit" with a number near the largest one.
    let limits = files.filter_map(|file| read(&file)?.trim().parse::<u64>().ok());
    limits.filter(|limit| *limit < 1 << 60).min()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(total("MemTotal:        4022416 kB\nMemFree: 1 kB\n"), Some(4_118_953_984));
        assert_eq!(total("nothing of the kind"), None);
    }

    fn check(groups: &str, files: &[(&str, &str)], expected: Option<u64>) {
        let read = |path: &Path| {
            let file = files.iter().find(|(name, _)| path == Path::new(name));
            file.map(|(_, text)| (*text).to_owned())
        };
        assert_eq!(limit(groups, Path::new("/c"), &read), expected);
    }

    #[test]
    fn a_limit_of_version_2_is_found_at_every_level() {
        check("0::/a/b\n", &[("/c/a/b/memory.max", "max\n"), ("/c/a/memory.max", "4096\n")], Some(4096));
        check("0::/\n", &[("/c/memory.max", "77")], Some(77));
        check("0::/a\n", &[], None);
    }

    #[test]
    fn a_limit_of_version_1_is_found_and_no_limit_is_none() {
        let groups = "9:name=systemd:/\n4:cpu,memory:/x\n0::/\n";
        check(groups, &[("/c/memory/x/memory.limit_in_bytes", "8192\n")], Some(8192));
        check(groups, &[("/c/memory/memory.limit_in_bytes", "9223372036854771712\n")], None);
    }

    #[test]
    fn all_shares_together_are_the_budget() {
        assert_eq!(PARTS.iter().map(|(_, parts)| parts).sum::<u64>(), 100);
    }

    #[test]
    fn the_budget_is_what_the_configuration_says() {
        let config = Config { cache_memory: Some(Size(100 << 20)), ..Config::default() };
        assert_eq!(budget(&config), 100 << 20);
        assert!((LEAST..=ENOUGH).contains(&budget(&Config::default())));
    }
}
