//! The remote as git gets it: a checked URL, and credentials that appear in no process list and no log.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use refresh_programs::process::{ProcessId, Program};
use refresh_programs::units;
use refresh_settings::{Remote, RemoteUrl, Transport};
use refresh_system::disk;
use refresh_system::environment;
use refresh_system::error::{Context as _, Failure, Outcome};
use refresh_system::text::quoted;

use super::{Git, allowing};

/// The name of the token among the secrets of a unit.
pub(super) const TOKEN: &str = "token";
/// The hidden command with which git requests the token from this program: `git-credential TOKEN_FILE USER OPERATION`.
pub(crate) const CREDENTIAL_COMMAND: &str = "git-credential";

/// Adds everything that a git program needs to reach the remote: the one allowed transport, credentials, proxy,
/// certificates, deadline and stall limit. Options of the sub-command must be added afterwards.
///
/// # Errors
/// The token file is missing, or others can read it.
pub(super) fn with_access_to_remote(
    git: &Git,
    mut program: Program,
    remote: &Remote,
    url: &RemoteUrl,
) -> Outcome<Program> {
    let mut settings = Vec::new();
    // A server may redirect to the same repository by https, which is always allowed.
    let transports = if url.transport == Transport::Http { "http:https" } else { url.transport.as_ref() };
    program = allowing(program, transports);
    for (name, value) in git.network() {
        program = program.env(name, value);
    }
    match url.transport {
        Transport::Https | Transport::Http => {
            settings.push("http.lowSpeedLimit=1".to_owned());
            settings.push(format!("http.lowSpeedTime={}", remote.stall.as_secs().max(1)));
            settings.push("http.followRedirects=initial".to_owned());
            if let Some(proxy) = &remote.proxy {
                // It may contain a password, which a command line would show to every user. git and curl check these
                // names before those in capitals; for an older git, the only other way is a file.
                let scheme = if url.transport == Transport::Https { "https_proxy" } else { "http_proxy" };
                program = program.env(scheme, proxy);
            }
            if let Some(file) = &remote.ca_file {
                settings.push(format!("http.sslCAInfo={}", file.display()));
            } else if let Some(file) = environment::variable("SSL_CERT_FILE") {
                settings.push(format!("http.sslCAInfo={file}"));
            }
            settings.extend(helper(git, remote, url)?);
        }
        Transport::Ssh => {
            program = program.env("GIT_SSH_COMMAND", ssh_command(remote)).env("GIT_SSH_VARIANT", "ssh");
        }
        Transport::Git | Transport::File => {}
    }
    for setting in settings {
        program = program.arg("-c").arg(setting);
    }
    Ok(program.deadline(remote.deadline).stall(remote.stall))
}

/// Returns the settings that make git request credentials from the right source, and for this host only: a redirect
/// elsewhere gets none.
fn helper(git: &Git, remote: &Remote, url: &RemoteUrl) -> Outcome<Vec<String>> {
    let host = url.text.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    let mut settings = vec!["credential.helper=".to_owned()];
    if let Some(file) = &remote.token_file {
        read_token(file)?;
        let own = git.runner().own_program();
        let own = if own == Path::new("/proc/self/exe") {
            // In the shell that starts the helper, "self" would be the shell.
            format!("/proc/{}/exe", ProcessId::own().pid)
        } else {
            own.display().to_string()
        };
        let user = remote.token_user.as_str();
        let command = [&own, CREDENTIAL_COMMAND, &file.display().to_string(), user].map(quoted).join(" ");
        settings.push(format!("credential.{host}.helper=!{command}"));
    } else if let Some(helper) = &remote.credential_helper {
        settings.push(format!("credential.{host}.helper={helper}"));
    }
    Ok(settings)
}

/// Returns the ssh command that git starts: no prompt, no configuration of the caller, and the remote host must be
/// known.
fn ssh_command(remote: &Remote) -> String {
    let mut words = vec!["ssh".to_owned(), "-F".to_owned(), "/dev/null".to_owned()];
    let seconds = remote.stall.as_secs().clamp(3, 60);
    let mut options = vec![
        "BatchMode=yes".to_owned(),
        "StrictHostKeyChecking=yes".to_owned(),
        format!("ConnectTimeout={seconds}"),
        format!("ServerAliveInterval={}", (seconds / 3).max(1)),
        "ServerAliveCountMax=3".to_owned(),
    ];
    if let Some(hosts) = &remote.known_hosts {
        options.push(format!("UserKnownHostsFile=\"{}\"", hosts.display()));
        options.push("GlobalKnownHostsFile=/dev/null".to_owned());
    }
    for option in options {
        words.push("-o".to_owned());
        words.push(option);
    }
    if let Some(key) = &remote.ssh_key {
        words.extend(["-o", "IdentitiesOnly=yes", "-i"].map(str::to_owned));
        words.push(key.display().to_string());
    }
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Answers git's request for credentials; `request` is git's output, one `key=value` for each line. Only `get` is
/// answered: this program never stores credentials that git passes.
///
/// # Errors
/// The token file is missing or empty, or others can read it.
pub fn answer_credential(operation: &str, request: &str, token_file: &Path, user: &str) -> Outcome<String> {
    let http = request.lines().any(|line| matches!(line, "protocol=https" | "protocol=http"));
    if operation != "get" || !http {
        return Ok(String::new());
    }
    let token = read_token(token_file)?;
    Ok(format!("username={user}\npassword={token}\n"))
}

/// Checks the token file without using its content.
///
/// # Errors
/// It is missing or empty, or others can read it.
pub(super) fn check_token(file: &Path) -> Outcome<()> {
    read_token(file).map(drop)
}

/// Reads the token; a file that others can read is refused. For a unit's own secrets, systemd controls who can read
/// them.
fn read_token(file: &Path) -> Outcome<String> {
    let shown = file.display();
    let found = std::fs::metadata(file).context(|| format!("the token file {shown} cannot be read"))?;
    let is_secret = units::credential(TOKEN).is_some_and(|secret| secret == file);
    if !is_secret && found.permissions().mode() & 0o077 != 0 {
        return Err(Failure::new(format!("others than its owner can read the token file {shown}"))
            .command("chmod 600", &[&file]));
    }
    let bytes = disk::read_if_there(file)?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| Failure::new(format!("{shown} does not hold text")))?;
    let token = text.trim();
    if token.is_empty() || token.contains(['\n', '\0']) {
        return Err(Failure::new(format!("the token file {shown} does not hold one line with a token")));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_for_get_only_and_never_from_a_file_that_others_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("token");
        disk::write_atomic(&file, b"s3cret\n", 0o600).unwrap();
        let request = "protocol=https\nhost=h\n";
        assert_eq!(answer_credential("get", request, &file, "u").unwrap(), "username=u\npassword=s3cret\n");
        assert_eq!(answer_credential("store", request, &file, "u").unwrap(), "");
        disk::set_mode(&file, 0o640).unwrap();
        assert!(answer_credential("get", request, &file, "u").is_err());
    }
}
