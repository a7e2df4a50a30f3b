//! `init`: brings a directory, or an existing installation, to the deployment contract. Never overwrites.

use std::path::Path;

use crate::cli::{InitArgs, LockArgs};
use crate::clock;
use crate::disk;
use crate::error::{Context as _, Failure, Outcome};
use crate::exit::{Ended, Error, Refusal};
use crate::installation::{Installation, as_typed};
use crate::process::Owner;
use crate::python::Current;
use crate::report::screen::say;
use crate::service::envfile::EnvFile;
use crate::service::probe;
use crate::settings::layers::{Layers, Overrides};
use crate::settings::layout::Layout;
use crate::settings::names::{BranchName, RunId};
use crate::settings::{RemoteUrl, Strategy, Transport};

use super::run::usual_branch;
use super::{lock, open};

/// Makes what is missing; tells of what is there that it was left as it is.
pub(super) fn init(layout: &Layout, args: &InitArgs) -> Result<Ended, Error> {
    let branch = args.branch.as_deref().map(BranchName::parse).transpose().map_err(Error::Usage)?;
    let allow = transports(&args.allow).map_err(Error::Usage)?;
    if let Some(url) = &args.repo {
        RemoteUrl::parse(url, &allow).map_err(Error::Usage)?;
    }
    let told = |failure| Refusal::of("init", failure);
    check_place(layout).map_err(told)?;
    folders(layout).map_err(told)?;
    let _lock = lock(layout, "init", None, &LockArgs { lock_timeout: 0 })?;
    files(layout, args, branch.as_ref(), &allow).map_err(told)?;

    let on = open(layout, "init")?;
    if on.settings.remote.url.is_none() {
        let hint = as_typed(layout, "ladylinux-refresh init --repo URL");
        return Err(told(Failure::new("no remote is set yet").hint(hint)));
    }
    let run = RunId::new(clock::now(), std::process::id());
    let branch = branch.unwrap_or_else(|| usual_branch(&on));
    let made = application(&on, &run, &branch).and_then(|()| environment(&on, &run));
    let released = on.mirror.release(&run);
    made.and(released).map_err(told)?;
    say(&format!("ready; refresh it with: {}", on.as_typed("ladylinux-refresh run")));
    Ok(Ended::Done)
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

fn folders(layout: &Layout) -> Outcome<()> {
    let mut wanted = vec![
        (layout.home(), 0o755),
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
    for (folder, mode) in wanted {
        if !folder.is_dir() {
            disk::make_folder(&folder, mode)?;
            say(&format!("made {}", folder.display()));
        }
    }
    Ok(())
}

fn files(layout: &Layout, args: &InitArgs, branch: Option<&BranchName>, allow: &[Transport]) -> Outcome<()> {
    let host = layout.host_file();
    if host.exists() {
        let now = Layers::read(layout, Overrides::default())?.resolve()?.remote.url;
        let differs = args.repo.as_ref().is_some_and(|url| now.is_none_or(|now| now.text != *url));
        let word = if differs { "; set its remote.url yourself if you want the new one" } else { "" };
        say(&format!("left {} as it is{word}", host.display()));
    } else {
        disk::write_atomic(&host, host_file(args.repo.as_deref(), branch, allow).as_bytes(), 0o644)?;
        say(&format!("wrote {}", host.display()));
    }
    let env_file = layout.env_file();
    if env_file.exists() {
        say(&format!("left {} as it is", env_file.display()));
    } else {
        let port = args.port.map_or(probe::DEFAULT_PORT, |port| port);
        let text = format!(
            "# Runtime configuration of the service; no refresh ever writes here.\nLADYLINUX_PORT={port}\n\
             LADYLINUX_DATA=\"{}\"\n",
            layout.data()[0].display()
        );
        disk::write_atomic(&env_file, text.as_bytes(), 0o640)?;
        disk::give(&env_file, &Owner::of(&layout.home())?)?;
        say(&format!("wrote {}", env_file.display()));
    }
    EnvFile::read(&env_file).map(|_| ())
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
