//! Resources of the program's own processes on a machine of the lab: processor time, memory, and their number. Read
//! from `/proc` of this host once in a millisecond (proc(5)), so the first and the last millisecond of each process may
//! be missing.
//!
//! Until its execve(2), the process of a unit belongs to systemd: it sets the sandbox up, which takes some 30 ms of a
//! processor. Its usage before it executes the program does not count.
#![expect(unreachable_pub, reason = "a module of a benchmark is private, although its items are `pub`")]
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot continue has failed")]
#![allow(clippy::disallowed_methods, reason = "reads /proc and starts a thread itself")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The interval between reads of `/proc`.
const TICK: Duration = Duration::from_millis(1);

/// The resources that the processes have used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// The processor time of all together, in milliseconds.
    pub processor_ms: f64,
    /// The largest resident memory of one, in MiB.
    pub memory_mib: f64,
    /// The number of these processes.
    pub own: u32,
    /// The processor time of the program's processes inside units, in milliseconds.
    pub units_ms: f64,
    /// The number of those.
    pub units: u32,
    /// The number of other processes: git, uv, the shell and those that systemd starts.
    pub others: u32,
}

/// Watches a machine until [`Watch::end`].
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Used>,
}

impl Watch {
    /// Watches the machine whose first process has this pid on this host.
    pub fn of(leader: i32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&over);
        let machine = fs::read_link(format!("/proc/{leader}/ns/pid")).unwrap();
        let before = pids();
        let thread = thread::spawn(move || {
            let mut seen = Seen { machine, before, ..Seen::default() };
            while !done.load(Ordering::Relaxed) {
                seen.read();
                thread::sleep(TICK);
            }
            seen.used()
        });
        Self { over, thread }
    }

    /// Returns the usage since the beginning.
    pub fn end(self) -> Used {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The processes that were started since the beginning.
#[derive(Default)]
struct Seen {
    machine: std::path::PathBuf,
    before: Vec<u32>,
    /// The program's own: nanoseconds on a processor and KiB of memory.
    own: BTreeMap<u32, (f64, f64)>,
    /// The same of its processes inside units, which execute a copy.
    units: BTreeMap<u32, (f64, f64)>,
    /// The usage of each process when it executed the program, in nanoseconds.
    before_execve: BTreeMap<u32, f64>,
    others: BTreeSet<u32>,
    foreign: BTreeSet<u32>,
}

impl Seen {
    fn read(&mut self) {
        for pid in pids() {
            if self.foreign.contains(&pid) || self.before.binary_search(&pid).is_ok() {
                continue;
            }
            if !self.own.contains_key(&pid) && !self.units.contains_key(&pid) {
                let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/pid")) else { continue };
                if namespace != self.machine {
                    self.foreign.insert(pid);
                    continue;
                }
            }
            // A process becomes the program by its execve(2), so another one may become it a moment later.
            let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { continue };
            let kind = if program.ends_with("ladylinux-refresh") {
                &mut self.own
            } else if program.ends_with("ladylinux-refresh/program") {
                &mut self.units
            } else {
                self.others.insert(pid);
                continue;
            };
            self.others.remove(&pid);
            if let Some((time, memory)) = used(pid) {
                let before = *self.before_execve.entry(pid).or_insert(time);
                kind.insert(pid, (time - before, memory));
            }
        }
    }

    fn used(&self) -> Used {
        Used {
            processor_ms: self.own.values().map(|(time, _)| time / 1e6).sum(),
            memory_mib: self
                .own
                .values()
                .chain(self.units.values())
                .map(|(_, memory)| memory / 1024.0)
                .fold(0.0, f64::max),
            own: number(self.own.len()),
            units_ms: self.units.values().map(|(time, _)| time / 1e6).sum(),
            units: number(self.units.len()),
            others: number(self.others.len()),
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap()
}

/// The processes of this host, sorted.
fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// The usage of a process until now: nanoseconds on a processor, and KiB of memory at most.
fn used(pid: u32) -> Option<(f64, f64)> {
    let mut time = 0.0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        time += text.split_whitespace().next()?.parse::<f64>().ok()?;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some((time, line.split_whitespace().nth(1)?.parse().ok()?))
}
