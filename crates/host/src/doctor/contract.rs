//! The installation itself: its directories, its settings, and their owners.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use refresh_installation::installation::Installation;
use refresh_run::plan::preflight;
use refresh_settings::users::SERVICE_USER;
use refresh_settings::{own_state, trust};
use refresh_system::disk;
use refresh_system::disk::Owner;
use refresh_system::error::Context as _;
use refresh_system::text::{quoted, quoted_path};

use super::{DoctorFinding, Examined, Findings, edit, refused, some_of};

/// Checks that the directories of the deployment contract and of the tool exist.
pub(super) fn directories(examined: &Examined) -> Findings {
    let layout = &examined.layout;
    let mut wanted = vec![layout.home(), layout.app(), layout.models(), layout.containers()];
    wanted.push(layout.etc());
    wanted.extend(layout.data());
    wanted.extend([layout.state(), layout.runs(), layout.environment_records()]);
    let mut missing = Vec::new();
    for path in wanted {
        if !disk::is_directory(&path)? {
            missing.push(path.display().to_string());
        }
    }
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let what =
        if examined.is_installed() { "directories are missing" } else { "the installation is not complete" };
    Ok(vec![DoctorFinding::problem(
        format!("{what}: {}", some_of(&missing)),
        "a refresh works in these directories and makes none of them",
        examined.init(),
    )])
}

/// Checks that the host's settings can be used.
pub(super) fn settings(examined: &Examined) -> Findings {
    let Some(failure) = &examined.unusable else {
        let (file, ignored) = (examined.layout.host_file(), trust::ignored(&examined.layout));
        let why = format!("settings decide what root does, so only {} counts", file.display());
        let note = |it: trust::Ignored| {
            DoctorFinding::note(it.to_string(), &why, format!("rm {}", quoted_path(&it.path)))
        };
        return Ok(ignored.map(note).into_iter().collect());
    };
    // [`tool_files`] reports that.
    if trust::check(&examined.layout).is_err() {
        return Ok(Vec::new());
    }
    if failure.is_denied() {
        return Err(refresh_system::error::Failure::new(failure.chain().join(": ")));
    }
    let mut found = DoctorFinding::of(failure, "no run begins with settings that cannot be used");
    found.repair = edit(&examined.layout.host_file());
    if let Some(hint) = failure.hints().first() {
        found.what = format!("{} ({hint})", found.what);
    }
    Ok(vec![found])
}

/// Checks that the dedicated user exists, and that the application does not belong to root.
pub(super) fn service_user(examined: &Examined) -> Findings {
    if !examined.layout.is_real() {
        return Ok(Vec::new());
    }
    if Owner::named(SERVICE_USER)?.is_none() {
        return Ok(vec![DoctorFinding::problem(
            format!("the user {SERVICE_USER} does not exist"),
            "the application needs its own user, so that it does not run as root",
            if examined.is_installed() {
                format!("useradd --system --user-group --shell /usr/sbin/nologin {SERVICE_USER}")
            } else {
                examined.init()
            },
        )]);
    }
    let Ok(on) = examined.opened() else { return Ok(Vec::new()) };
    refused(preflight::not_roots(on), "git, uv and hooks run as the owner of app/")
}

/// Checks that the dedicated user cannot log in.
pub(super) fn login(examined: &Examined) -> Findings {
    if !examined.layout.is_real() {
        return Ok(Vec::new());
    }
    let [passwd, _] = examined.layout.accounts();
    let text = disk::read_if_there(&passwd)?.unwrap_or_default();
    let note = |shell: String| {
        DoctorFinding::note(
            format!("{SERVICE_USER} can log in, with {shell}"),
            "it is the user of a service",
            format!("usermod --shell /usr/sbin/nologin {SERVICE_USER}"),
        )
    };
    Ok(login_shell(&String::from_utf8_lossy(&text)).map(note).into_iter().collect())
}

/// Returns the shell that the service user can log in with (passwd(5)).
fn login_shell(passwd: &str) -> Option<String> {
    let name = format!("{SERVICE_USER}:");
    let line = passwd.lines().find(|line| line.starts_with(&name))?;
    let shell = line.split(':').nth(6).filter(|shell| !shell.is_empty()).unwrap_or("/bin/sh");
    let program = shell.rsplit('/').next().unwrap_or_default();
    (!["nologin", "false", "true", "sync"].contains(&program)).then(|| shell.to_owned())
}

/// Checks that no scripts beside the working tree also refresh.
#[expect(clippy::unnecessary_wraps, reason = "every check answers in the same way")]
pub(super) fn other_scripts(examined: &Examined) -> Findings {
    let home = examined.layout.home();
    let mut scripts: Vec<String> = [home.join("scripts"), home]
        .iter()
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sh"))
        .map(|path| quoted_path(&path))
        .collect();
    scripts.sort();
    if scripts.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::note(
        format!("scripts exist beside the working tree: {}", some_of(&scripts)),
        "a script that stops, resets or installs bypasses the fence and the environments; remove what does",
        format!("less {}", scripts.join(" ")),
    )])
}

/// Checks that a remote is set.
pub(super) fn remote(_: &Examined, on: &Installation) -> Findings {
    let mut found = refused(preflight::remote(on), "without it no run can fetch")?;
    if on.mirror.path().exists()
        && let Some(url) = on.mirror.moved_to()?
    {
        let what =
            format!("the remote redirected the last fetch to {url}; set `url = \"{url}\"` under [remote]");
        let why = "a redirect ends one day, and then no run can fetch";
        found.push(DoctorFinding::note(what, why, edit(&on.layout.host_file())));
    }
    Ok(found)
}

/// Checks that only root can change the files that root trusts.
pub(super) fn tool_files(examined: &Examined) -> Findings {
    let layout = &examined.layout;
    let why = "root follows these files: anyone who can change them controls root";
    let is_root = rustix::process::geteuid().is_root();
    let mut untrusted = if layout.is_real() || is_root { trust::loose(layout)? } else { Vec::new() };
    if untrusted.is_empty() && is_root {
        untrusted = own_state::foreign(layout)?;
    }
    if !untrusted.is_empty() {
        let findings = untrusted.into_iter().map(|it| DoctorFinding::problem(it.what, why, it.repair));
        return Ok(findings.collect());
    }
    let mut found = Vec::new();
    if !disk::is_directory(&layout.state())? {
        return Ok(found);
    }
    // With --root everything belongs to the user who created the directory.
    let owner = if layout.is_real() { 0 } else { Owner::of(&layout.state())?.uid };
    let mut believed = vec![layout.state()];
    if layout.host_file().exists() {
        believed.extend([layout.host_file(), layout.etc()]);
    }
    believed.extend([layout.environment_records(), layout.runs(), layout.supervisor()]);
    believed.extend([
        layout.status_file(),
        layout.deployed_env(),
        layout.fence(),
        layout.hook_outputs_file(),
    ]);
    believed.push(layout.lock_file());
    if layout.is_real() {
        believed.push(layout.volatile());
    }
    for path in believed {
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.context(|| format!("cannot read {}", path.display()))?,
        };
        let path = path.display().to_string();
        let name = quoted(&path);
        if metadata.uid() != owner && metadata.uid() != 0 {
            let what = format!("{path} belongs to uid {}", metadata.uid());
            found.push(DoctorFinding::problem(what, why, format!("chown {owner} {name}")));
        } else if metadata.mode() & 0o022 != 0 {
            let what = format!("others than its owner can change {path}");
            found.push(DoctorFinding::problem(what, why, format!("chmod go-w {name}")));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_refuses_logins_is_no_login_shell() {
        let line = |shell: &str| format!("root:x:0:0:root:/root:/bin/bash\nladylinux:x:99:99::/x:{shell}\n");
        assert_eq!(login_shell(&line("/usr/sbin/nologin")), None);
        assert_eq!(login_shell(&line("/bin/false")), None);
        assert_eq!(login_shell(&line("/bin/bash")).as_deref(), Some("/bin/bash"));
        assert_eq!(login_shell(&line("")).as_deref(), Some("/bin/sh"), "an empty field is the usual shell");
    }
}
