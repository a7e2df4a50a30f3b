//! The server of the demo's repository: `git daemon` on the loopback interface, which stays after the demo so that
//! more can be pushed and refreshed.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ground::{Ground, MARK, free_port};
use super::repository::{NAME, Repository};
use crate::clock;
use crate::disk;
use crate::error::{Failure, Outcome};
use crate::process::{ProcessId, Program, detached};
use crate::report::shell::quoted_path;

/// How often another port is tried when the one found free was taken in the meantime.
const ATTEMPTS: usize = 5;
/// How long the server may take until it answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Server {
    /// The process, for people: a demo finds its server by the mark in its environment.
    process: ProcessId,
    /// The port it listens on.
    port: u16,
}

impl Server {
    /// Starts the server of `repository` on a free port other than `taken` and waits until it answers.
    ///
    /// # Errors
    /// It cannot be started or ends by itself, time after time.
    pub(super) fn start(ground: &Ground, repository: &Repository<'_>, taken: u16) -> Outcome<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(ground, repository, taken) {
                Err(failure) if attempt == ATTEMPTS || failure.interrupted_by().is_some() => {
                    return Err(failure);
                }
                Err(_) => attempt += 1,
                Ok(server) => {
                    disk::write_json(&ground.at("upstream/server.json"), &server, 0o600)?;
                    return Ok(server);
                }
            }
        }
    }

    /// Returns the URL of the repository.
    pub(super) fn url(&self) -> String {
        format!("git://127.0.0.1:{}/{NAME}", self.port)
    }

    fn try_start(ground: &Ground, repository: &Repository<'_>, taken: u16) -> Outcome<Self> {
        let port = free_port(&[taken])?;
        let log = ground.at("server.log");
        let upstream = ground.at("upstream");
        let mut base = OsString::from("--base-path=");
        base.push(&upstream);
        let program = Program::new(repository.git())
            .args(["daemon", "--reuseaddr", "--listen=127.0.0.1", "--export-all", "--informative-errors"])
            .args(["--init-timeout=10", "--timeout=60"])
            .arg(format!("--port={port}"))
            .arg(base)
            .arg(&upstream)
            .folder(ground.folder())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env(MARK, ground.folder());
        let process = detached::spawn(&program, &log)?;
        let limit = clock::monotonic() + PATIENCE;
        while process.is_alive() && clock::monotonic() < limit {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() && process.is_alive() {
                return Ok(Self { process, port });
            }
            clock::pause(Duration::from_millis(10))?;
        }
        let said = disk::read_if_there(&log)?.unwrap_or_default();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        Err(Failure::new(format!("git daemon did not start to serve on port {port}"))
            .because(Failure::new(said))
            .hint(format!("cat {}", quoted_path(&log))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::repository::Version;
    use crate::event::Events;
    use crate::process::Runner;
    use std::sync::Arc;

    #[test]
    fn the_repository_is_served_until_everything_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let runner = Runner::new(Arc::new(Events::silent()));
        let ground = Ground::claim(&folder.path().join("demo")).unwrap();
        let repository = Repository::make(&runner, ground.folder()).unwrap();
        let commit = repository.publish(Version::Initial).unwrap();
        let server = Server::start(&ground, &repository, 0).unwrap();
        let listed = Program::new(repository.git()).args(["ls-remote", &server.url(), "refs/heads/main"]);
        let finished = runner.run(&listed).unwrap().ok(|| "cannot list".to_owned()).unwrap();
        assert_eq!(finished.text(), format!("{commit}\trefs/heads/main\n"));

        ground.clear(&runner).unwrap();
        assert!(!server.process.is_alive());
        assert!(!runner.run(&listed).unwrap().succeeded());
        assert!(!ground.at("upstream").exists());
    }
}
