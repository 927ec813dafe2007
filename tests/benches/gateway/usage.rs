//! What processes use, as the kernel counts it.

use std::{fs, time::Duration};

use crate::processes::Bench;

/// Linux counts in hundredths of a second, on every machine that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// Processor time, user and system.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    pub service: Duration,
    pub postgres: Duration,
    pub providers: Duration,
    pub clients: Duration,
}

impl Cpu {
    /// Up to now.
    pub fn now(bench: &Bench) -> Self {
        Self {
            service: of(bench.service.id),
            postgres: of(bench.postmaster) + children(bench.postmaster).map(of).sum::<Duration>(),
            providers: of(bench.providers.id),
            clients: of(std::process::id()),
        }
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            service: self.service.saturating_sub(before.service),
            postgres: self.postgres.saturating_sub(before.postgres),
            providers: self.providers.saturating_sub(before.providers),
            clients: self.clients.saturating_sub(before.clients),
        }
    }
}

/// The most memory that the process ever had, and what it has now, in MB.
pub fn memory_mb(id: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    (of("VmHWM:"), of("VmRSS:"))
}

/// Of the last minute: what else ran here.
pub fn load_average() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().split(' ').next().unwrap().to_owned()
}

pub fn parent(id: u32) -> u32 {
    stat(id).unwrap()[1].parse().unwrap()
}

/// Its own, and that of its children that it has waited for: PostgreSQL's workers come and go.
fn of(id: u32) -> Duration {
    let Some(fields) = stat(id) else { return Duration::ZERO };
    TICK * fields[11..=14].iter().map(|ticks| ticks.parse::<u32>().unwrap()).sum::<u32>()
}

pub fn children(of: u32) -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    processes.filter(move |id| stat(*id).is_some_and(|fields| fields[1] == of.to_string()))
}

/// The fields of `/proc/ID/stat` from the third on, the state. The second, a name, may have anything in it.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split(' ').map(str::to_owned).collect())
}
