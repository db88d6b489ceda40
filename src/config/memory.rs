//! How much memory copies of what is on the disk may take: one budget for the whole program.

use std::fs;

use super::Config;

/// The least with which everything still works.
const LEAST: u64 = 8 << 20;
/// What is enough for a household, however large the machine.
const ENOUGH: u64 = 64 << 20;

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
    let group = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    [machine, group].into_iter().flatten().min()
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

    #[test]
    fn the_budget_is_what_the_configuration_says() {
        let config = Config { cache_memory: Some(Size(100 << 20)), ..Config::default() };
        assert_eq!(budget(&config), 100 << 20);
        assert!((LEAST..=ENOUGH).contains(&budget(&Config::default())));
    }
}
