//! The installation itself: its directories, its settings, whom they belong to.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::disk;
use crate::error::Context as _;
use crate::host::SERVICE_USER;
use crate::installation::Installation;
use crate::plan::preflight;
use crate::process::Owner;
use crate::report::shell::quoted;
use crate::settings::{own_state, trust};

use super::{Examined, Findings, Found, refused, some_of};

/// The directories of the deployment contract and of the tool are there.
pub(super) fn directories(examined: &Examined) -> Findings {
    let layout = &examined.layout;
    let mut wanted =
        vec![layout.home(), layout.app(), layout.environments(), layout.models(), layout.containers()];
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
    let what = if examined.is_installed() {
        "directories are missing"
    } else {
        "there is no complete installation here"
    };
    Ok(vec![Found::problem(
        format!("{what}: {}", some_of(&missing)),
        "a refresh works on the directories of the deployment contract and makes none of them",
        examined.init(),
    )])
}

/// The host's settings can be used.
pub(super) fn settings(examined: &Examined) -> Findings {
    let Some(failure) = &examined.unusable else {
        let (file, ignored) = (examined.layout.host_file(), trust::ignored(&examined.layout));
        let why = format!("settings decide what root does, so only {} counts", file.display());
        let note = |it: trust::Ignored| {
            Found::note(it.to_string(), &why, format!("rm {}", quoted(&it.path.to_string_lossy())))
        };
        return Ok(ignored.map(note).into_iter().collect());
    };
    // That is told by [`tool_files`].
    if trust::check(&examined.layout).is_err() {
        return Ok(Vec::new());
    }
    if super::is_denied(failure) {
        return Err(crate::error::Failure::new(failure.chain().join(": ")));
    }
    let mut found = Found::of(failure, "no run begins with settings that cannot be used");
    found.repair = format!("${{EDITOR:-vi}} {}", quoted(&examined.layout.host_file().display().to_string()));
    if let Some(hint) = failure.hints().first() {
        found.what = format!("{} ({hint})", found.what);
    }
    Ok(vec![found])
}

/// The dedicated user exists, and the application is not root's.
pub(super) fn service_user(examined: &Examined) -> Findings {
    if !examined.layout.is_real() {
        return Ok(Vec::new());
    }
    if Owner::named(SERVICE_USER)?.is_none() {
        return Ok(vec![Found::problem(
            format!("there is no user {SERVICE_USER}"),
            "the application and its environment belong to a user of their own, so that what they do is not done as root",
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

/// A remote is set.
pub(super) fn remote(_: &Examined, on: &Installation) -> Findings {
    refused(preflight::remote(on), "without it nothing can be fetched")
}

/// What root believes is in root's hands only.
pub(super) fn tool_files(examined: &Examined) -> Findings {
    let layout = &examined.layout;
    let why = "root does what these files say; who can change them decides what root does";
    if layout.is_real() || rustix::process::geteuid().is_root() {
        let loose = trust::loose(layout)?;
        if !loose.is_empty() {
            return Ok(loose.iter().map(|it| Found::problem(it.what(), why, it.repair())).collect());
        }
    }
    if rustix::process::geteuid().is_root() {
        let parts = own_state::foreign(layout)?;
        if !parts.is_empty() {
            return Ok(parts.iter().map(|part| Found::problem(part.what(), why, part.repair())).collect());
        }
    }
    let mut found = Vec::new();
    if !disk::is_directory(&layout.state())? {
        return Ok(found);
    }
    // Below a root everything belongs to whoever made the world.
    let owner = if layout.is_real() { 0 } else { Owner::of(&layout.state())?.uid };
    let mut believed = vec![layout.state()];
    if layout.host_file().exists() {
        believed.extend([layout.host_file(), layout.etc()]);
    }
    believed.extend([layout.environment_records(), layout.runs(), layout.supervisor()]);
    believed.extend([layout.status_file(), layout.deployed_env(), layout.fence(), layout.made_file()]);
    believed.push(layout.lock_file());
    if layout.is_real() {
        believed.push(layout.volatile());
    }
    for path in believed {
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata.context(|| format!("cannot look at {}", path.display()))?,
        };
        let path = path.display().to_string();
        let name = quoted(&path);
        if metadata.uid() != owner && metadata.uid() != 0 {
            let what = format!("{path} belongs to uid {}", metadata.uid());
            found.push(Found::problem(what, why, format!("chown {owner} {name}")));
        } else if metadata.mode() & 0o022 != 0 {
            let what = format!("others than its owner can change {path}");
            found.push(Found::problem(what, why, format!("chmod go-w {name}")));
        }
    }
    Ok(found)
}
