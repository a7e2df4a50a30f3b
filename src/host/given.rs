//! What `init` is told: by its command line, and by the host's file where that is there already.

use crate::error::{Context as _, Failure, Outcome};
use crate::process::Runner;
use crate::report::shell::quoted;
use crate::service::envfile::EnvFile;
use crate::service::probe;
use crate::settings::layers::{Layers, Overrides};
use crate::settings::layout::Layout;
use crate::settings::names::BranchName;
use crate::settings::trust;
use crate::settings::{RemoteUrl, Settings, Transport};
use crate::status_file;

use super::by_hand;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The URL of the repository.
    pub repo: Option<String>,
    /// The branch to deploy.
    pub branch: Option<BranchName>,
    /// Transports to allow besides https and ssh.
    pub allow: Vec<Transport>,
    /// The port for a new env file.
    pub port: Option<u16>,
    /// Whether the service gets a socket unit.
    pub has_socket: bool,
    /// Whether visitors get a page while the service is fenced.
    pub has_page: bool,
}

/// What was given, checked and laid together.
#[derive(Debug, Clone)]
pub struct Given {
    /// The text of the host's file: the one that is there, or the one to be written.
    pub(super) text: String,
    /// What that text means.
    pub(super) layers: Layers,
    /// The settings that follow.
    pub(super) settings: Settings,
    /// The branch to deploy.
    pub(super) branch: BranchName,
    /// The port for a new env file.
    pub(super) port: u16,
    /// Whether the service gets a socket unit.
    pub(super) has_socket: bool,
    /// Whether visitors get a page while the service is fenced.
    pub(super) has_page: bool,
}

impl Given {
    /// Lays what was given over what is there, which it must not contradict.
    ///
    /// # Errors
    /// A value cannot be used, or a file that is there says something else.
    pub fn settle(layout: &Layout, wish: &Wish, overrides: Overrides, runner: &Runner) -> Outcome<Self> {
        let text = settle_host_file(layout, wish)?;
        let layers = Layers::of_text(layout, &text, overrides)?;
        let settings = layers.resolve()?;
        if settings.remote.url.is_none() {
            let failure = Failure::new("no remote is set");
            return Err(match by_hand::origin(layout, runner) {
                None => failure.hint("ladylinux-refresh init --repo URL"),
                Some(url) => failure
                    .hint(format!(
                        "{}/.git names one, which is not believed without being told: is it this one?",
                        layout.app().display()
                    ))
                    .hint(format!("ladylinux-refresh init --repo {}", quoted(&url))),
            });
        }
        check_env_file(layout, wish.port, runner)?;
        let deployed = status_file::read(layout).deployed.map(|pair| pair.branch);
        let branch = wish.branch.clone().unwrap_or_else(|| settings.branch_to_follow(deployed));
        let port = wish.port.unwrap_or(probe::DEFAULT_PORT);
        let (has_socket, has_page) = (wish.has_socket, wish.has_page);
        Ok(Self { text, layers, settings, branch, port, has_socket, has_page })
    }
}

/// Returns the text of the host's file: the one that is there, which what was given must not contradict, or a new one.
fn settle_host_file(layout: &Layout, wish: &Wish) -> Outcome<String> {
    if let Some(url) = &wish.repo {
        RemoteUrl::parse(url, &wish.allow).map_err(|failure| {
            if failure.hints().iter().any(|hint| hint.contains("remote.allow")) {
                let name = url.split("://").next().unwrap_or_default();
                return Failure::new(failure.summary()).hint(format!(
                    "use https or ssh, or allow it: ladylinux-refresh init --repo {} --allow {name}",
                    quoted(url)
                ));
            }
            failure
        })?;
    }
    let path = layout.host_file();
    if path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        return Ok(host_file(wish));
    }
    let Some(bytes) = trust::host_file(layout)? else {
        return Ok(host_file(wish));
    };
    let text = String::from_utf8(bytes).context(|| format!("{} is not UTF-8", path.display()))?;
    let there = Layers::of_text(layout, &text, Overrides::default())?.resolve()?;
    let differs = |key: &str, given: &str| {
        Err(Failure::new(format!("{} is there and says something else than {given:?}", path.display()))
            .hint(format!("set {key} in it yourself; no command of this program changes it"))
            .hint("ladylinux-refresh init"))
    };
    match (&wish.repo, &there.remote.url) {
        (Some(url), Some(now)) if *url != now.text => return differs("url under [remote]", url),
        (Some(url), None) => return differs("url under [remote]", url),
        _ => {}
    }
    match (&wish.branch, &there.branch) {
        (Some(branch), Some(now)) if branch != now => return differs("branch", branch.as_str()),
        _ => {}
    }
    Ok(text)
}

/// A port that is given must be the one of the env file, where that is there already.
fn check_env_file(layout: &Layout, port: Option<u16>, runner: &Runner) -> Outcome<()> {
    let path = layout.env_file();
    let Some(port) = port.filter(|_| path.exists()) else { return Ok(()) };
    if probe::service_port(&EnvFile::read_at(layout, runner)?)? == port {
        return Ok(());
    }
    Err(Failure::new(format!("{} is there and names another port than {port}", path.display()))
        .hint("set LADYLINUX_PORT in it yourself; no command of this program changes it"))
}

/// The host's file as `init` puts it: what was given, and every other key as a comment with its default.
fn host_file(wish: &Wish) -> String {
    let url = wish
        .repo
        .as_ref()
        .map_or("# url = \"https://host/owner/repository.git\"".to_owned(), |url| format!("url = {url:?}"));
    let branch = wish
        .branch
        .as_ref()
        .map_or("# branch = \"main\"".to_owned(), |branch| format!("branch = {:?}", branch.as_str()));
    let allow = if wish.allow.is_empty() {
        "# allow = [\"http\"]           # transports that are not protected".to_owned()
    } else {
        let names: Vec<&str> = wish.allow.iter().map(|transport| transport.name()).collect();
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
    use crate::disk;

    fn resolved(text: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.etc(), 0o755).unwrap();
        disk::write_atomic(&layout.host_file(), text.as_bytes(), 0o644).unwrap();
        Layers::read(&layout, Overrides::default()).unwrap().resolve().unwrap()
    }

    #[test]
    fn the_file_that_init_writes_says_what_was_given() {
        let branch = BranchName::parse("stable").unwrap();
        let wish = Wish {
            repo: Some("git://h/r.git".to_owned()),
            branch: Some(branch.clone()),
            allow: vec![Transport::Git],
            port: None,
            has_socket: false,
            has_page: false,
        };
        let settings = resolved(&host_file(&wish));
        assert_eq!(settings.remote.url.unwrap().text, "git://h/r.git");
        assert_eq!(settings.branch, Some(branch));
    }

    #[test]
    fn every_default_in_the_file_that_init_writes_is_the_true_one() {
        let written = host_file(&Wish::default());
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
        assert_eq!(spelled.service.unit, default.service.unit);
        assert_eq!(spelled.service.command, default.service.command);
        assert_eq!(spelled.service.stop_timeout, default.service.stop_timeout);
        assert_eq!(spelled.service.allow_root_exec, default.service.allow_root_exec);
        assert_eq!(spelled.python.definitions, default.python.definitions);
        assert_eq!(spelled.python.deadline, default.python.deadline);
        assert_eq!(spelled.allowed_branches, default.allowed_branches);
        assert_eq!(spelled.security, default.security);
    }
}
