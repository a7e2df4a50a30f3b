//! The service's environment file: read, never changed; no value of it is printed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use refresh_system::error::Context as _;

use super::account::Account;
use super::{DoctorFinding, Examined, Findings, cleaning, edit, some_of};
use refresh_system::text::quoted;

/// Checks that it exists and that the service can read it.
pub(super) fn readable(examined: &Examined) -> Findings {
    let path = examined.layout.env_file();
    let shown = path.display().to_string();
    let found = match fs::metadata(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec![DoctorFinding::note(
                format!("{shown} is missing"),
                "the service runs with built-in defaults, and its port is unknown",
                examined.init(),
            )]);
        }
        found => found.context(|| format!("cannot read {shown}"))?,
    };
    let Some(owner) = examined.owner else { return Ok(Vec::new()) };
    let account = Account::of(owner, &examined.layout)?;
    if account.may(&found, 0o4) && path.ancestors().skip(1).all(|directory| account.may_enter(directory)) {
        return Ok(Vec::new());
    }
    Ok(vec![DoctorFinding::problem(
        format!(
            "uid {} cannot read {shown} (uid {}, mode {:04o})",
            owner.uid,
            found.uid(),
            found.mode() & 0o7777
        ),
        "the application reads it itself, and started manually or by the embedded supervisor it would run without its settings",
        format!("chgrp {} {1} && chmod g+r {1}", owner.gid, quoted(&shown)),
    )])
}

/// Checks that every line of it has the intended meaning.
pub(super) fn text(examined: &Examined) -> Findings {
    let file = examined.env_file()?;
    let shown = examined.layout.env_file().display().to_string();
    let mut found = Vec::new();
    if let Some(what) = &file.blemish {
        found.push(DoctorFinding::problem(
            format!("{shown} has {what}"),
            "not every program passes over them: the first variable gets another name, or a value ends in a carriage return",
            cleaning(std::slice::from_ref(&shown)),
        ));
    }
    let problems: Vec<String> = file.problems.iter().map(ToString::to_string).collect();
    if !problems.is_empty() {
        found.push(DoctorFinding::problem(
            format!("lines of {shown} that set no variable: {}", some_of(&problems)),
            "the service starts without these variables",
            edit(&examined.layout.env_file()),
        ));
    }
    Ok(found)
}

/// Checks that not all users can read secrets in it.
pub(super) fn secrets(examined: &Examined) -> Findings {
    let path = examined.layout.env_file();
    let file = examined.env_file()?;
    let secret = file.variables.iter().filter(|(name, value)| !value.is_empty() && names_a_secret(name));
    let names: Vec<String> = secret.map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mode = fs::metadata(&path).context(|| format!("cannot read {}", path.display()))?.mode();
    if mode & 0o004 == 0 {
        return Ok(Vec::new());
    }
    let shown = path.display().to_string();
    Ok(vec![DoctorFinding::note(
        format!("all users can read {shown}, which holds {}", some_of(&names)),
        "every user and every program of this machine can use them",
        format!("chmod o-rwx {}", quoted(&shown)),
    )])
}

/// Returns whether a variable's name indicates that its value is a secret.
fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let ends = ["TOKEN", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "KEY", "CREDENTIALS"];
    ends.iter().any(|end| name == *end || name.ends_with(&format!("_{end}"))) || name.contains("SECRET")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_recognized_by_their_names() {
        assert!(
            names_a_secret("OAUTH_TOKEN")
                && names_a_secret("GOOGLE_CLIENT_SECRET")
                && names_a_secret("api_key")
        );
        assert!(!names_a_secret("LADYLINUX_PORT") && !names_a_secret("KEYBOARD"));
    }
}
