//! Named points at which the crash tests end the process, as SIGKILL would.
//!
//! Only builds with debug assertions have them; in a release build this module does nothing. There are two kinds:
//! instants between two effects ([`reach`]) and instants at which another program has just been started and is running
//! ([`reach_child`]). A worker is part of the run that started it: its points are counted with the run's, in one file.
//!
//! - `LADYLINUX_REFRESH_TRACE=FILE`: each point reached is appended to FILE as a line, those of a worker as
//!   `worker:NAME`.
//! - `LADYLINUX_REFRESH_KILL_AT=NAME#k`: kill the process when the line NAME is written to the trace for the `k`th
//!   time. Without a trace, `=n` kills the process at the `n`th instant between effects that it reaches itself (both
//!   count from 1).
//! - `LADYLINUX_REFRESH_KILL=everything|run|worker`: the processes to kill. Everything (the default) is the run, its
//!   worker and the program just started. With `run` only the run's own process dies: the started program goes on, and
//!   a worker that reached the point waits there until it is ended. With `worker` only the process that reached the
//!   point dies; the run goes on without its worker.

/// Marks a point at which the process may be killed by a crash test.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_name: &str) {}

/// Marks the point at which another program has just been started.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach_child(_name: &str, _pid: rustix::process::Pid) {}

/// Returns the variables that make a worker's points count with those of its run.
#[cfg(not(debug_assertions))]
#[inline]
pub fn for_worker() -> Vec<(&'static str, String)> {
    Vec::new()
}

/// Returns the file that points are appended to, which a confined process must be able to write.
#[cfg(not(debug_assertions))]
#[inline]
pub fn trace() -> Option<std::path::PathBuf> {
    None
}

/// Returns the variables that give a run in another process the same points.
#[cfg(not(debug_assertions))]
#[inline]
pub fn for_run() -> Vec<(String, String)> {
    Vec::new()
}

#[cfg(debug_assertions)]
pub use kill::{for_run, for_worker, reach, reach_child, trace};

#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "compiled for tests only; must not depend on settings")]
mod kill {
    use std::env;
    use std::fs;
    use std::io::{Seek as _, Write as _};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

    const TRACE: &str = "LADYLINUX_REFRESH_TRACE";
    const KILL_AT: &str = "LADYLINUX_REFRESH_KILL_AT";
    const KILL: &str = "LADYLINUX_REFRESH_KILL";
    /// In a worker: the process of the run.
    const RUN_PROCESS: &str = "LADYLINUX_REFRESH_KILL_WITH";

    /// Marks a point at which the process may be killed by a crash test.
    pub fn reach(name: &str) {
        at(name, None);
    }

    /// Marks the point at which another program has just been started.
    pub fn reach_child(name: &str, pid: Pid) {
        at(&format!("child:{name}"), Some(pid));
    }

    /// Returns the variables that make a worker's points count with those of its run.
    pub fn for_worker() -> Vec<(&'static str, String)> {
        let mut all: Vec<_> = [TRACE, KILL_AT, KILL]
            .into_iter()
            .filter_map(|name| Some((name, env::var(name).ok()?)))
            .collect();
        if !all.is_empty() {
            all.push((RUN_PROCESS, getpid().as_raw_nonzero().to_string()));
        }
        all
    }

    /// Returns the file that points are appended to, which a confined process must be able to write.
    pub fn trace() -> Option<std::path::PathBuf> {
        let file = std::path::PathBuf::from(env::var_os(TRACE)?);
        file.exists().then_some(file)
    }

    /// Returns the variables that give a run in another process the same points.
    pub fn for_run() -> Vec<(String, String)> {
        let names = [TRACE, KILL_AT, KILL].into_iter();
        names.filter_map(|name| Some((name.to_owned(), env::var(name).ok()?))).collect()
    }

    fn at(name: &str, child: Option<Pid>) {
        let traced = env::var_os(TRACE).is_some();
        if (child.is_some() && !traced) || !is_fatal(name) {
            return;
        }
        let run = env::var(RUN_PROCESS).ok().and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let whom = env::var(KILL).unwrap_or_default();
        if let (Some(child), "" | "everything") = (child, whom.as_str()) {
            let _ = kill_process_group(child, Signal::KILL);
        }
        if let (Some(run), true) = (run, whom != "worker") {
            let _ = kill_process(run, Signal::KILL);
            if whom == "run" {
                loop {
                    std::thread::park();
                }
            }
        }
        let _ = kill_process(getpid(), Signal::KILL);
    }

    /// Counts the point, and returns whether the process must die at it.
    fn is_fatal(name: &str) -> bool {
        static REACHED: AtomicUsize = AtomicUsize::new(0);
        let alone = REACHED.fetch_add(1, Ordering::SeqCst) + 1;
        let at = env::var(KILL_AT).unwrap_or_default();
        let Some(path) = env::var_os(TRACE) else { return at.parse() == Ok(alone) };
        let line =
            if env::var_os(RUN_PROCESS).is_some() { format!("worker:{name}") } else { name.to_owned() };
        // One write, and a count of the lines up to the end of it: threads and workers reach points at the same time.
        let reach = |mut file: fs::File| {
            file.write_all(format!("{line}\n").as_bytes())?;
            file.stream_position()
        };
        let file = fs::OpenOptions::new().create(true).append(true).open(&path);
        let Ok(end) = file.and_then(reach) else { return false };
        let Some((wanted, nth)) = at.rsplit_once('#') else { return false };
        let trace = fs::read(&path).unwrap_or_default();
        let until_now = trace.get(..usize::try_from(end).unwrap_or(0)).unwrap_or_default();
        let count =
            until_now.split(|byte| *byte == b'\n').filter(|reached| *reached == line.as_bytes()).count();
        wanted == line && nth.parse() == Ok(count)
    }
}
