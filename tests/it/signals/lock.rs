//! One run at a time.

use std::fs::{self};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Hold, PATIENCE, end, left_over, send, start, until};
use crate::host::Host;
use crate::schema;
use rustix::process::Signal;

#[test]
fn of_two_runs_at_the_same_instant_one_works_and_the_other_names_it() {
    let host = Host::running();
    let pipe = Hold::new(&host);
    host.configure("", &pipe.hook("migration"));
    let mut both = [start(&host, &["run"]), start(&host, &["run"])];
    let limit = Instant::now() + PATIENCE;
    let loser = loop {
        if let Some(index) = both.iter_mut().position(|run| run.try_wait().unwrap().is_some()) {
            break index;
        }
        assert!(Instant::now() < limit, "both runs go on");
        std::thread::sleep(Duration::from_millis(2));
    };
    let [first, second] = both;
    let (mut worker, loser) = if loser == 0 { (second, first) } else { (first, second) };
    let printed = end(loser).expect(4);
    let typed = format!("ladylinux-refresh --root {} run --wait 5m", host.layout.root().display());
    for text in [&format!(" (pid {}) is in progress since 20", worker.id()), "left to that run", &typed] {
        assert!(printed.err.contains(text), "{text:?} is missing in\n{}", printed.err);
    }
    let object = schema::valid(&printed.out, "error.schema.json");
    assert_eq!((printed.out.lines().count(), &object["exit_code"]), (1, &4.into()));

    // Read-only commands work. Commands that would change something are refused.
    let held = pipe.reached(&mut worker);
    let status: serde_json::Value =
        serde_json::from_str(&host.tool(["status", "--json"]).expect(0).out).unwrap();
    assert!(status["running_now"].as_str().unwrap().ends_with(&format!("-{}", worker.id())), "{status:#}");
    for arguments in [
        &["plan"][..],
        &["rollback"],
        &["unfence"],
        &["init"],
        &["stash", "drop", "20250101T000000000Z-1"],
        &["run", "--lock-timeout", "1"],
    ] {
        let printed = host.tool(arguments).expect(4);
        if matches!(arguments, ["run" | "rollback", ..]) && arguments[1..] != ["--lock-timeout", "1"] {
            let mut words = arguments.to_vec();
            words[1..].sort_unstable();
            let again = format!(" {} --wait 5m", words.join(" "));
            assert!(printed.err.contains(&again), "{again:?} is missing in\n{}", printed.err);
        }
        assert!(printed.err.contains(&format!("(pid {}", worker.id())), "{arguments:?}\n{}", printed.err);
        assert!(
            printed.err.contains("  next         ladylinux-refresh --root "),
            "{arguments:?}\n{}",
            printed.err
        );
    }
    // A next command without all typed arguments would do something else.
    for arguments in [&["run", "--strict", "side"][..], &["rollback", "r-1"], &["unfence"]] {
        let again = format!(" {} --wait 5m\n", arguments.join(" "));
        let printed = host.tool(arguments).expect(4);
        assert!(printed.err.contains(&again), "{again:?} is missing in\n{}", printed.err);
    }
    // A waiting run gets its turn, and a signal ends the wait.
    let mut patient = start(&host, &["run", "--lock-timeout", "600"]);
    let impatient = start(&host, &["run", "--lock-timeout", "600"]);
    let lock = host.layout.lock_file().canonicalize().unwrap();
    for run in [&patient, &impatient] {
        // When the lock file is open its handlers for signals have been installed.
        let directory = PathBuf::from(format!("/proc/{}/fd", run.id()));
        until(&mut worker, || {
            let entries = fs::read_dir(&directory).ok()?.flatten();
            entries.filter_map(|entry| fs::read_link(entry.path()).ok()).find(|path| *path == lock)
        });
    }
    send(&impatient, Signal::TERM);
    end(impatient).expect(143);
    assert!(patient.try_wait().unwrap().is_none());
    drop(held);
    end(worker).expect(0);
    drop(pipe.reached(&mut patient));
    end(patient).expect(0);

    // A killed run holds nothing, and the next run ends the processes that it had started.
    let mut killed = start(&host, &["run"]);
    let held = pipe.reached(&mut killed);
    send(&killed, Signal::KILL);
    assert_eq!(end(killed).code, None);
    pipe.lift();
    host.tool(["run"]).expect(0).prints("was interrupted");
    drop(held);
    let staged = left_over(&host);
    assert!(staged.iter().all(|line| !line.contains("hold")), "{staged:?}");
    assert_eq!(host.version().as_deref(), Some("one"));
}
