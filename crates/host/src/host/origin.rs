//! The URL of the remote `origin` of a clone, read with the rights of its owner. It changes nothing.

use std::fs::OpenOptions;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use refresh_programs::process::Runner;
use refresh_programs::units::{Role, UnitOptions, Units};
use refresh_settings::layout::Layout;
use refresh_settings::{RemoteUrl, Transport};
use refresh_system::disk::Owner;

/// The worker's operation that reads the URL of `origin` of a clone.
pub const OPERATION: &str = "read-origin";

/// Its time limit.
const DEADLINE: Duration = Duration::from_secs(30);

/// The clone to read.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadOriginRequest {
    app: PathBuf,
}

/// Reads, with the rights of the owner of `app/`, the URL of `origin` in `app/.git`; `None` if it cannot be read.
pub(super) fn origin(layout: &Layout, runner: &Runner) -> Option<String> {
    let app = layout.app();
    let owner = Owner::of(&app).ok()?;
    if Owner::own().uid != 0 || owner.uid == 0 {
        return origin_of(&app);
    }
    let options = UnitOptions::new(Role::Inspect, DEADLINE);
    let units = Units::new(layout, runner, owner);
    units.call_as(&options, owner, OPERATION, &ReadOriginRequest { app }).ok().flatten()
}

/// Performs the worker's side of [`OPERATION`].
pub fn handle(request: &ReadOriginRequest) -> Option<String> {
    origin_of(&request.app)
}

/// Returns the URL of `origin` in `app/.git`, if it is valid as a setting: it may be any text, and may contain a
/// secret.
fn origin_of(app: &Path) -> Option<String> {
    let mut file = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).ok()?)
        .open(app.join(".git/config"))
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.by_ref().take(64 << 10).read_to_end(&mut text).ok()?;
    origin_in(&String::from_utf8_lossy(&text))
}

fn origin_in(config: &str) -> Option<String> {
    let mut inside = false;
    let mut url = None;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[remote \"origin\"]";
        } else if let Some((key, value)) = line.split_once('=')
            && inside
            && key.trim() == "url"
        {
            url = Some(value.trim().trim_matches('"').to_owned());
        }
    }
    let all = [Transport::Http, Transport::Git, Transport::File];
    url.filter(|url| RemoteUrl::parse(url, &all).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_clone_is_found_and_one_with_a_secret_is_not_shown() {
        let config = |url: &str| {
            format!(
                "[core]\n\tbare = false\n[remote \"other\"]\n\turl = https://o/x\n[remote \"origin\"]\n\turl = {url}\n[branch \"main\"]\n\turl = no\n"
            )
        };
        assert_eq!(origin_in(&config("https://h/r.git")).as_deref(), Some("https://h/r.git"));
        assert_eq!(origin_in(&config("https://me:secret@h/r.git")), None);
        assert_eq!(origin_in(&config("ext::sh -c x")), None);
        assert_eq!(origin_in("[core]\n"), None);
    }

    #[test]
    fn a_config_that_is_a_link_or_a_pipe_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let git = directory.path().join(".git");
        refresh_system::disk::make_directory(&git, 0o755).unwrap();
        let other = directory.path().join("other");
        refresh_system::disk::write_atomic(&other, b"[remote \"origin\"]\nurl = https://h/r.git\n", 0o644)
            .unwrap();
        refresh_system::disk::point_link(&git.join("config"), &other).unwrap();
        assert_eq!(origin_of(directory.path()), None);
        refresh_system::disk::remove_file_if_there(&git.join("config")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, git.join("config"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        assert_eq!(origin_of(directory.path()), None);
    }
}
