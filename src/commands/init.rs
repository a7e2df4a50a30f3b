//! `init`: brings a directory, or an existing installation, to the deployment contract. Never overwrites.

use std::path::Path;
use std::sync::Arc;

use crate::cli::{InitArgs, LockArgs};
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::event::Events;
use crate::exit::{Ended, Error, Refusal};
use crate::installation::Installation;
use crate::journal::recover;
use crate::process::{Owner, Runner};
use crate::python::Current;
use crate::report::human::{Detail, Human};
use crate::report::screen::{count, say};
use crate::service::envfile::EnvFile;
use crate::service::probe;
use crate::settings::layers::{Layers, Overrides};
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, RunId};
use crate::settings::{RemoteUrl, Strategy, Transport};

use super::lock;
use super::run::{installer, usual_branch};

/// The user that a real machine's application belongs to.
const SERVICE_USER: &str = "ladylinux";

/// Makes what is missing; tells of what is there that it was left as it is. Everything that was given is checked first,
/// the remote and its branch included, so that a mistake leaves nothing behind.
pub(super) fn init(layout: &Layout, args: &InitArgs) -> Result<Ended, Error> {
    let branch = args.branch.as_deref().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let allow = transports(&args.allow).map_err(Error::Usage)?;
    let told = |failure| Refusal::of("init", failure);
    let text = settle_host_file(layout, args, branch.as_ref(), &allow).map_err(Error::Usage)?;
    let overrides = Overrides { installer: installer()?, ..Overrides::default() };
    let layers = Layers::of_text(layout, &text, overrides).map_err(Error::Usage)?;
    let settings = layers.resolve().map_err(Error::Usage)?;
    if settings.remote.url.is_none() {
        let failure = Failure::new("no remote is set").hint("ladylinux-refresh init --repo URL");
        return Err(Error::Usage(failure));
    }
    check_env_file(layout, args).map_err(Error::Usage)?;
    check_place(layout).map_err(told)?;
    let owner = owner(layout).map_err(told)?;
    let made = folders(layout, owner).map_err(told)?;
    let run = RunId::new(clock::now(), std::process::id());
    let _lock = lock(layout, "init", Some(&run), &LockArgs { lock_timeout: 0 })?;

    // Marked like a run's, so that whoever comes next can end what a killed init left.
    let runner = Runner::new(Arc::new(Events::new(vec![Box::new(Human::new(Detail::Brief))])))
        .for_run(run.clone(), layout.run(&run).join(recover::CHILDREN));
    let on = Installation::open(layers, runner).map_err(Error::Usage)?;
    let branch = branch.unwrap_or_else(|| usual_branch(&on));
    on.mirror.remote_tip(&branch).map_err(told)?;
    if made > 0 {
        say(&format!("made {} below {}", count(made, "folder"), layout.root().display()));
    }
    files(layout, args, &text, owner).map_err(told)?;
    let made = application(&on, &run, &branch).and_then(|()| environment(&on, &run));
    let released = on.mirror.release(&run);
    made.and(released).map_err(told)?;
    say(&format!("ready; refresh it with: {}", on.as_typed("ladylinux-refresh run")));
    Ok(Ended::Done)
}

/// Returns the text of the host's file: the one that is there, which what was given must not contradict, or a new one.
fn settle_host_file(
    layout: &Layout,
    args: &InitArgs,
    branch: Option<&BranchName>,
    allow: &[Transport],
) -> Outcome<String> {
    if let Some(url) = &args.repo {
        RemoteUrl::parse(url, allow).map_err(|failure| {
            if failure.hints().iter().any(|hint| hint.contains("remote.allow")) {
                let name = url.split("://").next().unwrap_or_default();
                return Failure::new(failure.summary()).hint(format!(
                    "use https or ssh, or allow it: ladylinux-refresh init --repo {url} --allow {name}"
                ));
            }
            failure
        })?;
    }
    let path = layout.host_file();
    let Some(bytes) = disk::read_if_there(&path)? else {
        return Ok(host_file(args.repo.as_deref(), branch, allow));
    };
    let text = String::from_utf8(bytes).context(|| format!("{} is not UTF-8", path.display()))?;
    let there = Layers::of_text(layout, &text, Overrides::default())?.resolve()?;
    let differs = |key: &str, given: &str| {
        Err(Failure::new(format!("{} is there and says something else than {given:?}", path.display()))
            .hint(format!("set {key} in it yourself; no command of this program changes it")))
    };
    match (&args.repo, &there.remote.url) {
        (Some(url), Some(now)) if *url != now.text => return differs("url under [remote]", url),
        (Some(url), None) => return differs("url under [remote]", url),
        _ => {}
    }
    match (branch, &there.branch) {
        (Some(branch), Some(now)) if branch != now => return differs("branch", branch.as_str()),
        _ => {}
    }
    Ok(text)
}

/// A port that is given must be the one of the env file, where that is there already.
fn check_env_file(layout: &Layout, args: &InitArgs) -> Outcome<()> {
    let path = layout.env_file();
    let Some(port) = args.port.filter(|_| path.exists()) else { return Ok(()) };
    if probe::service_port(&EnvFile::read(&path)?)? == port {
        return Ok(());
    }
    Err(Failure::new(format!("{} is there and names another port than {port}", path.display()))
        .hint("set LADYLINUX_PORT in it yourself; no command of this program changes it"))
}

/// Returns whom the installation will belong to: whom it belongs to already, below a root whoever calls, and on the
/// real machine the dedicated user, never root.
fn owner(layout: &Layout) -> Outcome<Owner> {
    if let Ok(owner) = Owner::of(&layout.app()) {
        return Ok(owner);
    }
    if !layout.is_real() {
        return Ok(Owner::of(&layout.home()).unwrap_or(Owner::own()));
    }
    Owner::named(SERVICE_USER)?.ok_or_else(|| {
        Failure::new(format!("there is no user {SERVICE_USER}, whom the application has to belong to"))
            .hint(format!("useradd --system --user-group --shell /usr/sbin/nologin {SERVICE_USER}"))
    })
}

fn transports(names: &[String]) -> Outcome<Vec<Transport>> {
    names
        .iter()
        .map(|name| {
            toml::Value::String(name.clone())
                .try_into()
                .context(|| format!("{name:?} is not a transport that can be allowed: http, git, file"))
        })
        .collect()
}

/// Refuses a place that is something else: the root of a world is made, what lies there is never taken over.
fn check_place(layout: &Layout) -> Outcome<()> {
    let root = layout.root();
    if root.exists() && !root.is_dir() {
        return Err(Failure::new(format!("{} is not a folder", root.display())));
    }
    let app = layout.app();
    if app.is_symlink() || (app.exists() && !app.join(".git").is_dir() && !is_empty(&app)) {
        return Err(Failure::new(format!("{} is there and is no Git work tree", app.display()))
            .hint(format!("look what is in it, then move it away: mv {0} {0}.old", app.display())));
    }
    Ok(())
}

fn is_empty(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|mut entries| entries.next().is_none())
}

/// Makes the folders of the contract that are missing; returns how many.
fn folders(layout: &Layout, owner: Owner) -> Outcome<usize> {
    let mut wanted = vec![
        (layout.home(), 0o755),
        (layout.app(), 0o755),
        (layout.venvs(), 0o755),
        (layout.models(), 0o755),
        (layout.containers(), 0o755),
        (layout.etc(), 0o755),
    ];
    wanted.extend(layout.data().map(|folder| (folder, 0o755)));
    wanted.push((layout.state(), 0o755));
    for folder in [layout.runs(), layout.generations(), layout.tools(), layout.cache(), layout.volatile()] {
        wanted.push((folder, 0o755));
    }
    let mut made = 0;
    let own = layout.data();
    for (folder, mode) in wanted {
        if !folder.is_dir() {
            disk::make_folder(&folder, mode)?;
            if own.contains(&folder) || folder == layout.models() || folder == layout.app() {
                disk::give(&folder, &owner)?;
            }
            made += 1;
        }
    }
    Ok(made)
}

fn files(layout: &Layout, args: &InitArgs, text: &str, owner: Owner) -> Outcome<()> {
    let host = layout.host_file();
    if host.exists() {
        say(&format!("left {} as it is", host.display()));
    } else {
        disk::write_atomic(&host, text.as_bytes(), 0o644)?;
        say(&format!("wrote {}", host.display()));
    }
    let env_file = layout.env_file();
    if env_file.exists() {
        say(&format!("left {} as it is", env_file.display()));
        return Ok(());
    }
    let port = args.port.unwrap_or(probe::DEFAULT_PORT);
    let text = format!(
        "# Runtime configuration of the service; no refresh ever writes here.\nLADYLINUX_PORT={port}\n\
         LADYLINUX_DATA=\"{}\"\n",
        layout.data()[0].display()
    );
    disk::write_atomic(&env_file, text.as_bytes(), 0o640)?;
    disk::give(&env_file, &owner)?;
    say(&format!("wrote {}", env_file.display()));
    Ok(())
}

fn application(on: &Installation, run: &RunId, branch: &BranchName) -> Outcome<()> {
    let app = on.layout.app();
    let commit = on.mirror.ensure(run, branch)?;
    if app.join(".git").exists() {
        let state = on.tree.inspect()?;
        let head = state.commit.as_ref().map_or("no commit", |commit| commit.short());
        say(&format!(
            "left {} as it is ({head}); the next run saves its local changes and aligns it",
            app.display()
        ));
        return Ok(());
    }
    on.tree.clone_from(&on.mirror, branch, &commit)?;
    say(&format!("cloned {} ({branch}) into {}", commit.short(), app.display()));
    Ok(())
}

fn environment(on: &Installation, run: &RunId) -> Outcome<()> {
    match on.environments().current()? {
        Current::Missing => {}
        Current::RealFolder => {
            say(&format!("left {} as it is; the first run adopts it", on.layout.venv().display()));
            return Ok(());
        }
        _ => {
            say(&format!("left {} as it is", on.layout.venv().display()));
            return Ok(());
        }
    }
    let Some(commit) = on.mirror.pinned(run)? else { return Ok(()) };
    let wanted = on.release(&commit)?.wanted(on)?;
    let ensured = on.environments().ensure(&wanted, Strategy::WhenChanged, run)?;
    on.environments().switch(&ensured.generation.name)?;
    let count = ensured.generation.record.packages.len();
    say(&format!("built {} with {count} packages", ensured.generation.name));
    Ok(())
}

/// The host's file as `init` puts it: what was given, and every other key as a comment with its default.
fn host_file(url: Option<&str>, branch: Option<&BranchName>, allow: &[Transport]) -> String {
    let url = url
        .map_or("# url = \"https://host/owner/repository.git\"".to_owned(), |url| format!("url = {url:?}"));
    let branch =
        branch.map_or("# branch = \"main\"".to_owned(), |branch| format!("branch = {:?}", branch.as_str()));
    let allow = if allow.is_empty() {
        "# allow = [\"http\"]           # transports that are not protected".to_owned()
    } else {
        let names: Vec<&str> = allow.iter().map(|transport| transport.name()).collect();
        format!("allow = {names:?}")
    };
    include_str!("host_file.toml")
        .replace("@BRANCH@", &branch)
        .replace("@URL@", &url)
        .replace("@ALLOW@", &allow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> crate::settings::Settings {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::below(folder.path());
        disk::make_folder(&layout.etc(), 0o755).unwrap();
        disk::write_atomic(&layout.host_file(), text.as_bytes(), 0o644).unwrap();
        Layers::read(&layout, Overrides::default()).unwrap().resolve().unwrap()
    }

    #[test]
    fn the_file_that_init_writes_says_what_was_given() {
        let branch = BranchName::parse("stable").unwrap();
        let settings = resolved(&host_file(Some("git://h/r.git"), Some(&branch), &[Transport::Git]));
        assert_eq!(settings.remote.url.unwrap().text, "git://h/r.git");
        assert_eq!(settings.branch, Some(branch));
    }

    #[test]
    fn every_default_in_the_file_that_init_writes_is_the_true_one() {
        let written = host_file(None, None, &[]);
        let uncommented: String = written
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !rest.contains("...") => format!("{rest}\n"),
                _ if line.starts_with('[') => format!("{line}\n"),
                _ => String::new(),
            })
            .collect();
        let (spelled, default) = (resolved(&uncommented), resolved(""));
        assert_eq!(spelled.keep, default.keep);
        assert_eq!(spelled.probe.deadline, default.probe.deadline);
        assert_eq!(spelled.probe.settle, default.probe.settle);
        assert_eq!(spelled.service.command, default.service.command);
        assert_eq!(spelled.service.stop_timeout, default.service.stop_timeout);
        assert_eq!(spelled.python.definitions, default.python.definitions);
        assert_eq!(spelled.python.deadline, default.python.deadline);
    }
}
