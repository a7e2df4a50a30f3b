//! Processes that a killed run left behind: found by their mark, and ended with their process groups.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use refresh_settings::names::RunId;
use refresh_system::clock;
use refresh_system::error::{Failure, Outcome};

use super::identity::{ProcessId, all_pids};

/// The environment variable that marks every process of a run with the run's name.
pub const RUN_MARK: &str = "LADYLINUX_REFRESH_RUN";

/// Ends every process with the mark of run `id`, and those of its process group that its user may end, except the
/// processes `but` and their groups. Returns the ended ones that had the mark, as `pid (command)`.
///
/// # Errors
/// A process still exists after SIGKILL and `patience`: it hangs in the kernel or belongs to another user.
pub fn end(id: &RunId, but: &[ProcessId], patience: Duration) -> Outcome<Vec<String>> {
    let spared: Vec<i32> = [&ProcessId::own()].into_iter().chain(but).filter_map(|it| it.group()).collect();
    let mut ended = Vec::new();
    let limit = clock::monotonic() + patience;
    loop {
        let mut marked = marked(id);
        marked.retain(|process| !but.contains(process));
        if marked.is_empty() {
            return Ok(ended);
        }
        for process in &marked {
            let line = format!("{} ({})", process.pid, process.command());
            if !ended.iter().any(|known| known.starts_with(&format!("{} ", process.pid))) {
                ended.push(line);
            }
            // A process that cleared its environment has no mark, and is still in the group.
            if let Some(group) = process.group().filter(|group| !spared.contains(group)) {
                of_same_user(*process, group).for_each(kill);
            }
            kill(*process);
        }
        if clock::monotonic() > limit {
            let left: Vec<String> =
                marked.iter().map(|process| format!("{} ({})", process.pid, process.command())).collect();
            return Err(Failure::new(format!("processes of run {id} cannot be ended: {}", left.join(", ")))
                .hint(format!(
                    "read /proc/{}/stack as root: the process hangs in the kernel",
                    marked[0].pid
                )));
        }
        clock::sleep_uninterrupted(Duration::from_millis(10));
    }
}

fn kill(process: ProcessId) {
    if let Some(pid) = Pid::from_raw(process.pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Returns the members of a group that the user of a marked process has started; all of them if that user is root. Any
/// process can set the mark, also one that shares the group of a script of root.
fn of_same_user(marked: ProcessId, group: i32) -> impl Iterator<Item = ProcessId> {
    let user = marked.real_uid();
    let is_same = move |it: &ProcessId| user == Some(0) || user.is_some() && it.real_uid() == user;
    let processes = all_pids().into_iter().filter_map(ProcessId::of);
    processes.filter(move |it| it.group() == Some(group) && is_same(it))
}

/// Returns the living processes that carry the mark of run `id`, except this one.
pub fn marked(id: &RunId) -> Vec<ProcessId> {
    let own = ProcessId::own();
    all_pids()
        .into_iter()
        .filter_map(ProcessId::of)
        .filter(|process| *process != own && process.variable(RUN_MARK).as_deref() == Some(id.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs a group with a process that has no mark")]
    fn a_process_without_the_mark_ends_with_its_group_and_an_excepted_group_stays() {
        let id = RunId::parse(&format!("test-{}", std::process::id())).unwrap();
        let mut shell = Command::new("/bin/sh")
            .args(["-c", "env -i sleep 1000 & echo $!; wait"])
            .env(RUN_MARK, id.as_str())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let leader = ProcessId::of(i32::try_from(shell.id()).unwrap()).unwrap();
        let sleeper: i32 = line.trim().parse().unwrap();
        // Until env has become sleep, it has the mark too.
        let limit = clock::monotonic() + Duration::from_secs(20);
        while marked(&id) != [leader] && clock::monotonic() < limit {
            std::thread::yield_now();
        }
        let sleeper = ProcessId::of(sleeper).unwrap();
        assert_eq!(sleeper.group(), Some(leader.pid));
        assert!(end(&id, &[leader], Duration::from_secs(20)).unwrap().is_empty());
        assert!(leader.is_alive() && sleeper.is_alive());

        let ended = end(&id, &[], Duration::from_secs(20)).unwrap();
        assert!(ended.len() == 1 && ended[0].starts_with(&format!("{} (", leader.pid)), "{ended:?}");
        shell.wait().unwrap();
        while sleeper.is_alive() && clock::monotonic() < limit {
            std::thread::yield_now();
        }
        assert!(!sleeper.is_alive());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test needs a group with processes of two users")]
    fn a_marked_process_of_another_user_ends_without_the_processes_of_root_in_its_group() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let id = RunId::parse(&format!("test-users-{}", std::process::id())).unwrap();
        let sleep = || {
            let mut command = Command::new("/bin/sleep");
            command.arg("1000");
            command
        };
        let mut of_root = sleep().process_group(0).spawn().unwrap();
        let group = i32::try_from(of_root.id()).unwrap();
        let mut marked = sleep().env(RUN_MARK, id.as_str()).uid(65534).process_group(group).spawn().unwrap();
        let process = ProcessId::of(group).unwrap();
        let ended = end(&id, &[], Duration::from_secs(20)).unwrap();
        let is_alive = process.is_alive();
        of_root.kill().unwrap();
        of_root.wait().unwrap();
        marked.wait().unwrap();
        assert!(ended.len() == 1 && ended[0].starts_with(&format!("{} (", marked.id())), "{ended:?}");
        assert!(is_alive);
    }
}
