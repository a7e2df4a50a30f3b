//! What people have to change themselves on a machine that was set up before: found by looking, told at the end of
//! `init`, never done.

use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::error::Outcome;
use crate::git::Git;
use crate::plan::preflight;
use crate::process::{Owner, Runner};
use crate::report::screen::{Tone, count, harmless_line, paint, say};
use crate::report::shell::{quoted, quoted_path};
use crate::settings::layout::Layout;
use crate::settings::{RemoteUrl, Transport};
use crate::source::exchange;
use crate::source::work_tree::{self, Head, set_origin_command};
use crate::units::{Job, Role, Units};

use super::{Host, Keeper, SERVICE_USER, unit, user};

/// The worker's operation that reads what a clone calls origin.
pub const OPERATION: &str = "read-origin";

/// How long that may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Which clone is read.
#[derive(Debug, Serialize, Deserialize)]
pub struct ReadOriginRequest {
    app: PathBuf,
}

/// One thing for people to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What is the case.
    what: String,
    /// Why that matters.
    why: String,
    /// What to do about it.
    todo: String,
}

impl Note {
    /// Returns a note: what is the case, why it matters, what to do.
    pub fn new(what: impl Into<String>, why: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), todo: todo.into() }
    }
}

/// Returns what the doctor has no check for; only reads. What needs the mirror is left out where there is none yet.
///
/// # Errors
/// Something cannot be looked at.
pub fn notes(host: &Host) -> Outcome<Vec<Note>> {
    let mut notes = Vec::new();
    if host.layout.is_real() {
        notes.extend(login());
    }
    if let (true, Ok(owner)) = (host.layout.app().join(".git").is_dir(), host.owner()) {
        notes.extend(host.with_git(|git, _| tree(host, git, owner))?);
    }
    if matches!(host.keeper, Keeper::Systemd { .. }) {
        notes.extend(drift(host)?);
    }
    notes.extend(callers(host)?);
    notes.extend(scripts(host));
    Ok(notes)
}

/// Tells the notes, numbered.
pub fn tell(host: &Host, notes: &[Note]) {
    if notes.is_empty() {
        return;
    }
    say("");
    say(&paint(Tone::Strong, &format!("left to people ({}):", count(notes.len(), "thing"))));
    for (number, note) in (1..).zip(notes) {
        let todo = crate::installation::as_typed(&host.layout, &note.todo);
        say(&format!("{number:>3}. {}", harmless_line(&note.what)));
        say(&format!("     why   {}", harmless_line(&note.why)));
        say(&format!("     do    {}", paint(Tone::Strong, &harmless_line(&todo))));
    }
    say("");
}

/// Whether the service user can log in.
fn login() -> Option<Note> {
    let shell = user::login_shell()?;
    Some(Note::new(
        format!("{SERVICE_USER} can log in, with {shell}"),
        "it is the user of a service",
        format!("usermod --shell /usr/sbin/nologin {SERVICE_USER}"),
    ))
}

/// The work tree: what a run would stumble over, and what it will change.
fn tree(host: &Host, git: &Git, owner: Owner) -> Outcome<Vec<Note>> {
    let app = host.layout.app();
    let mut notes = Vec::new();
    let refused = "a run is refused as long as it is so";
    if host.layout.is_real() && Owner::of(&app)?.uid == 0 {
        notes.push(Note::new(
            format!("{} belongs to root", app.display()),
            refused,
            preflight::give_to_service_user(&app),
        ));
    }
    let state = work_tree::read(&host.layout, git, &Units::new(&host.layout, &host.runner, owner))?;
    for entry in &state.immovable {
        let failure = exchange::immovable(entry.path.as_path(), entry.obstacle);
        notes.push(Note::new(failure.chain().join(": "), refused, entry.obstacle.cure(entry.path.as_path())));
    }
    let wanted = host.given.settings.remote.url.as_ref().map(|url| url.text.as_str());
    if let (Some(origin), Some(wanted)) = (origin(&host.layout, &host.runner), wanted)
        && origin != wanted
    {
        notes.push(Note::new(
            format!("{}/.git fetches from {origin}, a run from {wanted}", app.display()),
            "a run never reads what app/.git says; people who use git there are led elsewhere",
            set_origin_command(owner, &app, wanted),
        ));
    }
    let branch = host.given.branch.as_str();
    match state.head {
        Some(Head::Branch(now)) if now != branch => notes.push(Note::new(
            format!("{} is on the branch {now}, and a run brings it to {branch}", app.display()),
            "what the other branch has and this one has not is gone from the tree then; local changes are saved",
            another_branch(&now),
        )),
        _ => {}
    }
    Ok(notes)
}

/// The advice for a work tree on a branch that may be the one that is meant.
fn another_branch(now: &str) -> String {
    format!("ladylinux-refresh run {}, where that one is meant", quoted(now))
}

/// A unit that `init` made from other settings: an installed unit is never changed.
fn drift(host: &Host) -> Outcome<Option<Note>> {
    let settings = &host.given.settings;
    let Some(path) = unit::installed(&host.layout, &settings.service.unit) else { return Ok(None) };
    let note = |drift: String| {
        Note::new(
            drift,
            "an installed unit is yours and is never overwritten; the settings or this program have changed since",
            format!("rm {} && ladylinux-refresh init", quoted_path(&path)),
        )
    };
    Ok(unit::drift(&path, settings)?.map(note))
}

/// Files of the application that call what takes rights of root: the button of its page.
fn callers(host: &Host) -> Outcome<Vec<Note>> {
    let Some(commit) = host.mirrored()? else { return Ok(Vec::new()) };
    let on = host.installation()?;
    let mut files: Vec<PathBuf> = Vec::new();
    for word in ["sudo", "systemd-run"] {
        files.extend(on.mirror.mentions(&commit, word)?);
    }
    files.retain(|path| path.extension().is_some_and(|ending| ending == "py"));
    files.sort();
    files.dedup();
    let Some(first) = files.first() else { return Ok(Vec::new()) };
    let more = if files.len() > 1 { format!(" (and {} more)", files.len() - 1) } else { String::new() };
    Ok(vec![Note::new(
        format!("the application calls sudo or systemd-run in {}{more}", first.display()),
        "a button that refreshes needs no rights of root: the application creates a file, and root decides",
        format!(
            "let it create a file in {} (docs/requests.md), and name the branch in {}: allowed_branches = [\"{}\"]",
            host.layout.requests().display(),
            host.layout.host_file().display(),
            host.given.branch
        ),
    )])
}

/// Scripts beside the work tree that refreshed by hand.
fn scripts(host: &Host) -> Vec<Note> {
    let home = host.layout.home();
    let mut found: Vec<PathBuf> = [home.clone(), home.join("scripts")]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sh"))
        .collect();
    found.sort();
    if found.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = found.iter().map(|path| quoted_path(path)).collect();
    vec![Note::new(
        format!("there are scripts beside the work tree: {}", names.join(", ")),
        "a script that stops, resets or installs by itself knows neither the fence nor the generations",
        format!("look what they do, then: rm {}", names.join(" ")),
    )]
}

/// Reads, with the rights of the owner of `app/`, what `app/.git` calls origin; `None` where that cannot be read.
pub(super) fn origin(layout: &Layout, runner: &Runner) -> Option<String> {
    let app = layout.app();
    let owner = Owner::of(&app).ok()?;
    if Owner::own().uid != 0 || owner.uid == 0 {
        return origin_of(&app);
    }
    let job = Job::new(Role::Inspect, DEADLINE);
    let units = Units::new(layout, runner, owner);
    units.call_as(&job, owner, OPERATION, &ReadOriginRequest { app }).ok().flatten()
}

/// Does the worker's side of [`OPERATION`].
pub fn handle(request: &ReadOriginRequest) -> Option<String> {
    origin_of(&request.app)
}

/// Returns the URL that `app/.git` calls origin, where it is one that could be set: it may be anything, and a secret may
/// stand in it.
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
    fn the_origin_of_a_clone_is_found_and_one_with_a_secret_is_not_told() {
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
    fn the_name_of_a_branch_stays_one_word_of_the_advice() {
        assert_eq!(
            another_branch("x;id>/tmp/pwn;$(id)"),
            "ladylinux-refresh run 'x;id>/tmp/pwn;$(id)', where that one is meant"
        );
    }

    #[test]
    fn a_config_that_is_a_link_or_a_pipe_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let git = directory.path().join(".git");
        crate::disk::make_directory(&git, 0o755).unwrap();
        let other = directory.path().join("other");
        crate::disk::write_atomic(&other, b"[remote \"origin\"]\nurl = https://h/r.git\n", 0o644).unwrap();
        crate::disk::point_link(&git.join("config"), &other).unwrap();
        assert_eq!(origin_of(directory.path()), None);
        crate::disk::remove_file_if_there(&git.join("config")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(rustix::fs::CWD, git.join("config"), rustix::fs::FileType::Fifo, mode, 0)
            .unwrap();
        assert_eq!(origin_of(directory.path()), None);
    }
}
