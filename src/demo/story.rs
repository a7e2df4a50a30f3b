//! The story: what a demo does, in order, and what has to come of each command.

use std::fs;
use std::io::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::ground::{Ground, free_port, typed_name};
use super::narrate::{Narrator, Scene, last_downtime};
use super::repository::{Repository, Version};
use super::server::Server;
use super::visitor::Visitor;
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::process::{Ended, Keep, Runner};
use crate::report::shell::quoted;
use crate::settings::names::CommitId;

/// How long the service has to answer a question of the story.
const ANSWER: Duration = Duration::from_secs(10);

/// Tells the whole story on a cleared ground.
///
/// # Errors
/// A command did not end as the story says, or the service does not run what it should.
pub(super) fn tell(ground: &Ground, port: Option<u16>, runner: &Runner, narrator: Narrator) -> Outcome<()> {
    let port = match port {
        Some(port) => port,
        None => free_port(&[])?,
    };
    let product = format!("{} --root {}", typed_name(), quoted(&ground.at("root").to_string_lossy()));
    let mut stage = Stage { ground, runner, narrator, product, port };

    stage.narrator.chapter("A small application, its repository, and an empty folder");
    let repository = Repository::make(runner, ground.folder())?;
    let mut deployed = repository.publish(Version::Initial)?;
    let server = Server::start(ground, &repository, port)?;
    stage.narrator.say(format!("{} serves {}", server.url(), Version::Initial.message()));
    stage.prepare_host()?;
    stage.play("init", &["init", "--repo", &server.url(), "--allow", "git"], Expected::Success)?;
    stage.configure_host(&server.url())?;

    stage.narrator.chapter("The first refresh: environment built, hooks run, service started and proved");
    stage.play("first refresh", &["run"], Expected::Success)?;
    stage.expect_running(&deployed)?;

    stage
        .narrator
        .chapter("New source, same requirements; and somebody has edited the deployed files by hand");
    stage.edit_by_hand()?;
    deployed = stage.publish(&repository, Version::Headline)?;
    stage.play("refresh: new source", &["run"], Expected::Success)?;
    stage.expect_running(&deployed)?;
    stage.play("what was kept", &["stash", "list"], Expected::Success)?;

    stage.narrator.chapter("One more package: the new environment is built while the old one still serves");
    deployed = stage.publish(&repository, Version::FriendlyTimes)?;
    stage.play("what would happen", &["plan"], Expected::Success)?;
    stage.play("refresh: changed requirements", &["run"], Expected::Success)?;
    stage.expect_running(&deployed)?;

    stage.narrator.chapter("A migration that fails: halted, stopped, fenced");
    stage.publish(&repository, Version::BrokenMigration)?;
    stage.play("refresh: broken migration", &["run"], Expected::Halt)?;
    stage.expect_down()?;
    stage.narrator.say("Nothing starts the service now, not even by hand:");
    stage.play("start behind the fence", &["service", "start"], Expected::Refusal)?;
    stage.expect_down()?;

    stage.narrator.chapter("The way back: rollback to the version before");
    stage.play("rollback", &["rollback"], Expected::Success)?;
    stage.expect_running(&deployed)?;

    stage.narrator.chapter("The way forward: the repaired migration");
    deployed = stage.publish(&repository, Version::RepairedMigration)?;
    stage.play("refresh: repaired migration", &["run"], Expected::Success)?;
    stage.expect_running(&deployed)?;
    stage.play("status", &["status"], Expected::Success)?;

    let url = format!("http://127.0.0.1:{}/", stage.port);
    stage.narrator.ending(ground, &stage.product, &url);
    Ok(())
}

/// How a command has to end for the story to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// Exit code 0.
    Success,
    /// Exit code 1: a refresh that halted after the stop.
    Halt,
    /// Any exit code but 0.
    Refusal,
}

impl Expected {
    fn is_met_by(self, code: i32) -> bool {
        match self {
            Self::Success => code == 0,
            Self::Halt => code == 1,
            Self::Refusal => code != 0,
        }
    }
}

/// What the story is played with.
struct Stage<'a> {
    ground: &'a Ground,
    runner: &'a Runner,
    narrator: Narrator,
    product: String,
    port: u16,
}

impl Stage<'_> {
    /// Types a command of the product, shows what it says, and notes how long it took.
    fn play(&mut self, title: &str, words: &[&str], expected: Expected) -> Outcome<()> {
        self.narrator.typed(&format!("{} {}", self.product, words.join(" ")));
        let start = clock::monotonic();
        let program = self.ground.product(self.runner, words).keep(Keep::Narrated(title.to_owned()));
        let visitor = (words == ["run"] && expected == Expected::Success && self.answers())
            .then(|| Visitor::start(format!("http://127.0.0.1:{}/", self.port)));
        let finished = self.runner.run(&program);
        let took = clock::monotonic() - start;
        let visits = visitor.map(Visitor::end);
        let finished = finished?;
        let Ended::Exited(code) = finished.ended else {
            return Err(finished.failure(&format!("the demo cannot go on after '{title}'")));
        };
        // After a halt the service is still down, for as long as it takes a person to act.
        let came_back = code == 0 && matches!(words, ["run" | "rollback", ..]);
        let downtime = came_back.then(|| last_downtime(&self.ground.layout().status_file())).flatten();
        self.narrator.played(Scene { title: title.to_owned(), code, took, downtime });
        if let Some(visits) = visits {
            self.narrator.say(format!("-- {visits}"));
        }
        if expected.is_met_by(code) {
            Ok(())
        } else {
            Err(finished.failure(&format!("'{title}' did not end as the demo expects ({expected:?})")))
        }
    }

    fn publish(&self, repository: &Repository<'_>, version: Version) -> Outcome<CommitId> {
        let commit = repository.publish(version)?;
        self.narrator.say(format!("pushed {} {}", commit.short(), version.message()));
        Ok(commit)
    }

    /// Writes the service's environment file, as whoever sets up a machine does.
    fn prepare_host(&self) -> Outcome<()> {
        let layout = self.ground.layout();
        let [data, ..] = layout.data();
        disk::make_folder(&layout.etc(), 0o755)?;
        let text = format!("LADYLINUX_PORT={}\nLADYLINUX_DATA={}\n", self.port, data.display());
        disk::write_atomic(&layout.env_file(), text.as_bytes(), 0o600)
    }

    /// Writes the host's settings: where the source comes from, how the service is run and proved.
    fn configure_host(&self, url: &str) -> Outcome<()> {
        let text = format!(
            "# Written by the demo.\n\n\
             [remote]\nurl = \"{url}\"\nallow = [\"git\"]\n\n\
             [service]\ncommand = [\"{{venv}}/bin/uvicorn\", \"api_layer:app\", \"--fd\", \"3\"]\n\
             socket = true\n\n\
             [probe]\njson_field = \"commit\"\njson_value = \"{{commit}}\"\nsettle = \"1s\"\n"
        );
        disk::write_atomic(&self.ground.layout().host_file(), text.as_bytes(), 0o644)
    }

    /// Changes a tracked file and adds an untracked one, as people do in a hurry.
    fn edit_by_hand(&self) -> Outcome<()> {
        let app = self.ground.layout().app();
        let told = || "cannot edit the deployed files".to_owned();
        for (name, text) in
            [("templates/page.html", "<!-- quick fix -->\n"), ("todo.txt", "remember the milk\n")]
        {
            self.narrator.typed(&format!(
                "echo '{}' >> {}",
                text.trim(),
                quoted(&app.join(name).to_string_lossy())
            ));
            disk::open_append(&app.join(name), 0o644)?.write_all(text.as_bytes()).context(told)?;
        }
        Ok(())
    }

    /// Asks the service itself which commit it runs, and makes sure that the saved edits are gone from the tree.
    fn expect_running(&self, commit: &CommitId) -> Outcome<()> {
        let url = format!("http://127.0.0.1:{}/api/status", self.port);
        self.narrator.typed(&format!("curl {url}"));
        let answer = fetch(&url, ANSWER)?;
        self.narrator.say(format!("    {answer}"));
        let status: Value = serde_json::from_str(&answer).context(|| format!("{url} answers no JSON"))?;
        if status["commit"] != commit.as_str() {
            return Err(Failure::new(format!("the service runs {}, not {commit}", status["commit"])));
        }
        if fs::exists(self.ground.layout().app().join("todo.txt")).unwrap_or(false) {
            return Err(Failure::new("the deployed tree still holds a file that is not part of the commit"));
        }
        Ok(())
    }

    /// Returns whether connections to the service's port are taken.
    fn answers(&self) -> bool {
        std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, self.port)).is_ok()
    }

    /// Makes sure that nobody answers on the service's port.
    fn expect_down(&self) -> Outcome<()> {
        if self.answers() {
            return Err(Failure::new(format!("port {} still answers after the halt", self.port)));
        }
        self.narrator.say(format!("nothing answers on port {}", self.port));
        Ok(())
    }
}

/// Asks for a page of the loopback interface.
pub(super) fn fetch(url: &str, limit: Duration) -> Outcome<String> {
    let told = || format!("cannot read {url}");
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(limit)).proxy(None).build().into();
    agent.get(url).call().context(told)?.body_mut().read_to_string().context(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_may_have_any_code_and_a_halt_only_its_own() {
        assert!(Expected::Refusal.is_met_by(3) && !Expected::Refusal.is_met_by(0));
        assert!(Expected::Halt.is_met_by(1) && !Expected::Halt.is_met_by(3));
        assert!(Expected::Success.is_met_by(0) && !Expected::Success.is_met_by(1));
    }
}
