//! Each step fails in turn on a machine. The service is down and stays down, each attempt to start it is refused with
//! the reason, and a boot does not start it. The error names the cause, and the next successful run repairs everything.

#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use crate::lab;
use crate::site;

use lab::{Disk, How, Lab, Machine, Ran, Server, until};
use site::Site;

/// A short health check. Its settling time is longer than the life of the service that dies.
const TABLES: &str = "[probe]\nsettle = \"4s\"\ndeadline = \"20s\"\nstatus = 200\n";

/// A way to fail.
struct Trouble {
    what: &'static str,
    /// Files of the commit that brings the failure; an empty text removes a file.
    files: &'static [(&'static str, &'static str)],
    /// The command of the run.
    command: &'static str,
    /// The step that fails, and the expected texts of the error.
    step: &'static str,
    cause: &'static [&'static str],
}

const TROUBLES: [Trouble; 5] = [
    Trouble {
        what: "the environment cannot be built",
        files: &[("requirements.txt", "no-such-package-anywhere==1.0\n")],
        command: "run --no-stage",
        step: "step 3 (environment)",
        cause: &["no-such-package-anywhere"],
    },
    Trouble {
        what: "a hook fails",
        files: &[("hooks/assets.py", "raise SystemExit('the style sheet has no colours')\n")],
        command: "run",
        step: "step 4 (prepare)",
        cause: &["assets", "the style sheet has no colours"],
    },
    Trouble {
        what: "the application does not start",
        files: &[
            ("api_layer.py", "raise RuntimeError('no model was named')\n"),
            ("hooks/check.py", "pass\n"),
        ],
        command: "run",
        step: "step 5 (restart)",
        cause: &["no model was named"],
    },
    Trouble {
        what: "the application starts and dies after 3 s",
        files: &[
            (
                "api_layer.py",
                "import os, threading\nfrom fastapi import FastAPI\napp = FastAPI()\n\
             @app.get('/api/status')\ndef status():\n    return {}\n\
             def end():\n    print('out of memory, more or less', flush=True)\n    os._exit(3)\n\
             threading.Timer(3, end).start()\n",
            ),
            ("hooks/check.py", "pass\n"),
        ],
        command: "run",
        step: "step 5 (restart)",
        cause: &["out of memory, more or less"],
    },
    Trouble {
        what: "the probe is never good",
        files: &[(
            "api_layer.py",
            "from fastapi import FastAPI, Response\napp = FastAPI()\n\
             @app.get('/api/status')\ndef status():\n    return Response(status_code=503)\n",
        )],
        command: "run",
        step: "step 5 (restart)",
        cause: &["status 503 instead of 200"],
    },
];

/// Asserts a halt: fenced now and after a boot.
#[track_caller]
fn expect_halted(site: &mut Site, ran: Ran, what: &str, step: &str, cause: &[&str]) {
    let mut ran =
        ran.expect(1).prints(&format!("error in {step}")).prints("stopped and fenced").prints("next ");
    for part in cause {
        ran = ran.prints(part);
    }
    drop(ran);
    site.expect_fenced();
    site.machine.reboot();
    assert_eq!(site.machine.exec("systemctl is-enabled ladylinux-api").expect(0).out, "enabled\n", "{what}");
    site.expect_fenced();
    assert_eq!(site.status()["last_run"]["result"], "halted", "{what}");
}

#[test]
fn rw_7_1a_rw_7_1b_after_any_failed_step_the_service_is_down_with_its_cause_until_the_next_run() {
    let Some(lab) = Lab::open() else { return };
    let mut site = Site::running(&lab, Disk::Shared, TABLES);
    site.add_note("written before all the trouble");
    let inventory = site.inventory();
    for trouble in &TROUBLES {
        site.server.push(trouble.files);
        let ran = site.machine.tool(trouble.command);
        expect_halted(&mut site, ran, trouble.what, trouble.step, trouble.cause);

        let good = repaired(&site.server);
        site.machine.tool("run").expect(0);
        site.expect_running(&good);
        assert!(site.notes().contains(&"written before all the trouble".to_owned()), "{}", trouble.what);
        assert_eq!(site.inventory(), inventory, "{}", trouble.what);
    }
}

#[test]
fn rw_7_1a_a_network_that_fails_during_a_fetch_halts_only_a_run_that_had_begun() {
    let Some(lab) = Lab::open() else { return };
    let mut site = Site::running(&lab, Disk::Shared, TABLES);
    let first = site.status()["commit"].as_str().unwrap().to_owned();
    impatient(&site.machine);

    // Staged: nothing has been touched yet, and the service still runs.
    big_commit(&site.server, 1);
    cut_in_mid_transfer(&site, "run").expect(3).prints("staging").prints("nothing was changed");
    site.expect_running(&first);

    // Inside the steps: down, and fenced.
    big_commit(&site.server, 2);
    let ran = cut_in_mid_transfer(&site, "run --no-stage");
    // The fetch is repeated, and for the last attempt the remote is silent or gone.
    let printed = ran.all();
    assert!(
        printed.contains("stopped sending") && printed.contains("without a sign of life")
            || printed.contains("cannot be reached"),
        "{printed}"
    );
    expect_halted(&mut site, ran, "the fetch", "step 2 (sync)", &[]);
    let good = repaired(&site.server);
    site.machine.tool("run").expect(0);
    site.expect_running(&good);
}

/// Runs a command whose fetch is cut off after it has received some data.
fn cut_in_mid_transfer(site: &Site, command: &str) -> Ran {
    let held = || site.server.requests().iter().filter(|line| line.ends_with("HELD")).count();
    let before = held();
    site.server.hold("git-upload-pack", 200_000);
    let ran = std::thread::scope(|scope| {
        let running = scope.spawn(|| site.machine.tool(command));
        until("an answer that is held", || (held() > before || running.is_finished()).then_some(()));
        assert!(held() > before, "the run ended before anything was held: {:?}", running.join());
        site.network.partition("web");
        running.join().unwrap()
    });
    site.network.heal("web");
    site.server.release();
    // Until each machine has found the address of the other again.
    until("the network is whole again", || {
        let asked = site.machine.exec("curl --insecure --silent --output /dev/null https://source/");
        (asked.code == Some(0)).then_some(())
    });
    ran
}

/// A fetch that receives nothing for a while is given up soon.
fn impatient(machine: &Machine) {
    let settings =
        Server::settings(How::Https, "", TABLES).replacen("[remote]\n", "[remote]\nstall = \"5s\"\n", 1);
    machine.write("/etc/ladylinux/refresh.toml", &settings);
}

/// A commit whose objects do not fit into the first packets.
fn big_commit(server: &Server, seed: u64) {
    let mut state = seed;
    let text: String = (0..400_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
        })
        .collect();
    server.push(&[("assets/noise.txt", &text)]);
}

/// Pushes the working application again, as a new commit.
fn repaired(server: &Server) -> String {
    server.push_demo(1)
}
