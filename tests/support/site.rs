//! A LadyLinux machine of the lab beside the server that it is refreshed from: set up by `init` like any other, running
//! the demo's application (`FastAPI` under uvicorn) as a unit of systemd.
#![expect(unreachable_pub, reason = "a module of a test is private, although its items are `pub`")]
#![allow(clippy::unwrap_used, reason = "a test that cannot continue is a failed test")]

use serde_json::Value;

use crate::lab::{Disk, How, Lab, Machine, Network, Ran, Server, until};

/// The address of the application, inside the machine.
pub const URL: &str = "http://127.0.0.1:8000/api/status";
/// The unit.
pub const UNIT: &str = "ladylinux-api.service";

/// The directories of persistent data.
const DATA: [&str; 3] = ["/var/lib/ladylinux/data", "/var/lib/ladylinux/cache", "/var/lib/ladylinux/logs"];

/// The health check of the tests: only the new version passes, and it settles quickly.
pub const PROBE: &str = "[probe]\nsettle = \"500ms\"\ndeadline = \"60s\"\njson_field = \"commit\"\n\
                         json_value = \"{commit}\"\n";

/// The machine, its server and their network.
pub struct Site {
    pub server: Server,
    pub machine: Machine,
    pub network: Network,
}

impl Site {
    /// A machine with only the program and the host's settings; the server has the application's first version.
    pub fn bare(lab: &Lab, disk: Disk, how: How, tables: &str) -> Self {
        let network = Network::new(lab);
        let server = Server::boot(&network);
        let machine = Machine::named(lab, "web").network(&network).disk(disk).boot();
        server.push_demo(1);
        server.configure(&machine, how, tables);
        machine.install_tool();
        Self { server, machine, network }
    }

    /// A machine that runs the application's first version.
    pub fn running(lab: &Lab, disk: Disk, tables: &str) -> Self {
        let site = Self::bare(lab, disk, How::Https, tables);
        site.machine.lend_uv();
        site.machine.tool("init").expect(0);
        site.machine.tool("run").expect(0);
        site.leave_sentinels();
        site
    }

    /// The answer of the application; `None` without an answer.
    pub fn answer(&self) -> Option<Value> {
        Some(serde_json::from_str(&self.machine.http(URL)?).unwrap())
    }

    /// The `status --json` of the installation.
    #[track_caller]
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.machine.tool("status --json").expect(0).out).unwrap()
    }

    /// Asserts that a commit is deployed and runs, and that all reports agree.
    #[track_caller]
    pub fn expect_running(&self, commit: &str) {
        let answer = self.answer().unwrap_or_else(|| panic!("nothing answers\n{}", self.why()));
        let status = self.status();
        assert_eq!(answer["commit"], commit);
        assert_eq!(status["commit"], commit);
        assert_eq!(status["deployed"]["commit"], commit);
        assert_eq!(answer["environment"], status["environment_name"]);
        assert_eq!(status["service"]["state"], "running", "{status:#}");
        assert_eq!(status["fence"], Value::Null);
    }

    /// Asserts that the service is down, and that neither a person nor a boot starts it.
    #[track_caller]
    pub fn expect_fenced(&self) {
        assert_ne!(self.status()["fence"], Value::Null);
        self.machine.exec(&format!("systemctl is-active {UNIT}")).expect(3);
        assert_eq!(self.machine.http(URL), None);
        let by_hand = self.machine.exec(&format!("systemctl start {UNIT}"));
        assert_ne!(by_hand.code, Some(0), "a fenced service was started by hand\n{}", by_hand.all());
        by_hand.prints("Assertion failed");
        assert_eq!(self.machine.http(URL), None);
    }

    /// Waits until the service that a boot starts answers.
    #[track_caller]
    pub fn await_answer(&self) -> Value {
        until("the application after the boot", || self.answer())
    }

    /// Keeps a note in the application's database.
    #[track_caller]
    pub fn add_note(&self, text: &str) {
        let body = serde_json::json!({ "text": text }).to_string();
        let post = "curl --fail --silent --header 'Content-Type: application/json' --data";
        self.machine.exec(&format!("{post} '{body}' http://127.0.0.1:8000/api/notes")).expect(0);
    }

    /// The texts of the notes in the application's database.
    pub fn notes(&self) -> Vec<String> {
        let notes = self.machine.http("http://127.0.0.1:8000/api/notes").expect("the application answers");
        let notes: Value = serde_json::from_str(&notes).unwrap();
        notes.as_array().unwrap().iter().map(|note| note["text"].as_str().unwrap().to_owned()).collect()
    }

    /// Leaves a file in each directory of persistent data, to which the application writes too.
    fn leave_sentinels(&self) {
        for directory in DATA {
            self.machine
                .exec_as("ladylinux", &format!("head -c 9000 /dev/urandom >{directory}/sentinel"))
                .expect(0);
        }
        self.machine.exec("sync").expect(0);
    }

    /// Path, mode, owner and digest of everything that no refresh may change: models, containers, configuration, and
    /// the files that [`Self::running`] has left among the data.
    #[track_caller]
    pub fn inventory(&self) -> String {
        let left = DATA.map(|directory| format!("{directory}/sentinel")).join(" ");
        let places = format!("/opt/ladylinux/models /opt/ladylinux/containers /etc/ladylinux {left}");
        let list = format!("find {places} -printf '%p %y %m %u:%g %l\\n' | sort");
        let sums = format!("find {places} -type f -print0 | sort -z | xargs -0 sha256sum; ls {left}");
        self.machine.exec(&format!("{list}; {sums}")).expect(0).out
    }

    /// The output of the machine for a test that cannot continue.
    pub fn why(&self) -> String {
        let Ran { out, err, .. } = self.machine.exec(&format!(
            "systemctl status --no-pager --full {UNIT}; ladylinux-refresh status; ladylinux-refresh history -n 3; \
             journalctl --no-pager --lines=60"
        ));
        format!("{out}\n{err}")
    }
}
