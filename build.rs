//! Puts commit and date of the source into the version, where the source is a repository. It reads git and writes nothing.
#![expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "a build script talks to cargo")]

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let built_from = built_from().unwrap_or_default();
    println!("cargo::rustc-env=LADYLINUX_REFRESH_BUILT_FROM={built_from}");
    // Tests start the program some ten thousand times, and the relocations of one that may lie anywhere are half of each
    // start. A release stays as the compiler makes it.
    if variable("PROFILE") == "debug" && variable("TARGET") == "x86_64-unknown-linux-gnu" {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Returns ` (COMMIT DATE)`; `None` without a repository that has this file in it.
fn built_from() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "build.rs"])?;
    // A development build keeps the commit that it was first built from: to watch the repository would compile everything
    // again after each commit. Cargo runs the script at each build if it watches a file that does not exist.
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    for name in ["HEAD", "logs/HEAD"].into_iter().filter(|_| is_release) {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let shown = git(&["show", "--no-patch", "--format=%h %ct", "--abbrev=10", "HEAD"])?;
    let (commit, committed) = shown.split_once(' ')?;
    let wanted = std::env::var("SOURCE_DATE_EPOCH").ok();
    let seconds: i64 = wanted.as_deref().unwrap_or(committed).parse().ok()?;
    Some(format!(" ({commit} {})", date(seconds)))
}

fn git(arguments: &[&str]) -> Option<String> {
    let directory = std::env::var_os("CARGO_MANIFEST_DIR")?;
    let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Returns the date in UTC of a time in seconds since 1970. Source: Howard Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.
fn date(seconds: i64) -> String {
    let days = seconds.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
