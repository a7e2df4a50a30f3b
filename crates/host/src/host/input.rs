//! The input of `init`: its command line, and the host's file if it exists.

use std::ffi::OsStr;
use std::net::SocketAddr;

use refresh_installation::status_file;
use refresh_programs::process::Runner;
use refresh_programs::systemd::Bus;
use refresh_service::envfile::EnvFile;
use refresh_service::probe;
use refresh_settings::layers::{Layers, Overrides};
use refresh_settings::layout::Layout;
use refresh_settings::names::{BranchName, UnitName};
use refresh_settings::{RemoteUrl, Settings, Transport, trust};
use refresh_system::disk::Owner;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::hint::Hint;

use super::own_git::tree_of;
use super::socket_command;

/// The options of the command line.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// The URL of the repository.
    pub repo: Option<String>,
    /// The branch to deploy.
    pub branch: Option<BranchName>,
    /// Transports to allow besides https and ssh.
    pub allow: Vec<Transport>,
    /// The port for a new environment file.
    pub port: Option<u16>,
    /// Whether the service gets a socket unit.
    pub has_socket: bool,
    /// Whether visitors get a page while the service is fenced.
    pub has_page: bool,
    /// Whether the changes are only printed.
    pub is_dry_run: bool,
}

impl InitOptions {
    /// Returns the command with these options, this URL, and the transport that it needs.
    fn command(&self, url: &str, transport: Option<Transport>) -> Hint {
        let mut words = vec!["--repo".to_owned(), url.to_owned()];
        let more = transport.filter(|transport| !self.allow.contains(transport));
        for transport in self.allow.iter().chain(&more) {
            words.extend(["--allow".to_owned(), transport.as_ref().to_owned()]);
        }
        let branch = self.branch.iter().map(|branch| ("--branch", branch.to_string()));
        let port = self.port.iter().map(|port| ("--port", port.to_string()));
        words.extend(branch.chain(port).flat_map(|(option, value)| [option.to_owned(), value]));
        let flags =
            [("--socket", self.has_socket), ("--page", self.has_page), ("--dry-run", self.is_dry_run)];
        words.extend(flags.iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| (*flag).to_owned()));
        let words: Vec<&dyn AsRef<OsStr>> = words.iter().map(|word| word as &dyn AsRef<OsStr>).collect();
        Hint::command("ladylinux-refresh init", &words)
    }
}

/// Options and existing files, checked together.
#[derive(Debug, Clone)]
pub struct InitInput {
    /// The text of the host's file: the existing one, or the new one.
    pub(super) text: String,
    /// The settings in that text.
    pub layers: Layers,
    /// The resulting settings.
    pub(super) settings: Settings,
    /// The branch to deploy.
    pub branch: BranchName,
    /// The port for a new environment file.
    pub(super) port: u16,
    /// Whether the service gets a socket unit.
    pub(super) has_socket: bool,
    /// Whether visitors get a page while the service is fenced.
    pub(super) has_page: bool,
}

impl InitInput {
    /// Checks the options against the existing files.
    ///
    /// # Errors
    /// A value cannot be used, or an existing file has a different value.
    pub fn new(
        layout: &Layout,
        options: &InitOptions,
        overrides: Overrides,
        runner: &Runner,
    ) -> Outcome<Self> {
        let text = host_file_text(layout, options, runner)?;
        let layers = Layers::of_text(layout, &text, overrides)?;
        let settings = layers.resolve()?;
        if settings.remote.url.is_none() {
            let failure = Failure::new("no remote is set");
            return Err(match origin(layout, runner) {
                None => failure.command("ladylinux-refresh init --repo URL", &[]),
                Some(url) => {
                    let named = format!(
                        "{}/.git names one, which is used only if you confirm it:",
                        layout.app().display()
                    );
                    let transport = RemoteUrl::usable(&url).and_then(|(_, transport)| transport);
                    failure.hint(named).hint(options.command(&url, transport))
                }
            });
        }
        check_env_file(layout, options.port, runner)?;
        let deployed = status_file::read(layout).deployed.map(|pair| pair.branch);
        let branch = options.branch.clone().unwrap_or_else(|| settings.branch_to_follow(deployed));
        let port = options.port.unwrap_or(probe::DEFAULT_PORT);
        let (has_socket, has_page) = (options.has_socket, options.has_page);
        Ok(Self { text, layers, settings, branch, port, has_socket, has_page })
    }
}

/// Returns the URL of `origin` in `app/.git`, if it is valid as a setting: it may be any text, and may contain a
/// secret.
fn origin(layout: &Layout, runner: &Runner) -> Option<String> {
    let owner = Owner::of(&layout.app()).ok()?;
    let all = [Transport::Http, Transport::Git, Transport::File];
    let origin = tree_of(layout, runner, owner).ok()?.origin;
    let origin = origin?;
    match RemoteUrl::parse(&origin, &all) {
        Ok(_) => Some(origin),
        // Only the name of a user is in the way, which may be a secret.
        Err(_) if origin.contains("://") => RemoteUrl::usable(&origin).map(|(url, _)| url),
        Err(_) => None,
    }
}

/// Returns the text of the host's file: the existing one, which the options must not contradict, or a new one.
fn host_file_text(layout: &Layout, options: &InitOptions, runner: &Runner) -> Outcome<String> {
    let path = layout.host_file();
    let is_missing = path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    let Some(bytes) = (if is_missing { None } else { trust::host_file(layout)? }) else {
        check_url(options)?;
        return Ok(host_file(options, tls_address(layout, options, runner)?));
    };
    let text = String::from_utf8(bytes).context(|| format!("{} is not UTF-8", path.display()))?;
    let there = Layers::of_text(layout, &text, Overrides::default())?.resolve()?;
    let differs = |key: &str, given: &str| {
        Err(Failure::new(format!("{} exists and differs from {given:?}", path.display()))
            .hint(format!("set {key} in it yourself; no command of this program changes it"))
            .command("ladylinux-refresh init", &[]))
    };
    // The file contains the permission for the transport of its URL.
    if let Some(url) = &options.repo
        && there.remote.url.as_ref() != Some(url)
    {
        check_url(options)?;
        return differs("url under [remote]", url);
    }
    match (&options.branch, &there.branch) {
        (Some(branch), Some(now)) if branch != now => return differs("branch", branch.as_str()),
        _ => {}
    }
    Ok(text)
}

/// Checks the URL of the options, and that they allow its transport.
fn check_url(options: &InitOptions) -> Outcome<()> {
    let Some(url) = &options.repo else { return Ok(()) };
    let checked = RemoteUrl::parse(url, &options.allow).map(drop);
    checked.map_err(|failure| match RemoteUrl::usable(url) {
        Some((url, transport)) => {
            let refused = Failure::new(failure.summary());
            let refused = if options.repo.as_ref().is_some_and(|repo| repo.contains('@')) {
                failure.hints().into_iter().fold(refused, Failure::hint)
            } else {
                refused
            };
            let refused = match transport {
                Some(_) => refused.hint("use https or ssh if the repository has them, or allow this one"),
                None => refused,
            };
            refused.hint(options.command(&url, transport))
        }
        None => failure,
    })
}

/// Checks that the option `--port` equals the port in an existing environment file.
fn check_env_file(layout: &Layout, port: Option<u16>, runner: &Runner) -> Outcome<()> {
    let path = layout.env_file();
    let Some(port) = port.filter(|_| path.exists()) else { return Ok(()) };
    if probe::service_port(&EnvFile::read_at(layout, runner)?)? == port {
        return Ok(());
    }
    Err(Failure::new(format!("{} exists and has another port than {port}", path.display()))
        .hint("set LADYLINUX_PORT in it yourself; no command of this program changes it"))
}

/// Returns the address on which the service accepts TLS connections, if the command of its existing unit contains it.
fn tls_address(layout: &Layout, options: &InitOptions, runner: &Runner) -> Outcome<Option<SocketAddr>> {
    if !layout.is_real() || !refresh_programs::systemd::is_booted() {
        return Ok(None);
    }
    let command = Bus::connect()?.unit(UnitName::usual().as_str())?.command;
    let port = match options.port {
        Some(port) => port,
        None => probe::service_port(&EnvFile::read_at(layout, runner)?)?,
    };
    Ok(socket_command::tls_address(&command, port))
}

/// Returns the text of a new host file: the options, and every other key as a comment with its default.
fn host_file(options: &InitOptions, tls: Option<SocketAddr>) -> String {
    let url = options
        .repo
        .as_ref()
        .map_or("# url = \"https://host/owner/repository.git\"".to_owned(), |url| format!("url = {url:?}"));
    let branch = options
        .branch
        .as_ref()
        .map_or("# branch = \"main\"".to_owned(), |branch| format!("branch = {:?}", branch.as_str()));
    let allow = if options.allow.is_empty() {
        "# allow = [\"http\"]           # transports that are not protected".to_owned()
    } else {
        let names: Vec<&str> = options.allow.iter().map(AsRef::as_ref).collect();
        format!("allow = {names:?}")
    };
    let probe = tls.map_or("# url = \"https://...\"".to_owned(), |address| {
        format!("url = \"https://{address}/\"    # the certificate is not checked without ca_file")
    });
    include_str!("host_file.toml")
        .replace("@PROBE@", &probe)
        .replace("@BRANCH@", &branch)
        .replace("@URL@", &url)
        .replace("@ALLOW@", &allow)
}

#[cfg(test)]
mod tests {
    use super::*;
    use refresh_system::disk;

    fn resolved(text: &str) -> Settings {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::below(directory.path());
        disk::make_directory(&layout.etc(), 0o755).unwrap();
        disk::write_atomic(&layout.host_file(), text.as_bytes(), 0o644).unwrap();
        Layers::read(&layout, Overrides::default()).unwrap().resolve().unwrap()
    }

    #[test]
    fn the_file_that_init_writes_contains_the_options_of_init() {
        let branch = BranchName::parse("stable").unwrap();
        let options = InitOptions {
            repo: Some("git://h/r.git".to_owned()),
            branch: Some(branch.clone()),
            allow: vec![Transport::Git],
            port: None,
            has_socket: false,
            has_page: false,
            is_dry_run: false,
        };
        let settings = resolved(&host_file(&options, Some(SocketAddr::from(([127, 0, 0, 1], 8443)))));
        assert_eq!(settings.probe.url.as_deref(), Some("https://127.0.0.1:8443/"));
        assert_eq!(settings.remote.url.unwrap(), "git://h/r.git");
        assert_eq!(settings.branch, Some(branch));
    }

    #[test]
    fn every_default_in_the_file_that_init_writes_is_correct() {
        let written = host_file(&InitOptions::default(), None);
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
        assert_eq!(spelled.python.patterns(), default.python.patterns());
        assert_eq!(spelled.python.deadline, default.python.deadline);
        assert_eq!(spelled.allowed_branches, default.allowed_branches);
        assert_eq!(spelled.security, default.security);
    }
}
